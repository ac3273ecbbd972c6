"""From a module to the bytes of an ONNX file: convert, clean, check, serialise."""

from __future__ import annotations

import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrdiff_core.errors import ConfigError, InputError, UnavailableError
from lrdiff_export.model.float64 import by_argument
from lrdiff_export.model.prepared import Prepared, check_answers, prepare
from lrdiff_export.model.signature import Tensors, as_tensors, input_names_of
from lrdiff_export.onnx_file import external_data
from lrdiff_export.onnx_file.constraints import BatchConstraints, batch_constraints
from lrdiff_export.onnx_file.external_data import DataFile, ModelBytes, move_weights, without_weights
from lrdiff_export.onnx_file.passes import expand_constants, optimise, placeholders, rename_ports
from lrdiff_export.onnx_file.protobuf import messages
from lrdiff_export.onnx_file.structure import structural_differences
from lrdiff_export.onnx_file.weights import changed_weights
from lrdiff_export.records import first_line

__all__ = ["DEFAULT_OPSET", "OLDEST_OPSET", "Converted", "convert", "convert_to_onnx"]

# Opset 20 goes with IR version 9, which ONNX Runtime reads since 1.17 (January 2024) and onnxruntime-web and -node
# 1.30 read (they refuse 27 and 28). It is torch's own default, and the first opset with Gelu as one node.
DEFAULT_OPSET = 20
OLDEST_OPSET = 7  # the oldest that ONNX Runtime promises to read
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_TRACES = ("doc_string", "metadata_props")  # hold stack traces, and with them the paths of this machine


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A module on its way into a file.

    Attributes:
        model: cleaned and checked.
        prepared: the module that it came from, with the names of its inputs and outputs in the file.
        program: torch's own graph of it, whose values carry the names that the file's values have.
        renamed: values inside that gave their name to an input or output: name in the file by name in torch's graph.
        batches: what the program says of the number of rows.
        folder: where the weights lie in a file of their own; None where they are inside.
        weights: that file.
    """

    model: onnx.ModelProto
    prepared: Prepared
    program: torch.export.ExportedProgram
    renamed: Mapping[str, str] = field(default_factory=dict)
    batches: BatchConstraints = field(default_factory=BatchConstraints)
    folder: Path | None = None
    weights: DataFile | None = None

    @property
    def data(self) -> ModelBytes:
        """The file's bytes."""
        return self.serialised(self.model)

    def serialised(self, model: onnx.ModelProto) -> ModelBytes:
        """Return the bytes of this model or of another one with the same weights."""
        size = 0 if self.weights is None else self.weights.size
        return ModelBytes.of(model.SerializeToString(deterministic=True), self.folder, size)


def convert_to_onnx(
    module: nn.Module,
    *,
    example: Tensors,
    input_name: str | Sequence[str] | None = None,
    output_names: Sequence[str] = ("output",),
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Convert a module into the bytes of one self-contained ONNX file with a free batch dimension.

    The bytes hold no paths, stack traces or times: the same module gives the same bytes in any process and folder.

    Args:
        module: takes tensors by position, or by keyword where ``example`` is a mapping; gives a tensor, a tuple of
            tensors, or a mapping that holds ``output_names``. It is copied to the CPU.
        example: ``[batch, ...]`` an input, float32, integer or bool, at least one row.
        input_name: name of the input in the file, or one name an input; by default ``features`` for a single input, a
            mapping's keys, or the names of forward's arguments.
        output_names: one name an output.
        opset: operator set of the file; what the exporter cannot reach is refused, never replaced by another.
        metadata: text to keep in the file's ``metadata_props``, sorted by key.

    Raises:
        ConfigError: an option is wrong, or does not fit the module.
        InputError: the module cannot be converted.
        UnavailableError: onnxscript is missing, or the exporter does not reach this opset.

    Example:
        >>> data = convert_to_onnx(nn.Linear(3, 1), example=torch.zeros(2, 3))
        >>> onnx.ModelProto.FromString(data).graph.input[0].name
        'features'

    Source: https://docs.pytorch.org/docs/stable/onnx_export.html
    """
    check_options(
        module, example=example, input_name=input_name, output_names=output_names, opset=opset, metadata=metadata or {}
    )
    prepared = prepare(module, example, input_names=input_name, output_names=output_names)
    return convert(prepared, opset=opset, metadata=metadata).data


def convert(
    prepared: Prepared,
    *,
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, str] | None = None,
    beside: Path | None = None,
) -> Converted:
    """Do as :func:`convert_to_onnx`, and keep what diagnosis needs.

    Args:
        prepared: with the names of the inputs and outputs in the file.
        opset: as there.
        metadata: as there.
        beside: the model's final name, in a folder where its weights are written into a second file; None to keep
            them inside, or to refuse where that cannot be.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise UnavailableError(
            "exporting needs onnxscript, which is not installed", help="install it: pip install onnxscript"
        )
    if beside is None:
        _check_size(prepared.weights_size, prepared.name)
    check_answers(prepared)
    inputs = placeholders("input", len(prepared.input_names))
    outputs = placeholders("output", len(prepared.output_names))
    with _silence():
        program = _convert(prepared, inputs, outputs, opset)
        optimise(program)
    if beside is None:
        _check_size(sum(one.const_value.nbytes for one in program.model.graph.initializers.values()), prepared.name)
    weights = None if beside is None else move_weights(program.model, beside.parent, beside.name)
    model: onnx.ModelProto = program.model_proto
    assert program.exported_program is not None
    names = [*prepared.input_names, *prepared.output_names]
    renamed = rename_ports(model, dict(zip([*inputs, *outputs], names, strict=True)))
    expand_constants(model)
    clean(model, opset=opset, metadata=metadata or {})
    try:
        onnx.checker.check_model(model if weights is None else without_weights(model), full_check=True)
    except Exception as problem:  # onnx raises several unrelated kinds
        raise InputError(
            f"{prepared.name} was converted to a file that onnx's checker refuses: {first_line(problem)}",
            help="this is a fault of the exporter: try another opset, or report it with the module",
        ) from problem
    lost = [*structural_differences(program.exported_program, model, renamed)]
    lost += changed_weights(model, prepared.exported, renamed, program.exported_program)
    if lost:
        raise InputError(
            f"{prepared.name} was converted to a file that is another program: {lost[0]}",
            help="this is a fault of the exporter: write that operation another way (scale the result yourself), or "
            "report it with the module",
        )
    return Converted(
        model=model,
        prepared=prepared,
        program=program.exported_program,
        renamed=renamed,
        batches=batch_constraints(program.exported_program, prepared.name, batched=prepared.batched),
        folder=None if weights is None or beside is None else beside.parent,
        weights=weights,
    )


def check_options(
    module: nn.Module,
    *,
    example: Tensors,
    input_name: str | Sequence[str] | None,
    output_names: Sequence[str],
    opset: int,
    metadata: Mapping[str, str],
) -> tuple[str, ...]:
    """Raise ConfigError if an export option is wrong by itself, before anything is computed; return input names."""
    newest = onnx.defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST_OPSET <= opset <= newest:
        raise ConfigError(
            f"opset is {opset!r}, not a whole number from {OLDEST_OPSET} to {newest}",
            help=f"{DEFAULT_OPSET} is read by the most runtimes",
        )
    as_tensors(example)
    if isinstance(output_names, str):
        raise ConfigError(f"output_names is the text {output_names!r}", help=f"write ({output_names!r},)")
    input_names = input_names_of(module, example, input_name)
    names = [*input_names, *output_names]
    for name in names:
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ConfigError(f"{name!r} is not a usable name for an input or output", help="use printable characters")
        if names.count(name) > 1:
            raise ConfigError(f"the name {name!r} is used twice", help="inputs and outputs need names of their own")
    for key, value in metadata.items():
        if not isinstance(key, str) or not key or not isinstance(value, str):
            raise ConfigError(f"metadata {key!r}: {value!r} is not text", help="write str keys and str values")
    return input_names


def clean(model: onnx.ModelProto, *, opset: int, metadata: Mapping[str, str]) -> None:
    """Strip what depends on this machine, set the lowest IR version the opset allows, add the caller's metadata.

    Args:
        model: changed in place.
        opset: what was asked for; it must be what the model has.
        metadata: text for ``metadata_props``.

    Raises:
        UnavailableError: the model has another opset.
    """
    found = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if found != opset:
        raise UnavailableError(
            f"opset {opset} was asked for and the exporter gave {found}", help=f"ask for opset {found} or newer"
        )
    for message in messages(model):
        for trace in _TRACES:
            if trace in message.DESCRIPTOR.fields_by_name:
                message.ClearField(trace)
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))


def _check_size(size: int, name: str) -> None:
    if size > external_data.ONE_FILE:
        raise ConfigError(
            f"{name} holds {size / 2**30:.1f} GiB of weights, and one ONNX file at most 2 GiB",
            help="use lrdiff_export.export, which writes the weights into a second file",
        )


def _convert(prepared: Prepared, input_names: list[str], output_names: list[str], opset: int) -> Any:
    """Return torch's ``ONNXProgram``."""
    module, example, free = prepared.exported, prepared.exported_example, _free_dimensions(prepared)
    export = partial(
        torch.onnx.export,
        args=example,
        dynamo=True,
        opset_version=opset,
        input_names=input_names,
        output_names=output_names,
        dynamic_shapes=free,
        optimize=False,  # see optimise()
        verbose=False,
    )
    try:
        try:
            program = export(module)
        except Exception as problem:
            if "Cannot view a tensor" not in _root_cause(problem):
                raise
            # Of attention with a bias the exporter takes wrong strides; of its parts it does not.
            with sdpa_kernel(SDPBackend.MATH):
                program = export(module)
        assert program is not None
        if prepared.batched and not all(_is_free(one) for one in program.model.graph.inputs):
            # len(x) is a plain int to torch's tracer, and a size like any other to its compiler.
            program = export(torch.export.export(module, example, dynamic_shapes=free, strict=True))
        return program
    except Exception as problem:  # the exporter lets everything through that lies below it
        raise InputError(
            f"{prepared.name} cannot be converted to ONNX: {_root_cause(problem)}",
            help="the usual reasons are branches on values and shapes fixed to one batch; --debug shows all causes",
        ) from problem


def _is_free(value: Any) -> bool:
    return not value.shape or not isinstance(value.shape[0], int)


def _free_dimensions(prepared: Prepared) -> tuple[Any, ...]:
    """The batch and what the user named besides."""
    batch = {0: "batch"} if prepared.batched else {}
    free = [{**batch, **prepared.dynamic_axes.get(name, {})} for name in prepared.input_names]
    dims = {label: torch.export.Dim(label) for one in free for label in one.values()}
    return by_argument(prepared.exported, [{axis: dims[label] for axis, label in one.items()} for one in free])


def _root_cause(problem: BaseException) -> str:
    """First line of the deepest cause: the exporter's own text only says which of its steps failed."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return f"{type(problem).__name__}: {first_line(_ESCAPES.sub('', str(problem)))}"


@contextmanager
def _silence() -> Iterator[None]:
    """Quiet the exporter, which warns of its own deprecated calls and prints graphs; failures come as exceptions."""
    loggers: list[Any] = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
