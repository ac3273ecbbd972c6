"""Architectures of the kinds that people ship, each a small honest instance with random, seeded weights and rows.

For the development tools that ask what the export makes of them: :mod:`benchmarks.export_models` (which are converted,
verified and in parity, at what cost) and :mod:`benchmarks.mutate_exports` (whether faults planted in their files are
found).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lrdiff_export.examples import ZOO, Sample

__all__ = ["ARCHITECTURES", "Architecture"]

ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Architecture(Sample):
    """A model with rows, and what has to be said for its export.

    Attributes:
        options: of :func:`lrdiff_export.export`.
        kept: made of the smallest instances of its kind, on which hundreds of mutants can be tried.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    kept: bool = True


def _with_statistics(module: nn.Module) -> nn.Module:
    """Give batch norms statistics as after training."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.uniform_(-0.3, 0.3)
            part.running_var.uniform_(0.5, 2.0)
    return module


class WideAndDeep(nn.Module):
    """Crossed categories beside a network over their embeddings, as in Cheng et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Embedding(20 * 12, 1)
        self.first, self.second = nn.Embedding(20, 6), nn.Embedding(12, 4)
        self.deep = nn.Sequential(nn.Linear(15, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, numbers: Tensor, user: Tensor, item: Tensor) -> Tensor:
        deep = self.deep(torch.cat([numbers, self.first(user), self.second(item)], dim=1))
        return torch.sigmoid(self.wide(user * 12 + item) + deep)


class CategoryColumns(nn.Module):
    """A table whose last two columns are category codes in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(9, 4), nn.Embedding(5, 3)])
        self.body = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, rows: Tensor) -> Tensor:
        codes = rows[:, 6:].long()
        embedded = [table(codes[:, index]) for index, table in enumerate(self.tables)]
        return self.body(torch.cat([rows[:, :6], *embedded], dim=1))


class DLRM(nn.Module):
    """Bags of embeddings and products of all pairs, as in Naumov et al. 2019."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
        self.tables = nn.ModuleList(nn.Embedding(30, 8) for _ in range(3))
        self.top = nn.Sequential(nn.Linear(8 + 6, 16), nn.ReLU(), nn.Linear(16, 1))
        self.register_buffer("pairs", torch.triu_indices(4, 4, 1), persistent=False)

    def forward(self, numbers: Tensor, bags: Tensor) -> Tensor:  # [batch, 5], [batch, 3, 4]
        bottom = self.bottom(numbers)
        bagged = [table(bags[:, index]).sum(dim=1) for index, table in enumerate(self.tables)]
        every = torch.stack([bottom, *bagged], dim=1)
        products = every @ every.transpose(1, 2)
        return torch.sigmoid(self.top(torch.cat([bottom, products[:, self.pairs[0], self.pairs[1]]], dim=1)))


class MeanOfTokens(nn.Module):
    """A bag of token embeddings, weighted by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 12, padding_idx=0)
        self.head = nn.Linear(12, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(2)
        mean = (self.table(ids) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return nn.functional.log_softmax(self.head(mean), dim=1)


class MixtureOfExperts(nn.Module):
    """Two of four experts for each row, weighted by their gates."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4))

    def forward(self, rows: Tensor) -> Tensor:
        weights, chosen = self.gate(rows).topk(2, dim=1)
        every = torch.stack([expert(rows) for expert in self.experts], dim=1)
        picked = every.gather(1, chosen.unsqueeze(2).expand(-1, -1, 8))
        return (torch.softmax(weights, dim=1).unsqueeze(2) * picked).sum(dim=1)


class Residual(nn.Module):
    """The basic block of ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        plain = stride == 1 and inputs == outputs
        self.short = (
            nn.Identity()
            if plain
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.norms[1](self.second(torch.relu(self.norms[0](self.first(maps)))))
        return torch.relu(inside + self.short(maps))


def resnet(widths: tuple[int, ...] = (64, 128, 256, 512), depth: int = 2, classes: int = 1000) -> nn.Module:
    """ResNet-18 of He et al. 2016 with the usual widths; smaller ones of the same build."""
    parts: list[nn.Module] = [
        nn.Conv2d(3, widths[0], 7, 2, 3, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(depth):
            parts.append(Residual(before, width, 2 if stage and not block else 1))
            before = width
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return _with_statistics(nn.Sequential(*parts))


class Inverted(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze and excite, project."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 3 * width
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.ReLU(), nn.Conv2d(8, wide, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.depth(self.expand(maps))
        return maps + self.project(inside * self.squeeze(inside))


def mobilenet() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return _with_statistics(nn.Sequential(*stem, Inverted(8), Inverted(8), *head))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, layer norm, inverted bottleneck, layer scale: Liu et al. 2022."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.norm(self.depth(maps).permute(0, 2, 3, 1))
        return maps + (self.gamma * self.project(nn.functional.gelu(self.expand(inside)))).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 4, 4), ConvNeXtBlock(12), ConvNeXtBlock(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LayerNorm(12), nn.Linear(12, 5),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels down and up again, with skips: Ronneberger et al. 2015."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList([self._block(1, width), self._block(width, 2 * width)])
        self.bottom = self._block(2 * width, 4 * width)
        self.rise = nn.ModuleList(
            [nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)]
        )
        self.up = nn.ModuleList([self._block(4 * width, 2 * width), self._block(2 * width, width)])
        self.head = nn.Conv2d(width, 2, 1)
        _with_statistics(self)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        first = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*first, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        kept, maps = [], images
        for block in self.down:
            maps = block(maps)
            kept.append(maps)
            maps = nn.functional.max_pool2d(maps, 2)
        maps = self.bottom(maps)
        for rise, block in zip(self.rise, self.up, strict=True):
            maps = block(torch.cat([kept.pop(), rise(maps)], dim=1))
        return self.head(maps)


class ViT(nn.Module):
    """Patches, a class token, positions, an encoder: Dosovitskiy et al. 2021."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        every = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1) + self.places
        return self.head(self.encoder(every)[:, 0])


class Detector(nn.Module):
    """The ten best of 64 boxes, with the overlaps of all pairs, and those that non-maximum suppression keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.scores, self.boxes = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.body(images)
        scores, order = torch.sigmoid(self.scores(maps)).flatten(1).topk(10, dim=1)
        boxes = self.boxes(maps).flatten(2).transpose(1, 2)
        boxes = boxes.gather(1, order.unsqueeze(2).expand(-1, -1, 4))
        corner, size = boxes[..., :2], torch.exp(boxes[..., 2:])
        low = torch.maximum(corner.unsqueeze(2), corner.unsqueeze(1))
        high = torch.minimum((corner + size).unsqueeze(2), (corner + size).unsqueeze(1))
        shared = (high - low).clamp(min=0).prod(dim=3)
        area = size.prod(dim=2)
        overlap = shared / (area.unsqueeze(2) + area.unsqueeze(1) - shared)
        worse = (overlap > 0.5) & torch.ones(10, 10, dtype=torch.bool).tril(-1)
        return scores, torch.cat([corner, size], dim=2), ~worse.any(dim=2)


class Picture(nn.Module):
    """A filter whose picture is rounded to bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return (torch.sigmoid(self.filter(images / 255)) * 255).round().clamp(0, 255).to(torch.uint8)


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


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    )


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_positions=32, n_embd=32, n_layer=2, n_head=4, use_cache=False))


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**shape, use_cache=False, decoder_start_token_id=0))


class GraphNet(nn.Module):
    """Two rounds of messages along the edges of one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(16, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:  # [nodes, 6], [2, edges]
        inside = torch.relu(self.first(self._gathered(nodes, edges)))
        return self.second(self._gathered(inside, edges))

    @staticmethod
    def _gathered(nodes: Tensor, edges: Tensor) -> Tensor:
        return torch.cat([nodes, torch.zeros_like(nodes).index_add(0, edges[1], nodes[edges[0]])], dim=1)


class VAE(nn.Module):
    """An autoencoder whose evaluation takes the mean of the latent variable."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 8))
        self.decode = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 16))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encode(rows).chunk(2, dim=1)
        drawn = mean + torch.exp(spread / 2) * torch.randn_like(mean) if self.training else mean
        return self.decode(drawn), mean, spread


class Codebook(nn.Module):
    """The nearest of 32 code words, as in van den Oord et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(10, 6), nn.Linear(6, 10)
        self.words = nn.Parameter(torch.randn(32, 6))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        found = self.encode(rows)
        distance = found.square().sum(1, keepdim=True) - 2 * found @ self.words.T + self.words.square().sum(1)
        chosen = distance.argmin(dim=1)
        return self.decode(nn.functional.embedding(chosen, self.words)), chosen


class Conditional(nn.Module):
    """One of two branches, by the size of the whole batch's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.calm, self.wild = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.cond(rows.abs().mean() > 1.0, lambda x: torch.tanh(self.wild(x)), lambda x: self.calm(x), (rows,))


class Counting(nn.Module):
    """A buffer that counts calls, and that the answer does not depend on."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def forward(self, rows: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(rows)


class Answers(NamedTuple):
    """What :class:`Structured` gives."""

    scores: Tensor
    attention: Tensor | None


@dataclass
class Fields:
    """What :class:`WithDataclass` gives."""

    scores: Tensor
    hidden: Tensor | None = None


class Structured(nn.Module):
    """A tuple of which one entry is None."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Answers:
        return Answers(self.linear(rows), None)


class WithDataclass(Structured):
    """A dataclass of which one field is None."""

    def forward(self, rows: Tensor) -> Fields:  # type: ignore[override]
        return Fields(scores=self.linear(rows))


class Tempered(nn.Module):
    """Probabilities at a temperature, which is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, rows: Tensor, temperature: Tensor) -> Tensor:
        return torch.softmax(self.linear(rows) / temperature, dim=-1)


def _weight_norm() -> nn.Module:
    layers = [parametrizations.weight_norm(nn.Linear(8, 16)), nn.ELU(), parametrizations.weight_norm(nn.Linear(16, 2))]
    return nn.Sequential(*layers)


class LoRA(nn.Module):
    """A frozen layer with an update of low rank: Hu et al. 2022."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 16) / 4), nn.Parameter(torch.randn(16, 2) / 4)
        self.head = nn.Linear(16, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(torch.relu(self.frozen(rows) + 2.0 * (rows @ self.down.T @ self.up.T)))


class Ranged(nn.Module):
    """A module that refuses pixels outside 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, images: Tensor) -> Tensor:
        assert ((images >= 0) & (images <= 1)).all(), "pixels must lie between 0 and 1"
        return self.body(images)


class Half(nn.Module):
    """Weights and arithmetic in float16, answers in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).half()

    def forward(self, rows: Tensor) -> Tensor:
        return self.body(rows.half()).float()


def _bfloat16() -> nn.Module:
    layers = [nn.Embedding(40, 8), nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).bfloat16()


def _random(*shape: int, low: float | None = None, high: float = 1.0) -> np.ndarray:
    drawn = np.random.default_rng(0)
    values = drawn.standard_normal(shape) if low is None else drawn.uniform(low, high, shape)
    return values.astype(np.float32)


def _integers(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, high, size=shape)


def _lengths(rows: int, time: int) -> np.ndarray:
    """[rows, time], true up to a length of one at least."""
    return np.arange(time) < np.random.default_rng(2).integers(1, time + 1, size=(rows, 1))


def _plain(make: Callable[[], nn.Module], **rows: np.ndarray) -> Architecture:
    return Architecture(make=make, rows=rows)


def _images(count: int, size: int, low: float | None = None, high: float = 1.0) -> np.ndarray:
    return _random(count, 3, size, size, low=low, high=high)


_TOKENS = {"input_ids": _integers(99, ROWS, 12), "attention_mask": _lengths(ROWS, 12).astype(np.int64)}
_ZOO = ZOO["main, multi-class"]

ARCHITECTURES: dict[str, Architecture] = {
    "MLP with preprocessing": Architecture(make=_ZOO.make, rows=_ZOO.rows, outputs=_ZOO.outputs),
    "category codes in float columns": _plain(
        CategoryColumns,
        rows=np.concatenate([_random(ROWS, 6), *(_integers(n, ROWS, 1).astype(np.float32) for n in (9, 5))], axis=1),
    ),
    "wide & deep": _plain(WideAndDeep, numbers=_random(ROWS, 5), user=_integers(20, ROWS), item=_integers(12, ROWS)),
    "DLRM": _plain(DLRM, numbers=_random(ROWS, 5), bags=_integers(30, ROWS, 3, 4)),
    "mean of masked embeddings": _plain(
        MeanOfTokens, ids=_integers(50, ROWS, 9), mask=_lengths(ROWS, 9).astype(np.float32)
    ),
    "mixture of experts": _plain(MixtureOfExperts, rows=_random(ROWS, 8)),
    "small ResNet": _plain(lambda: resnet((8, 16), 1, 10), images=_images(32, 32)),
    "ResNet-18 at 64": Architecture(make=resnet, rows={"images": _images(8, 64)}, kept=False),
    "ResNet-18 at 224": Architecture(make=resnet, rows={"images": _images(4, 224)}, kept=False),
    "MobileNet blocks": _plain(mobilenet, images=_images(32, 24)),
    "ConvNeXt blocks": _plain(convnext, images=_images(32, 24)),
    "U-Net": Architecture(make=UNet, rows={"images": _random(16, 1, 32, 32)}, kept=False),
    "ViT": _plain(ViT, images=_images(32, 32)),
    "detection head": Architecture(
        make=Detector, rows={"images": _images(ROWS, 32)}, outputs=("scores", "boxes", "keep")
    ),
    "picture to uint8": _plain(Picture, images=_images(16, 32, 0.0, 255.0)),
    "LSTM": _plain(lambda: Recurrent(nn.LSTM), steps=_random(ROWS, 9, 6)),
    "GRU": _plain(lambda: Recurrent(nn.GRU), steps=_random(ROWS, 9, 6)),
    "BiLSTM, states in and out": Architecture(
        make=Stateful,
        rows={"steps": _random(ROWS, 7, 6), "hidden": _random(ROWS, 4, 8), "cell": 2 * _random(ROWS, 4, 8)},
        outputs=("found", "next_hidden", "next_cell"),
    ),
    "transformer encoder with mask": _plain(Encoder, ids=_integers(40, ROWS, 8), keep=_lengths(ROWS, 8)),
    "BERT": Architecture(make=_bert, rows=_TOKENS, outputs=("last_hidden_state", "pooler_output")),
    "GPT-2": Architecture(make=_gpt2, rows=_TOKENS, outputs=("logits",)),
    "T5": Architecture(make=_t5, rows={**_TOKENS, "decoder_input_ids": _integers(99, ROWS, 6)}, outputs=("logits",)),
    "VAE": Architecture(make=VAE, rows={"rows": _random(ROWS, 16)}, outputs=("rebuilt", "mean", "spread")),
    "VQ codebook": Architecture(make=Codebook, rows={"rows": _random(ROWS, 10)}, outputs=("rebuilt", "word")),
    "torch.cond": _plain(Conditional, rows=_random(ROWS, 6)),
    "buffer updated in forward": _plain(Counting, rows=_random(ROWS, 6)),
    "named tuple with None": Architecture(make=Structured, rows={"rows": _random(ROWS, 6)}, outputs=("scores",)),
    "dataclass with None": Architecture(make=WithDataclass, rows={"rows": _random(ROWS, 6)}, outputs=("scores",)),
    "weight norm": _plain(_weight_norm, rows=_random(ROWS, 8)),
    "LoRA": _plain(LoRA, rows=_random(ROWS, 16)),
    "asserts its input range": _plain(Ranged, images=_random(ROWS, 3, 4, 4, low=0.0)),
    "float16 weights": _plain(Half, rows=_random(ROWS, 8)),
    "bfloat16 weights": _plain(_bfloat16, ids=_integers(40, ROWS, 6)),
    "sequence of any length": Architecture(
        make=AnyLength, rows={"steps": _random(ROWS, 9, 6)}, options={"dynamic_axes": {"steps": {1: "time"}}}
    ),
    "images of any size": Architecture(
        make=convnext,
        rows={"images": _images(32, 24)},
        options={"dynamic_axes": {"images": {2: "height", 3: "width"}}},
    ),
    "GNN, edges without a batch": Architecture(
        make=GraphNet,
        rows={"nodes": _random(16, 10, 6), "edges": _integers(10, 16, 2, 24)},
        options={"batched": False, "dynamic_axes": {"nodes": {0: "nodes"}, "edges": {1: "edges"}}},
    ),
    "a number beside the batch": Architecture(
        make=Tempered,
        rows={"rows": _random(16, 5, 6), "temperature": _random(16, low=0.5, high=2.0)},
        options={"batched": False, "dynamic_axes": {"rows": {0: "batch"}}},
    ),
}
