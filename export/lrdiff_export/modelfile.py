"""Reading ONNX files that others wrote: a model, or one clear line that says why not."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from lrdiff_core.errors import ModelFileError
from lrdiff_export.protobuf import DecodeError, messages
from lrdiff_export.records import first_line

__all__ = ["load_onnx", "model_inputs", "opset_of", "parse_onnx"]

_ELSEWHERE = onnx.TensorProto.EXTERNAL
_MAKE_ONE = "write one with lrdiff export, or with torch.onnx.export(..., external_data=False)"


def load_onnx(path: str | os.PathLike[str]) -> bytes:
    """Read an ONNX file and return its bytes, checked to be a whole valid model.

    Args:
        path: the file.

    Raises:
        ModelFileError: missing, unreadable, empty, not ONNX, without a graph, with weights elsewhere, or invalid.

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
    parse_onnx(data, name=str(file))
    return data


def parse_onnx(data: bytes, *, name: str = "the model") -> onnx.ModelProto:
    """Parse and check the bytes of an ONNX file.

    Args:
        data: the whole file.
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
    if not data:
        raise ModelFileError(f"{name} is empty", help=_MAKE_ONE)
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as problem:
        raise ModelFileError(f"{name} is not an ONNX file", help=_MAKE_ONE) from problem
    # Other protobuf files, and some texts, parse as a model of unknown fields only.
    if not model.HasField("graph") and not model.opset_import:
        raise ModelFileError(f"{name} is not an ONNX file", help=_MAKE_ONE)
    if not model.graph.node:
        raise ModelFileError(f"{name} holds no graph", help=_MAKE_ONE)
    if any(isinstance(part, onnx.TensorProto) and part.data_location == _ELSEWHERE for part in messages(model)):
        raise ModelFileError(f"{name} keeps weights in another file", help=_MAKE_ONE)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as problem:  # onnx raises several unrelated kinds
        raise ModelFileError(f"{name} is not a valid ONNX model: {first_line(problem)}", help=_MAKE_ONE) from problem
    return model


def model_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that must be fed; files of IR version 3 list the weights among the inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [one for one in model.graph.input if one.name not in weights]


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set; 0 where the model imports none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
