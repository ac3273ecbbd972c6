"""What a backend is, and the registry of all of them; importing it loads no torch and no runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from lrdiff_core.errors import CheckFailed, ConfigError

__all__ = [
    "BACKENDS", "Backend", "Facts", "FileBackend", "OnnxFile", "Predict", "RanElsewhereError", "find_backends",
    "refuses_words", "register_backend",
]  # fmt: skip

OnnxFile = bytes | str | os.PathLike[str]
Predict = Callable[..., list[np.ndarray]]  # one array an input, [batch, ...]; one array an output
Facts = Mapping[str, object]


class RanElsewhereError(CheckFailed):
    """A backend computed on another device, or in another way, than it was asked to."""


class Backend(Protocol):
    """Something that runs models; a protocol, so that one can be brought without importing a base class.

    Attributes:
        name: in the registry; set by :func:`register_backend`.
        device: where it promises to run: ``cpu``, ``cuda`` or ``mps``.
        dtype: the arithmetic it promises, a name from :data:`lrdiff_export.model.precision.ARITHMETICS`. None where it
            chooses by itself: its facts then say under ``arithmetic`` what it chose, and it is judged by that.
        needs_onnx: whether it runs an ONNX file rather than a module.
        heavy: whether it starts another runtime or takes long to build; ``lrdiff run`` leaves it to ``lrdiff parity``.
        keeps_denormals: whether it promises to compute with numbers below the smallest normal one.
    """

    name: str
    device: str
    dtype: str | None
    needs_onnx: bool
    heavy: bool
    keeps_denormals: bool

    def availability(self) -> str | None:
        """Return None if it can be used here, else the reason why not and what to do about it, in one line."""

    def prepare(self, model: Any, /) -> Predict:
        """Return a function from inputs ``[batch, ...]`` to outputs, both in the order of the model.

        It may be called for several models before :meth:`release`.

        Args:
            model: a ``torch.nn.Module``, which it must not change; if ``needs_onnx``, the path or the bytes of a valid
                ONNX file.
        """

    def facts(self) -> Facts:
        """Return what was seen of the last run: at least ``ran_on``, the device that computed it, and ``runtime``."""

    def release(self) -> None:
        """Give back what :meth:`prepare` holds; called also after a failure."""


class FileBackend:
    """What backends of ONNX files usually promise: float32 on the CPU, at once, and nothing to give back.

    ``takes_words`` says whether it runs files with inputs of strings and the encoders of ``ai.onnx.ml``.
    """

    name = ""
    device = "cpu"
    dtype: str | None = "float32"
    needs_onnx = True
    heavy = False
    keeps_denormals = True
    takes_words = False
    library: str | None = None  # imported by prepare()

    def availability(self) -> str | None:
        """Return why it cannot be used; None for what this project depends on."""
        return None

    def release(self) -> None:
        """Nothing is held."""


BACKENDS: dict[str, Backend] = {}

_Kind = TypeVar("_Kind", bound=type)


def register_backend(name: str, **attributes: object) -> Callable[[_Kind], _Kind]:
    """Return a decorator that puts a backend class under ``name`` into the registry.

    Args:
        name: of the backend.
        attributes: set on the instance, so that one class can serve several names.

    Raises:
        ConfigError: the name is taken.

    Example:
        >>> from lrdiff_export.runtimes import TorchBackend
        >>> @register_backend("eager")
        ... class Again(TorchBackend): ...
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ConfigError: there is a backend "eager" already
        help: choose another name
    """
    if name in BACKENDS:
        raise ConfigError(f'there is a backend "{name}" already', help="choose another name")

    def decorate(kind: _Kind) -> _Kind:
        backend = kind()
        backend.name = name
        for key, value in attributes.items():
            setattr(backend, key, value)
        BACKENDS[name] = backend
        return kind

    return decorate


def find_backends(names: Sequence[str], *, of_files: bool = False) -> list[Backend]:
    """Return backends by name.

    Args:
        names: from the registry.
        of_files: where there is only an ONNX file to run.

    Raises:
        ConfigError: there is none of such a name, or it needs the module.

    Example:
        >>> [backend.dtype for backend in find_backends(["eager", "eager-bf16"])]
        ['float32', 'bfloat16']
    """
    suited = [name for name, backend in BACKENDS.items() if backend.needs_onnx or not of_files]
    for name in names:
        if name not in BACKENDS:
            raise ConfigError(f'no backend "{name}"', help=f"backends: {', '.join(suited)}")
        if name not in suited:
            raise ConfigError(f"{name} runs a module, not an ONNX file", help=f"backends of files: {', '.join(suited)}")
    return [BACKENDS[name] for name in names]


def refuses_words(backend: Backend) -> str | None:
    """Return why a backend does not run files that take words; None where it does.

    Example:
        >>> from lrdiff_export.runtimes import BACKENDS as known
        >>> refuses_words(known["onnxruntime"]), refuses_words(known["openvino"])
        (None, 'not taken by openvino: needs ai.onnx.ml and strings')
    """
    if getattr(backend, "takes_words", False):
        return None
    return f"not taken by {backend.name}: needs ai.onnx.ml and strings"


def file_bytes(model: OnnxFile) -> bytes:
    """Return the bytes of an ONNX file, checked where a path is given; its weights may lie in a second file."""
    if isinstance(model, bytes):
        return model
    from lrdiff_export.onnx_file.load import load_onnx

    return load_onnx(Path(model))
