"""What fine-tuning begins with: the published encoder and rows of mail, or a tiny encoder and rows that are drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_bench.study.workloads.parts.minilm_files import (
    HAM,
    SPAM,
    SUBJECTS,
    VOCABULARY,
    WEIGHTS,
    find_pretrained,
)
from lrdiff_core.errors import UnavailableError

if TYPE_CHECKING:
    from torch import Tensor

    from lrdiff_bench.study.workloads.parts.encoder import EncoderSizes

__all__ = ["LAYERS", "LONGEST", "Material", "drawn", "published", "tokenizers_module"]

LAYERS = 6
LONGEST = 12  # tokens of a row; half of the subjects have fewer
_NOT_USED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a training begins with.

    Attributes:
        sizes: of the encoder.
        weights: of it, by name; the embeddings of those tokens and places alone that some row has.
        rows: token numbers of all rows, by class: rows of class 0, rows of class 1.
        digest: of all of it.
    """

    sizes: EncoderSizes
    weights: Mapping[str, Tensor]
    rows: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    digest: str


@cache
def published() -> Material:
    """The published encoder and the subject lines of mail: hard ham (0) and spam (1), none that is there twice.

    Raises:
        UnavailableError: the files or the library that splits text into tokens are not here.
    """
    import torch
    from safetensors.torch import load_file

    from lrdiff_bench.study.workloads.parts.encoder import EncoderSizes

    folder = find_pretrained()
    tokenizer = tokenizers_module().Tokenizer.from_file(str(folder / VOCABULARY))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    by_class: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {HAM: {}, SPAM: {}}
    for of, subject in json.loads((folder / SUBJECTS).read_text(encoding="utf-8")):
        alike = tuple(tokenizer.encode("".join("0" if one.isdigit() else one for one in subject)).ids)
        by_class[of].setdefault(alike, tuple(tokenizer.encode(subject).ids))  # the date of a newsletter is no new row
    for alike in by_class[HAM].keys() & by_class[SPAM].keys():
        del by_class[HAM][alike], by_class[SPAM][alike]
    rows = tuple(tuple(torch.tensor(row) for row in dict.fromkeys(kept.values())) for kept in by_class.values())
    used = torch.unique(torch.cat([row for kept in rows for row in kept]))
    weights = {name: value for name, value in load_file(folder / WEIGHTS).items() if name not in _NOT_USED}
    # Adam without decay leaves embeddings that no row has as they are: leaving them out changes nothing but the time.
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][used]
    weights["embeddings.position_embeddings.weight"] = weights["embeddings.position_embeddings.weight"][:LONGEST]
    inner, width = weights["encoder.layer.0.intermediate.dense.weight"].shape
    sizes = EncoderSizes(tokens=len(used), places=LONGEST, width=width, inner=inner, heads=12, layers=LAYERS)
    numbered = tuple(tuple(torch.searchsorted(used, row) for row in kept) for kept in rows)
    return _material(sizes, weights, numbered)


@cache
def drawn() -> Material:
    """A tiny encoder with weights that are drawn, and rows whose tokens lean towards their class."""
    import torch

    from lrdiff_bench.study.workloads.parts.encoder import Encoder, EncoderSizes
    from lrdiff_core.population.members import build

    sizes = EncoderSizes(tokens=60, places=LONGEST, width=8, inner=16, heads=2, layers=LAYERS)
    random = np.random.default_rng(0)
    rows = tuple(
        tuple(
            torch.from_numpy(random.integers(20 * label, 20 * label + 40, random.integers(6, 12))) for _ in range(160)
        )
        for label in range(2)
    )
    weights = {name: value.detach() for name, value in build(lambda _: Encoder(sizes), 0).state_dict().items()}
    return _material(sizes, weights, rows)


def _material(sizes: EncoderSizes, weights: Mapping[str, Tensor], rows: Any) -> Material:
    digest = hashlib.sha256(repr([[row.tolist() for row in kept] for kept in rows]).encode())
    for name in sorted(weights):
        digest.update(weights[name].numpy().tobytes())
    return Material(sizes=sizes, weights=weights, rows=rows, digest=digest.hexdigest()[:16])


def tokenizers_module() -> Any:
    """The library that splits text into tokens.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import tokenizers
    except ModuleNotFoundError as problem:
        raise UnavailableError(
            "tokenizers is not installed, which splits text for the encoder", help="pip install tokenizers"
        ) from problem
    return tokenizers
