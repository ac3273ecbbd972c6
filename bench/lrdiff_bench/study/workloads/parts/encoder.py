"""A BERT encoder whose parameters have the names of published files, for fine-tuning on short texts.

Rows are packed: all tokens of a batch stand one after the other, so that linear layers, which take nearly all the time,
compute nothing for padding. Attention alone sees padded rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Adapted", "Encoder", "EncoderSizes", "Packed", "TextClassifier", "add_adapters", "pack"]

EPSILON = 1e-12  # of BERT's layer norms


@dataclass(frozen=True, kw_only=True)
class EncoderSizes:
    """Of a BERT encoder."""

    tokens: int
    places: int
    width: int
    inner: int
    heads: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of tokens without padding.

    Attributes:
        tokens: [total] of all rows, one after the other.
        places: [total] of each token in its row, from 0.
        row: [total] of each token.
        rows, longest: how many rows, and the length of the longest.
        unseen: [rows, 1, 1, longest] minus infinity where a row has no token.
    """

    tokens: Tensor
    places: Tensor
    row: Tensor
    rows: int
    longest: int
    unseen: Tensor

    def padded(self, values: Tensor) -> Tensor:
        """[total, width] as [rows, longest, width], with zeros where a row has no token."""
        whole = values.new_zeros(self.rows * self.longest, values.shape[1])
        return whole.index_copy(0, self._at, values).view(self.rows, self.longest, -1)

    def packed(self, values: Tensor) -> Tensor:
        """The inverse of :meth:`padded`."""
        return values.reshape(self.rows * self.longest, -1).index_select(0, self._at)

    @property
    def _at(self) -> Tensor:
        return self.row * self.longest + self.places


def pack(rows: Sequence[Tensor]) -> Packed:
    """Pack rows of token numbers, each [length].

    Example:
        >>> packed = pack([torch.tensor([5, 6, 7]), torch.tensor([8])])
        >>> packed.places.tolist(), packed.row.tolist(), packed.longest
        ([0, 1, 2, 0], [0, 0, 0, 1], 3)
    """
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    seen = torch.arange(longest) < lengths[:, None]
    row, places = seen.nonzero(as_tuple=True)
    unseen = torch.zeros(len(rows), longest).masked_fill(~seen, -torch.inf)[:, None, None]
    return Packed(
        tokens=torch.cat(list(rows)), places=places, row=row, rows=len(rows), longest=longest, unseen=unseen
    )  # fmt: skip


class Encoder(nn.Module):
    """Embeddings and layers of BERT (Devlin et al. 2018, arXiv:1810.04805), without dropout.

    Args:
        sizes: of it.
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(sizes.tokens, sizes.width),
                "position_embeddings": nn.Embedding(sizes.places, sizes.width),
                "token_type_embeddings": nn.Embedding(2, sizes.width),
                "LayerNorm": nn.LayerNorm(sizes.width, eps=EPSILON),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))})

    def forward(self, batch: Packed) -> Tensor:
        """The last layer's output for every token, [total, width]."""
        parts = self.embeddings
        values = parts["word_embeddings"](batch.tokens) + parts["position_embeddings"](batch.places)
        values = parts["LayerNorm"](values + parts["token_type_embeddings"](torch.zeros_like(batch.tokens)))
        for layer in self.encoder["layer"]:  # type: ignore[attr-defined]
            values = layer(values, batch)
        return values


class _Layer(nn.Module):
    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        width, inner = sizes.width, sizes.inner
        self.heads = sizes.heads
        own = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(own), "output": _output(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _output(inner, width)

    def forward(self, values: Tensor, batch: Packed) -> Tensor:
        query, key, value = (
            batch.padded(part(values)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attention["self"].values()  # type: ignore[operator]
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=batch.unseen)
        values = _added(self.attention["output"], batch.packed(seen.transpose(1, 2)), values)
        return _added(self.output, functional.gelu(self.intermediate["dense"](values)), values)


def _output(inputs: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inputs, width), "LayerNorm": nn.LayerNorm(width, eps=EPSILON)})


def _added(parts: nn.Module, inner: Tensor, values: Tensor) -> Tensor:
    assert isinstance(parts, nn.ModuleDict)
    added: Tensor = parts["LayerNorm"](parts["dense"](inner) + values)
    return added


class TextClassifier(nn.Module):
    """An encoder, the mean over the tokens of a row, and a linear head with one logit.

    Args:
        sizes: of the encoder.
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.head = nn.Linear(sizes.width, 1)

    def forward(self, batch: Packed) -> Tensor:
        """Logits, [rows]."""
        values = self.encoder(batch)
        counts = torch.bincount(batch.row, minlength=batch.rows)
        mean = values.new_zeros(batch.rows, values.shape[1]).index_add(0, batch.row, values) / counts[:, None]
        logits: Tensor = self.head(mean).squeeze(1)
        return logits


class Adapted(nn.Module):
    """A linear layer that is frozen, and two factors beside it that learn: ``W x + b + B (A x)``.

    Hu et al. 2021, arXiv:2106.09685, with a scale of 1; B starts at zero.

    Args:
        frozen: the layer.
        rank: of the factors.
    """

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen
        bound = frozen.in_features**-0.5  # as linear layers are drawn
        self.A = nn.Parameter(torch.empty(rank, frozen.in_features).uniform_(-bound, bound))
        self.B = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, values: Tensor) -> Tensor:
        """[total, width] to [total, width]."""
        changed: Tensor = self.frozen(values) + values @ self.A.T @ self.B.T
        return changed


def add_adapters(model: TextClassifier, rank: int) -> TextClassifier:
    """Freeze the encoder, and put adapters at query and value of every layer, where LoRA has them."""
    model.encoder.requires_grad_(False)
    for layer in model.encoder.modules():
        if isinstance(layer, _Layer):
            own = layer.attention["self"]
            assert isinstance(own, nn.ModuleDict)
            for name in ("query", "value"):
                linear = own[name]
                assert isinstance(linear, nn.Linear)
                own[name] = Adapted(linear, rank)
    return model
