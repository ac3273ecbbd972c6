"""Reading ONNX files that others wrote: a model, or one clear line that says why not."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from lrdiff_core.errors import ModelFileError
from lrdiff_export.onnx_file.external_data import ModelBytes, check_weights, is_elsewhere, without_weights
from lrdiff_export.onnx_file.protobuf import DecodeError, messages
from lrdiff_export.records import first_line

__all__ = ["load_onnx", "model_inputs", "opset_of", "parse_onnx"]

_MAKE_ONE = "write one with lrdiff export, or with torch.onnx.export(..., external_data=False)"


def load_onnx(path: str | os.PathLike[str], *, hashed: bool = True) -> ModelBytes:
    """Read an ONNX file and return its bytes, checked to be a whole valid model.

    Args:
        path: the file; of more than 2 GiB, the weights are in a second file beside it.
        hashed: read that second file and compare its hash with what the model says.

    Raises:
        ModelFileError: missing, unreadable, empty, not ONNX, without a graph, invalid, or with weights in another file
            than :mod:`lrdiff_export.onnx_file.external_data` allows.

    Example:
        >>> load_onnx("no-such-model.onnx")
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ModelFileError: no-such-model.onnx does not exist
        help: name an ONNX file

    Source: https://onnx.ai/onnx/repo-docs/IR.html
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{file} does not exist", help="name an ONNX file") from None
    except OSError as problem:
        raise ModelFileError(f"cannot read {file}: {problem.strerror}", help="name an ONNX file") from problem
    model = _parse(data, name=str(file))
    weights = check_weights(model, file.parent, name=str(file), hashed=hashed)
    _check(model, name=str(file))
    return ModelBytes.of(data, None if weights is None else file.parent, weights or 0)


def parse_onnx(data: bytes, *, name: str = "the model") -> onnx.ModelProto:
    """Parse and check the bytes of an ONNX file.

    Args:
        data: the whole file; where its weights are in a second one, as :func:`load_onnx` returns it.
        name: what error messages call it.

    Raises:
        ModelFileError: as for :func:`load_onnx`.

    Example:
        >>> parse_onnx(b"")
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ModelFileError: the model is empty
        help: write one with lrdiff export, or with torch.onnx.export(..., external_data=False)
    """
    model = _parse(data, name=name)
    check_weights(model, getattr(data, "folder", None), name=name, hashed=False)
    _check(model, name=name)
    return model


def _parse(data: bytes, *, name: str) -> onnx.ModelProto:
    if not data:
        raise ModelFileError(f"{name} is empty", help=_MAKE_ONE)
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError as problem:
        raise ModelFileError(f"{name} is not an ONNX file", help=_MAKE_ONE) from problem
    # Other protobuf files, and some texts, parse as a model of unknown fields only.
    if not model.HasField("graph") and not model.opset_import:
        raise ModelFileError(f"{name} is not an ONNX file", help=_MAKE_ONE)
    if not model.graph.node:
        raise ModelFileError(f"{name} holds no graph", help=_MAKE_ONE)
    if (what := _not_text(model)) is not None:
        raise ModelFileError(f"{name} is damaged: the {what} is not UTF-8", help=_MAKE_ONE)
    return model


def _not_text(model: onnx.ModelProto) -> str | None:
    """What of a model is no UTF-8: protobuf reads it all the same, and gives bytes in the place of text."""
    for part in messages(model):
        for field, value in part.ListFields():
            if field.type == field.TYPE_STRING:
                several = [value] if isinstance(value, (str, bytes)) else value
                if any(isinstance(one, bytes) for one in several):
                    return f"{field.name} of {part.DESCRIPTOR.name}"
    return None


def _check(model: onnx.ModelProto, *, name: str) -> None:
    if any(map(is_elsewhere, model.graph.initializer)):
        model = without_weights(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as problem:  # onnx raises several unrelated kinds
        raise ModelFileError(f"{name} is not a valid ONNX model: {first_line(problem)}", help=_MAKE_ONE) from problem


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that must be fed; files of IR version 3 list the weights among the inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [one for one in model.graph.input if one.name not in weights]


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set; 0 where the model imports none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
