"""What an export was asked for, checked before the seconds that conversion takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lrdiff_core.errors import ConfigError, DataError, InputError
from lrdiff_export.model.float64 import prepare_module, unwrapped
from lrdiff_export.model.signature import Arrays, Tensors, as_arrays, as_tensors
from lrdiff_export.onnx_file import external_data
from lrdiff_export.onnx_file.convert import DEFAULT_OPSET, check_options, weights_size
from lrdiff_export.publish.metadata import PREFIX
from lrdiff_export.publish.targets import Target, find_target
from lrdiff_export.publish.variants import VARIANTS
from lrdiff_export.verify.inputs import DRAWN_ROWS, drawn_rows

__all__ = ["Asked", "rows_around"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A module, where its file goes, and what the file must be.

    Attributes:
        module: without the wrapper of ``torch.compile``.
        final: the file's name.
        target: the runtime that must read it; None where none was named.
        options: of :func:`lrdiff_export.onnx_file.convert.convert`.
        input_names: of the file.
        variants: besides fp32.
        rows: to verify on, one array an input.
        drawn: whether those were made up.
    """

    module: nn.Module
    final: Path
    target: Target | None
    options: dict[str, Any]
    input_names: tuple[str, ...]
    variants: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    drawn: bool

    @classmethod
    def of(
        cls,
        module: nn.Module,
        example: Tensors,
        *,
        out: str | os.PathLike[str],
        rows: Arrays | None,
        input_names: str | Sequence[str] | None,
        output_names: Sequence[str],
        opset: int | None,
        target: str | None,
        variants: Sequence[str],
        metadata: Mapping[str, str] | None,
    ) -> Asked:
        """Check arguments of :func:`lrdiff_export.export`.

        Raises:
            ConfigError, DataError, InputError: an option, the rows, the module or the folder is wrong.
        """
        inner = unwrapped(module)
        aim = find_target(target) if target is not None else None
        options: dict[str, Any] = {
            "example": example,
            "input_name": input_names,
            "output_names": output_names,
            "opset": _opset_for(opset, aim),
            "metadata": dict(metadata or {}),
        }
        names = check_options(inner, **options)
        if reserved := [key for key in options["metadata"] if key.startswith(PREFIX)]:
            raise ConfigError(
                f"metadata {reserved[0]!r} begins with {PREFIX!r}", help="such keys are written by the export"
            )
        _check_variants(variants, inner)
        _check_place(Path(out))
        return cls(
            module=inner,
            final=Path(out),
            target=aim,
            options=options,
            input_names=names,
            variants=tuple(name for name in dict.fromkeys(variants) if name != "fp32"),
            rows=rows_around(example) if rows is None else _check_held_out(rows, example),
            drawn=rows is None,
        )

    def prepared(self) -> nn.Module:
        """Return an evaluation copy that takes tensors by position, which no conversion has touched."""
        example = self.options["example"]
        keywords = tuple(example) if isinstance(example, Mapping) else None
        outputs = self.options["output_names"]
        return prepare_module(self.module, as_tensors(example), keywords=keywords, outputs=outputs)

    def check_ir(self, ir_version: int) -> None:
        """Raise ConfigError if the target does not read files of this IR version."""
        if self.target is not None and ir_version > self.target.ir_version:
            raise ConfigError(
                f"the file has IR version {ir_version}, {self.target.name} reads {self.target.ir_version}",
                help="ask for an older opset",
            )


def _opset_for(opset: int | None, target: Target | None) -> int:
    if target is None:
        return DEFAULT_OPSET if opset is None else opset
    if opset is None:
        return min(DEFAULT_OPSET, target.opset)
    if isinstance(opset, int) and opset > target.opset:
        raise ConfigError(
            f"opset {opset} was asked for and {target.name} reads up to {target.opset}",
            help=f"leave the opset out, or ask for {target.opset} or older",
        )
    return opset


def _check_variants(variants: Sequence[str], module: nn.Module) -> None:
    known = ("fp32", *VARIANTS)
    if isinstance(variants, str):
        raise ConfigError(f"variants is the text {variants!r}", help=f"write ({variants!r},)")
    for name in variants:
        if name not in known:
            raise ConfigError(f'no variant "{name}"', help=f"variants: {', '.join(known)}")
    if set(variants) - {"fp32"} and weights_size(module) > external_data.ONE_FILE:
        raise ConfigError("variants are made of models up to 2 GiB", help="leave them out")


def _check_place(final: Path) -> None:
    if final.is_dir():
        raise InputError(f"cannot write {final}: it is a folder", help="name a file, such as model.onnx in that folder")
    if not final.parent.is_dir():
        raise InputError(f"cannot write {final}: no folder {final.parent}", help="make the folder first")


def _check_held_out(rows: Arrays, example: Tensors) -> tuple[np.ndarray, ...]:
    arrays = as_arrays(rows, tuple(example) if isinstance(example, Mapping) else None)
    tensors = as_tensors(example)
    if len(arrays) != len(tensors):
        raise DataError(
            f"rows are given for {len(arrays)} inputs, the example has {len(tensors)}", help="give one array an input"
        )
    for array, tensor in zip(arrays, tensors, strict=True):
        if array.shape[1:] != tuple(tensor.shape[1:]):
            raise DataError(
                f"rows have shape {list(array.shape)} and the example {list(tensor.shape)}",
                help="rows and example must agree in all but the batch dimension",
            )
        if torch.from_numpy(array[:0].copy()).dtype != tensor.dtype:
            raise DataError(f"rows are {array.dtype} and the example is {tensor.dtype}", help="give both in one dtype")
    return arrays


def rows_around(example: Tensors) -> tuple[np.ndarray, ...]:
    """Return the example's rows and 64 drawn ones like them, the same in every process.

    Example:
        >>> [one.shape for one in rows_around(torch.zeros(1, 3))]
        [(65, 3)]
    """
    given = tuple(one.detach().to("cpu").numpy() for one in as_tensors(example))
    return tuple(np.concatenate(pair) for pair in zip(given, drawn_rows(given, DRAWN_ROWS), strict=True))
