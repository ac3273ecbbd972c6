"""The architectures by name, each with rows and with what has to be said for its export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from benchmarks.export_architectures import others, sequences, tables, vision
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
        tables.CategoryColumns,
        rows=np.concatenate([_random(ROWS, 6), *(_integers(n, ROWS, 1).astype(np.float32) for n in (9, 5))], axis=1),
    ),
    "wide & deep": _plain(
        tables.WideAndDeep, numbers=_random(ROWS, 5), user=_integers(20, ROWS), item=_integers(12, ROWS)
    ),
    "DLRM": _plain(tables.DLRM, numbers=_random(ROWS, 5), bags=_integers(30, ROWS, 3, 4)),
    "mean of masked embeddings": _plain(
        tables.MeanOfTokens, ids=_integers(50, ROWS, 9), mask=_lengths(ROWS, 9).astype(np.float32)
    ),
    "mixture of experts": _plain(tables.MixtureOfExperts, rows=_random(ROWS, 8)),
    "small ResNet": _plain(lambda: vision.resnet((8, 16), 1, 10), images=_images(32, 32)),
    "ResNet-18 at 64": Architecture(make=vision.resnet, rows={"images": _images(8, 64)}, kept=False),
    "ResNet-18 at 224": Architecture(make=vision.resnet, rows={"images": _images(4, 224)}, kept=False),
    "MobileNet blocks": _plain(vision.mobilenet, images=_images(32, 24)),
    "ConvNeXt blocks": _plain(vision.convnext, images=_images(32, 24)),
    "U-Net": Architecture(make=vision.UNet, rows={"images": _random(16, 1, 32, 32)}, kept=False),
    "ViT": _plain(vision.ViT, images=_images(32, 32)),
    "detection head": Architecture(
        make=vision.Detector, rows={"images": _images(ROWS, 32)}, outputs=("scores", "boxes", "keep")
    ),
    "picture to uint8": _plain(vision.Picture, images=_images(16, 32, 0.0, 255.0)),
    "LSTM": _plain(lambda: sequences.Recurrent(nn.LSTM), steps=_random(ROWS, 9, 6)),
    "GRU": _plain(lambda: sequences.Recurrent(nn.GRU), steps=_random(ROWS, 9, 6)),
    "BiLSTM, states in and out": Architecture(
        make=sequences.Stateful,
        rows={"steps": _random(ROWS, 7, 6), "hidden": _random(ROWS, 4, 8), "cell": 2 * _random(ROWS, 4, 8)},
        outputs=("found", "next_hidden", "next_cell"),
    ),
    "transformer encoder with mask": _plain(sequences.Encoder, ids=_integers(40, ROWS, 8), keep=_lengths(ROWS, 8)),
    "BERT": Architecture(make=sequences.bert, rows=_TOKENS, outputs=("last_hidden_state", "pooler_output")),
    "GPT-2": Architecture(make=sequences.gpt2, rows=_TOKENS, outputs=("logits",)),
    "T5": Architecture(
        make=sequences.t5, rows={**_TOKENS, "decoder_input_ids": _integers(99, ROWS, 6)}, outputs=("logits",)
    ),
    "VAE": Architecture(make=others.VAE, rows={"rows": _random(ROWS, 16)}, outputs=("rebuilt", "mean", "spread")),
    "VQ codebook": Architecture(make=others.Codebook, rows={"rows": _random(ROWS, 10)}, outputs=("rebuilt", "word")),
    "torch.cond": _plain(others.Conditional, rows=_random(ROWS, 6)),
    "buffer updated in forward": _plain(others.Counting, rows=_random(ROWS, 6)),
    "named tuple with None": Architecture(make=others.Structured, rows={"rows": _random(ROWS, 6)}, outputs=("scores",)),
    "dataclass with None": Architecture(
        make=others.WithDataclass, rows={"rows": _random(ROWS, 6)}, outputs=("scores",)
    ),
    "weight norm": _plain(others.weight_norm, rows=_random(ROWS, 8)),
    "LoRA": _plain(others.LoRA, rows=_random(ROWS, 16)),
    "asserts its input range": _plain(others.Ranged, images=_random(ROWS, 3, 4, 4, low=0.0)),
    "float16 weights": _plain(others.Half, rows=_random(ROWS, 8)),
    "bfloat16 weights": _plain(others.bfloat16, ids=_integers(40, ROWS, 6)),
    "sequence of any length": Architecture(
        make=sequences.AnyLength, rows={"steps": _random(ROWS, 9, 6)}, options={"dynamic_axes": {"steps": {1: "time"}}}
    ),
    "images of any size": Architecture(
        make=vision.convnext,
        rows={"images": _images(32, 24)},
        options={"dynamic_axes": {"images": {2: "height", 3: "width"}}},
    ),
    "GNN, edges without a batch": Architecture(
        make=others.GraphNet,
        rows={"nodes": _random(16, 10, 6), "edges": _integers(10, 16, 2, 24)},
        options={"batched": False, "dynamic_axes": {"nodes": {0: "nodes"}, "edges": {1: "edges"}}},
    ),
    "a number beside the batch": Architecture(
        make=others.Tempered,
        rows={"rows": _random(16, 5, 6), "temperature": _random(16, low=0.5, high=2.0)},
        options={"batched": False, "dynamic_axes": {"rows": {0: "batch"}}},
    ),
}
