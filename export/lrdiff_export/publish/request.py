"""What an export was asked for, checked before the seconds that conversion takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lrdiff_core.errors import ConfigError, DataError, InputError
from lrdiff_core.text import nearest_first, quoted
from lrdiff_export.model.domain import Domain
from lrdiff_export.model.float64 import unwrapped
from lrdiff_export.model.ports import Port
from lrdiff_export.model.prepared import Prepared, prepare, weights_size
from lrdiff_export.model.signature import Arrays, Tensors, as_arrays, as_tensors
from lrdiff_export.model.text_inputs import TextInputs
from lrdiff_export.onnx_file import external_data
from lrdiff_export.onnx_file.convert import DEFAULT_OPSET, check_options
from lrdiff_export.publish.bundle import check_bundle_request
from lrdiff_export.publish.metadata import PREFIX, ModelCard
from lrdiff_export.publish.targets import Target, find_target
from lrdiff_export.publish.variants import VARIANTS, Allowance
from lrdiff_export.verify.rows import DRAWN_ROWS, drawn_rows

__all__ = ["ExportOptions", "ExportRequest", "rows_around"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a module is exported; any of these is also an argument of :func:`lrdiff_export.export`.

    Attributes:
        input_names: names of the inputs in the file; by default ``features`` for a single one, a mapping's keys, or
            the names of forward's arguments.
        output_names: one name an output.
        batched: False where the module takes one sample, without a batch dimension (a graph, a number beside others);
            ``rows`` then hold ``[samples, ...]``.
        dynamic_axes: free dimensions besides the batch: by input, the name of each by its axis, as in
            ``{"images": {2: "height", 3: "width"}}``. They are tried at several sizes.
        opset: operator set of the file, exactly; by default the target's, or 20.
        target: the runtime that must read the file, such as ``onnxruntime-web==1.30``; a row of
            :mod:`lrdiff_export.publish.targets`.
        variants: any of ``fp32``, ``fp16``, ``int8`` (dynamic) and ``int8-qdq`` (calibrated on the rows); ``fp32`` is
            always written.
        allowance: what a variant may lose.
        labels: ``[batch]`` of the rows, for the change of the validation metric that a variant causes.
        score: from the first output ``[batch, ...]`` and labels to a number, larger is better; the share of right
            decisions by default.
        decide: from the first output ``[batch, ...]`` to a decision a row; the largest entry, or above one half where
            there is one column, by default, if the card says that there are classes.
        ports: what may stand in inputs, and how far whole numbers of outputs may be off: a :class:`Port` each, by name;
            other inputs are not tried, and refused by :class:`lrdiff_export.OnnxPredictor`.
        text: the columns of a single input ``[batch, columns]`` that hold codes of words, which the file then takes as
            words (:meth:`lrdiff_export.TextInputs.of`).
        card: what the file says of itself; taken from the module where it is one of ours.
        metadata: more text to keep in the file.
        golden: write golden vectors beside the model; there are none of models without a batch dimension, or with
            float16 weights, whose answers are not known to half of float32's digits.
        bundle: a folder or ``.zip`` to put the published file into, with everything that shows what was proven; see
            :mod:`lrdiff_export.publish.bundle`.
        sign_key: a private key to sign the bundle with.
        watch: told what is being done, in a few words; large models take a while.

    Example:
        >>> ExportOptions(opset=21).with_changes({"opsett": 20})
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ConfigError: export has no option "opsett"
        help: options: opset, ...
    """

    input_names: str | Sequence[str] | None = None
    output_names: Sequence[str] = ("output",)
    batched: bool = True
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    opset: int | None = None
    target: str | None = None
    variants: Sequence[str] = ("fp32",)
    allowance: Allowance = field(default_factory=Allowance)
    labels: np.ndarray | None = None
    score: Callable[[np.ndarray, np.ndarray], float] | None = None
    decide: Callable[[np.ndarray], np.ndarray] | None = None
    ports: Sequence[Port] = ()
    text: TextInputs | None = None
    card: ModelCard | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    golden: bool = True
    bundle: str | os.PathLike[str] | None = None
    sign_key: str | os.PathLike[str] | None = None
    watch: Callable[[str], object] = lambda doing: None

    def with_changes(self, changes: Mapping[str, Any]) -> ExportOptions:
        """Return these options with some replaced.

        Raises:
            ConfigError: there is no such option.
        """
        known = [one.name for one in fields(self)]
        for name in changes:
            if name not in known:
                nearest = ", ".join(nearest_first(name, known))
                raise ConfigError(f"export has no option {quoted(name)}", help=f"options: {nearest}")
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """A module ready to be exported, where its file goes, and what the file must be.

    Attributes:
        prepared: the one copy of the module, with the names of its inputs and outputs.
        final: the file's name.
        options: as they were given.
        target: the runtime that must read it; None where none was named.
        opset: of the file.
        variants: besides fp32.
        rows: to verify on, one array an input.
        drawn: whether those were made up.
        domain: what is declared of inputs and outputs.
    """

    prepared: Prepared
    final: Path
    options: ExportOptions
    target: Target | None
    opset: int
    variants: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    drawn: bool
    domain: Domain

    @classmethod
    def of(
        cls,
        module: nn.Module,
        example: Tensors,
        *,
        out: str | os.PathLike[str],
        rows: Arrays | None,
        options: ExportOptions,
    ) -> ExportRequest:
        """Check arguments of :func:`lrdiff_export.export`, and prepare the module.

        Raises:
            ConfigError, DataError, InputError: an option, the rows, the module or the folder is wrong.
        """
        inner, final = unwrapped(module), Path(out)
        target = find_target(options.target) if options.target is not None else None
        opset = _opset_for(options.opset, target)
        if not options.batched:
            example = _one_sample(example)
        check_options(
            inner,
            example=example,
            input_name=options.input_names,
            output_names=options.output_names,
            opset=opset,
            metadata=options.metadata,
        )
        if reserved := [key for key in options.metadata if key.startswith(PREFIX)]:
            raise ConfigError(
                f"metadata {reserved[0]!r} begins with {PREFIX!r}", help="such keys are written by the export"
            )
        _check_variants(options.variants, inner, batched=options.batched)
        _check_place(final)
        _check_bundle(options)
        prepared = prepare(
            inner,
            example,
            input_names=options.input_names,
            output_names=tuple(options.output_names),
            batched=options.batched,
            dynamic_axes=options.dynamic_axes,
        )
        domain = _declared(options.ports, prepared)
        if options.text is not None:
            _check_text(options.text, prepared)
            domain = options.text.coded(domain, prepared.input_names[0])
        if rows is None:
            arrays = domain.fitted(prepared.input_names, rows_around(example))
        else:
            arrays = _check_held_out(rows, example)
        return cls(
            prepared=prepared,
            final=final,
            options=options,
            target=target,
            opset=opset,
            variants=tuple(name for name in dict.fromkeys(options.variants) if name != "fp32"),
            rows=arrays,
            drawn=rows is None,
            domain=domain,
        )

    @property
    def told_ports(self) -> tuple[Port, ...]:
        """What is declared of the file's ports: of its numbers alone, where words make their own codes."""
        if self.options.text is None:
            return tuple(self.options.ports)
        told = self.options.text.told(Domain.of(self.options.ports)).categories
        return tuple(replace(port, categories=told.get(port.name)) for port in self.options.ports)

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


def _one_sample(example: Tensors) -> Tensors:
    """Give an example without a batch dimension one of its own."""
    if isinstance(example, Mapping):
        return {name: one.unsqueeze(0) for name, one in example.items()}
    return example.unsqueeze(0) if isinstance(example, torch.Tensor) else [one.unsqueeze(0) for one in example]


def _declared(ports: Sequence[Port], prepared: Prepared) -> Domain:
    """What is declared, under names that the file has."""
    known = (*prepared.input_names, *prepared.output_names)
    for port in ports:
        if not isinstance(port, Port) or port.name not in known:
            what = repr(port.name) if isinstance(port, Port) else type(port).__name__
            raise ConfigError(f"ports holds {what}, which is no input or output", help=f"names: {', '.join(known)}")
        if port.name in prepared.output_names and (port.range or port.categories or port.lengths):
            raise ConfigError(
                f"{port.name!r} is an output, and only inputs have ranges, categories and lengths",
                help="outputs have an integer_tolerance",
            )
    return Domain.of(ports)


def _check_text(text: TextInputs, prepared: Prepared) -> None:
    first, outputs = prepared.example[0], set(prepared.output_names)
    shapes = [list(one.shape[1:]) for one in prepared.example]
    if len(shapes) != 1 or shapes[0] != [len(text.names)] or first.dtype != torch.float32 or not prepared.batched:
        raise ConfigError(
            f"words are columns of one float32 input [batch, {len(text.names)}], and the module takes {shapes}",
            help="leave text out, or give the module one matrix of all columns",
        )
    if taken := sorted(outputs & {text.numbers, *text.inputs}):
        raise ConfigError(
            f"{quoted(taken[0])} is an input of words and an output",
            help="name outputs where the inputs are made: TextInputs.of(..., taken=output_names)",
        )
    if text.numbers != prepared.input_names[0]:
        raise ConfigError(
            f"numbers are called {quoted(text.numbers)}, and the input {quoted(prepared.input_names[0])}",
            help="give both the same name",
        )


def _check_variants(variants: Sequence[str], module: nn.Module, *, batched: bool) -> None:
    known = ("fp32", *VARIANTS)
    if isinstance(variants, str):
        raise ConfigError(f"variants is the text {variants!r}", help=f"write ({variants!r},)")
    for name in variants:
        if name not in known:
            raise ConfigError(f'no variant "{name}"', help=f"variants: {', '.join(known)}")
    if set(variants) - {"fp32"} and not batched:
        raise ConfigError("variants are made of models with a batch dimension", help="leave them out")
    if set(variants) - {"fp32"} and weights_size(module) > external_data.ONE_FILE:
        raise ConfigError("variants are made of models up to 2 GiB", help="leave them out")


def _check_place(final: Path) -> None:
    if final.is_dir():
        raise InputError(f"cannot write {final}: it is a folder", help="name a file, such as model.onnx in that folder")
    if not final.parent.is_dir():
        raise InputError(f"cannot write {final}: no folder {final.parent}", help="make the folder first")


def _check_bundle(options: ExportOptions) -> None:
    if options.bundle is None:
        if options.sign_key is not None:
            raise ConfigError("a key is given, and no bundle to sign", help="name a bundle")
        return
    if not options.golden:
        raise ConfigError("a bundle needs golden vectors", help="leave golden=False out")
    check_bundle_request(Path(options.bundle), None if options.sign_key is None else Path(options.sign_key))


def _check_held_out(rows: Arrays, example: Tensors) -> tuple[np.ndarray, ...]:
    arrays = as_arrays(rows, tuple(example) if isinstance(example, Mapping) else None)
    tensors = as_tensors(example)
    if len(arrays) != len(tensors):
        raise DataError(
            f"rows are given for {len(arrays)} inputs, the example has {len(tensors)}", help="give one array per input"
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
