"""Models of steps and of words; those of transformers in their smallest configurations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(6, 12, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, 1)

    def forward(self, steps: Tensor) -> Tensor:
        return self.head(self.cells(steps)[0][:, -1])


class Stateful(nn.Module):
    """A two-layer BiLSTM whose states go in and come out, batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, steps: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous()
        found, (hidden, cell) = self.cells(steps, states)
        return found, hidden.transpose(0, 1), cell.transpose(0, 1)


class Encoder(nn.Module):
    """A transformer encoder over tokens with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
        return self.encoder(self.table(ids), src_key_padding_mask=~keep)


class AnyLength(nn.Module):
    """Causal convolution and attention over steps of any number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 16, 3)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, steps: Tensor) -> Tensor:
        inside = torch.relu(self.conv(nn.functional.pad(steps.transpose(1, 2), (2, 0)))).transpose(1, 2)
        return self.head(inside + self.attention(inside, inside, inside, need_weights=False)[0])


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    )


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_positions=32, n_embd=32, n_layer=2, n_head=4, use_cache=False))


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**shape, use_cache=False, decoder_start_token_id=0))
