"""What a backend is, and the registry of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from torch import nn

from lrdiff_core.errors import CheckFailed, ConfigError

__all__ = ["BACKENDS", "Backend", "Facts", "Predict", "RanElsewhereError", "find_backends", "register_backend"]

Predict = Callable[..., list[np.ndarray]]  # one array an input, [batch, ...]
Facts = Mapping[str, object]


class RanElsewhereError(CheckFailed):
    """A backend computed on another device, or in another way, than it was asked to."""


class Backend(Protocol):
    """A place to predict; a protocol, so that one can be brought without importing a base class.

    Attributes:
        name: in the registry; set by :func:`register_backend`.
        device: where it promises to run: ``cpu``, ``cuda`` or ``mps``.
        dtype: the arithmetic it promises, a name from :data:`lrdiff_export.model.precision.ARITHMETICS`. None where it
            chooses by itself: its facts then say under ``arithmetic`` what it chose, and it is judged by that.
        needs_onnx: whether it runs an ONNX file rather than the module.
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

    def prepare(self, module: nn.Module, onnx: bytes | None) -> Predict:
        """Return a function from rows ``[batch, features...]`` to outputs; must not change ``module``.

        It may be called for several models before :meth:`release`.
        """

    def facts(self) -> Facts:
        """Return what was seen of the last run: at least ``ran_on``, the device that computed it, read off it."""

    def release(self) -> None:
        """Give back what :meth:`prepare` holds; called also after a failure."""


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


def find_backends(names: Sequence[str]) -> list[Backend]:
    """Return backends by name.

    Raises:
        ConfigError: there is none of such a name.

    Example:
        >>> [backend.dtype for backend in find_backends(["eager", "eager-bf16"])]
        ['float32', 'bfloat16']
    """
    for name in names:
        if name not in BACKENDS:
            raise ConfigError(f'no backend "{name}"', help=f"backends: {', '.join(BACKENDS)}")
    return [BACKENDS[name] for name in names]
