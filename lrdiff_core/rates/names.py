"""Canonical parameter names, and which names mean the same (tied) parameter.

Wrappers put prefixes into names: ``torch.compile`` adds ``_orig_mod.``, DistributedDataParallel ``module.``, FSDP
``_fsdp_wrapped_module.``, activation checkpointing ``_checkpoint_wrapped_module.``, and a parametrized weight becomes
``parametrizations.weight.original``. A rule written for the plain model has to match the wrapped one too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from lrdiff_core.errors import RateError

__all__ = ["Occurrence", "ParamInfo", "PathStep", "canonical_name", "list_parameters", "some"]

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"})
_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.([^.]+)\.(?:original$|(?=original\d+$|\d+\.))")


class PathStep(NamedTuple):
    """A module on the way from the root to a parameter: its canonical name ("" for the root) and itself."""

    name: str
    module: nn.Module


Path: TypeAlias = tuple[PathStep, ...]


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One place where a parameter stands in the module tree.

    Args:
        name: the canonical name of this place.
        owner: the module that holds the parameter.
        path: every module from the root down to the owner; a wrapper has the name of what it wraps.
        order: of registration, over all places of the model.
    """

    name: str
    owner: nn.Module
    path: Path
    order: int


@dataclass(frozen=True, slots=True)
class ParamInfo:
    """One parameter with every place it stands in; the first place gives it its name.

    Args:
        parameter: the tensor that an optimizer gets.
        occurrences: where it stands.
        shape: as the model's code sees it. FSDP and DeepSpeed keep shards that are flat; a rule means the matrix.
    """

    parameter: nn.Parameter
    occurrences: tuple[Occurrence, ...]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The canonical name: the first of all."""
        return self.occurrences[0].name

    @property
    def as_seen(self) -> nn.Parameter:
        """The parameter, or, where it is a flat shard, one without numbers that has the true shape."""
        if self.parameter.shape == self.shape:
            return self.parameter
        kind, grad = self.parameter.dtype, self.parameter.requires_grad
        return nn.Parameter(torch.empty(self.shape, dtype=kind, device="meta"), requires_grad=grad)

    @property
    def tied(self) -> tuple[str, ...]:
        """The other names of this parameter."""
        return tuple(place.name for place in self.occurrences[1:])


def canonical_name(name: str) -> str:
    """A parameter's name without the prefixes that wrappers add.

    A ``module`` component is removed at the front only: deeper down, or where the model is at hand, only the module
    tree can tell a wrapper from a child that is called so (:func:`list_parameters` looks).

    Example:
        >>> canonical_name("module._orig_mod.layer1.weight")
        'layer1.weight'
        >>> canonical_name("encoder._checkpoint_wrapped_module.0.bias")
        'encoder.0.bias'
        >>> canonical_name("head.parametrizations.weight.original")
        'head.weight'
        >>> canonical_name("head.parametrizations.weight.original1")
        'head.weight.original1'
    """
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return _PARAMETRIZED.sub(r"\1\2" if name.endswith(".original") else r"\1\2.", ".".join(parts))


def list_parameters(model: nn.Module) -> list[ParamInfo]:
    """Every parameter of a model once, in ``model.named_parameters()`` order, under its canonical name.

    Raises:
        RateError: not a module; no parameters; parameters not materialized, flattened into one, or shards of FSDP's
            whose wrapper is further up; two parameters under one name.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> model[1].weight = model[0].weight
        >>> [(info.name, info.tied) for info in list_parameters(model)]
        [('0.weight', ('1.weight',)), ('0.bias', ()), ('1.bias', ())]
    """
    if not isinstance(model, nn.Module):
        raise RateError(f"the model is {model!r}, not a torch.nn.Module", help="pass the module that holds the weights")
    found: dict[int, tuple[nn.Parameter, list[Occurrence]]] = {}
    owners: dict[str, int] = {}
    shapes = _flattened_shapes(model)
    for place, parameter in _walk(model, "", (), count()):
        if is_lazy(parameter):
            raise RateError(
                f'parameter "{place.name}" has no shape yet', help="run one batch through the lazy modules first"
            )
        if getattr(parameter, "_is_flat_param", False):
            raise RateError(
                f'FSDP has flattened parameters of "{place.name.rpartition(".")[0] or type(model).__name__}" into one',
                help="wrap the model with use_orig_params=True, or by fully_shard: parameters stay separate",
            )
        if getattr(parameter, "_fsdp_flattened", False) and id(parameter) not in shapes:
            raise RateError(
                f'FSDP holds "{place.name}" as a flat shard, and only the module that FSDP returned knows its shape',
                help="pass that module, the root of the wrapped model, not one inside of it",
            )
        if owners.setdefault(place.name, id(parameter)) != id(parameter):
            raise RateError(
                f'two parameters are called "{place.name}" once wrapper prefixes are removed',
                help="rename one of the children, so that it is not called like a wrapper's child (_orig_mod and such)",
            )
        found.setdefault(id(parameter), (parameter, []))[1].append(place)
    if not found:
        raise RateError(f"{type(model).__name__} has no parameters", help="pass the module that holds the weights")
    return [
        ParamInfo(parameter, tuple(places), tuple(shapes.get(key, getattr(parameter, "ds_shape", parameter.shape))))
        for key, (parameter, places) in found.items()
    ]


def _flattened_shapes(model: nn.Module) -> dict[int, torch.Size]:
    """The true shapes of parameters that FSDP1 holds as flat shards (``use_orig_params=True``), by identity."""
    shapes: dict[int, torch.Size] = {}
    for module in model.modules():
        flat = getattr(getattr(module, "_handle", None), "flat_param", None)
        if flat is not None and getattr(flat, "_params", None) is not None:
            shapes |= {id(own): shape for own, shape in zip(flat._params, flat._shapes, strict=True)}
    return shapes


def some(names: Sequence[str], limit: int = 6, between: str = ", ") -> str:
    """The first names of a list for a message, and how many more there are.

    Example:
        >>> some(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    shown = between.join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _walk(
    module: nn.Module, prefix: str, above: Path, order: Iterator[int]
) -> Iterator[tuple[Occurrence, nn.Parameter]]:
    path = (*above, PathStep(prefix.removesuffix("."), module))
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield Occurrence(prefix + name, module, path, next(order)), parameter
    for name, child in module._modules.items():
        if child is None:
            continue
        if name == "parametrizations" and is_parametrized(module):
            yield from _walk_parametrizations(module, child, prefix, path, order)
        elif _is_wrapper_child(module, name):
            yield from _walk(child, prefix, path, order)
        else:
            yield from _walk(child, f"{prefix}{name}.", path, order)


def _walk_parametrizations(
    module: nn.Module, lists: nn.Module, prefix: str, path: Path, order: Iterator[int]
) -> Iterator[tuple[Occurrence, nn.Parameter]]:
    """A parametrized tensor belongs to the module that uses it, not to torch's list of parametrizations."""
    for tensor_name, parametrizations in lists._modules.items():
        assert parametrizations is not None
        for name, parameter in parametrizations._parameters.items():
            if parameter is not None:
                tail = "" if name == "original" else f".{name}"
                yield Occurrence(f"{prefix}{tensor_name}{tail}", module, path, next(order)), parameter
        for name, child in parametrizations._modules.items():
            if child is not None:
                yield from _walk(child, f"{prefix}{tensor_name}.{name}.", path, order)


def _is_wrapper_child(parent: nn.Module, name: str) -> bool:
    """``module`` is a wrapper's child only where the parent holds nothing else; a sibling would lose its name to it."""
    if name in _WRAPPERS:
        return True
    return name == "module" and len(parent._modules) == 1 and not parent._parameters
