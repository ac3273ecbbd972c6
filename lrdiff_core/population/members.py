"""What each member has of its own: rates and other hyperparameters, initial weights, the order of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrdiff_core.errors import ConfigError, RateError
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.population.settings import PopulationOptions
from lrdiff_core.rates import RatePlan
from lrdiff_core.seeds import derive_seed, make_generator

__all__ = [
    "Hyperparameters",
    "ModelFactory",
    "build",
    "build_inside",
    "hyperparameters",
    "parameter_groups",
    "row_order",
    "seed_list",
]

ModelFactory = Callable[[int], nn.Module]

_LOWEST = "write numbers of 0 or more"
_UNIT = "write numbers in [0, 1)"


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Hyperparameters of the members, [members, groups + 1] float64 each; the last column is for frozen parameters."""

    rate: Tensor
    weight_decay: Tensor
    beta1: Tensor  # SGD and RMSprop: momentum
    beta2: Tensor  # RMSprop: alpha
    eps: Tensor

    def take(self, members: Tensor) -> Hyperparameters:
        """The columns of some members."""
        return Hyperparameters(**{name: values[members].contiguous() for name, values in vars(self).items()})


def seed_list(seeds: int | Sequence[int] | Tensor, members: int) -> list[int]:
    """Return one seed a member.

    Raises:
        ConfigError: not as many seeds as members, or one that is no whole number from 0 up.
    """
    given: Any = seeds.tolist() if hasattr(seeds, "tolist") else seeds  # tensors and arrays
    found: list[int] = list(given) if isinstance(given, Sequence) else [given] * members
    if len(found) != members:
        raise ConfigError(
            f"there are {len(found)} seeds for {members} members", help="give one seed per member, or one for all"
        )
    for seed in found:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError(f"seed is {seed!r}", help="write a whole number from 0 to 2**63 - 1")
    return found


def build(model_factory: ModelFactory, seed: int) -> nn.Module:
    """Make the model of ``seed``; torch's global generator is seeded for the call and put back.

    So a factory that takes its weights from the seed and one that leaves them to torch's own initialisation both give
    the same model for the same seed.

    Raises:
        ConfigError: the factory gives no module, or one with parameters that have no shape yet.
    """
    with torch.random.fork_rng(devices=[]):
        return build_inside(model_factory, seed)


def build_inside(model_factory: ModelFactory, seed: int) -> nn.Module:
    """As :func:`build`, for many: the caller puts torch's global generator back, once for all of them."""
    torch.default_generator.manual_seed(derive_seed(seed, "init"))
    model = model_factory(seed)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"the model factory returned {type(model).__name__}", help="return a torch.nn.Module for a seed"
        )
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ConfigError(
                f'parameter "{name}" has no shape yet',
                help="give lazy modules their sizes, or run a batch in the factory",
            )
    return model


def row_order(seed: int, rows: int, epochs: int) -> Tensor:
    """Rows in the order a solo run of ``seed`` takes them, [epochs * rows] int32."""
    generator = make_generator(seed, "order")
    return torch.cat([torch.randperm(rows, generator=generator) for _ in range(epochs)]).to(torch.int32)


def parameter_groups(
    model: nn.Module, groups: Mapping[str, int] | RatePlan | None, columns: int
) -> tuple[tuple[str, ...], ...]:
    """Say which parameters learn at which column of the rates.

    Args:
        model: its parameters with ``requires_grad``.
        groups: column of each parameter by name; or a rate plan, whose ``groups()`` are the columns; or None: one
            column for each layer (module that holds parameters) in order, and one column serves all layers.
        columns: how many there are.

    Returns:
        Names of the parameters of each column.

    Raises:
        RateError: a parameter without a column, a name the model does not have, a column without a parameter.

    Example:
        >>> parameter_groups(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), None, 2)
        (('0.weight', '0.bias'), ('1.weight', '1.bias'))
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if isinstance(groups, RatePlan):
        groups = {name: i for i, group in enumerate(groups.groups()) for name in group["param_names"]}
    if groups is None:
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        if columns not in (1, len(layers)):
            raise RateError(
                f"rates have {columns} columns and the model {len(layers)} layers",
                help=f"give a column for each of {', '.join(layers)}; one for all; or groups={{parameter: column}}",
            )
        groups = {name: 0 if columns == 1 else layers.index(name.rpartition(".")[0]) for name in names}
    if missing := [name for name in names if name not in groups]:
        raise RateError(f'parameter "{missing[0]}" has no column in groups', help="name every parameter that learns")
    known = {name for name, _ in model.named_parameters()}
    for name, column in groups.items():
        if name not in known:
            raise RateError(f'the model has no parameter "{name}"', help=f"it has: {', '.join(names)}")
        if isinstance(column, bool) or not isinstance(column, int) or not 0 <= column < columns:
            raise RateError(
                f'parameter "{name}" is in column {column!r} of {columns}', help=f"write 0 to {columns - 1}"
            )
    found = tuple(tuple(name for name in names if groups[name] == column) for column in range(columns))
    if () in found:
        raise RateError(f"column {found.index(())} of the rates serves no parameter", help="leave it out")
    return found


def hyperparameters(rates: Tensor, options: PopulationOptions) -> Hyperparameters:
    """Check the hyperparameters and give each member its own.

    Args:
        rates: [members, groups] float64.
        options: ``"sgd"`` takes momentum, ``"adam"`` and ``"adamw"`` betas and eps, ``"rmsprop"`` momentum, alpha, eps.

    Raises:
        RateError: a rate that is negative or not finite.
        ConfigError: another hyperparameter outside its interval, or of another shape.
    """
    bad = ~(torch.isfinite(rates) & (rates >= 0))
    if bad.any():
        member, group = (int(i) for i in bad.nonzero()[0])
        raise RateError(
            f"rate of member {member} in group {group} is {float(rates[member, group])}",
            help="write finite numbers of 0 or more (0 keeps a group as it is)",
        )
    pushed, betas = OPTIMIZERS[options.optimizer].momentum, options.betas
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ConfigError(f"betas is {betas!r}", help="write a pair, such as (0.9, 0.999)")
    spread = {
        "weight_decay": _spread("weight_decay", options.weight_decay, rates, math.inf, _LOWEST),
        "momentum": _spread("momentum", options.momentum, rates, 1.0, _UNIT),
        "beta1": _spread("betas[0]", betas[0], rates, 1.0, _UNIT),
        "beta2": _spread("betas[1]", betas[1], rates, 1.0, _UNIT),
        "eps": _spread("eps", options.eps, rates, math.inf, _LOWEST),
        "alpha": _spread("alpha", options.alpha, rates, 1.0, _UNIT),
    }
    has_momentum = bool((spread["momentum"] > 0).any())
    if not pushed and has_momentum:
        raise ConfigError(
            f"momentum is set, and {options.optimizer} takes none", help='write optimizer="sgd", or betas'
        )
    if options.nesterov and not bool((spread["momentum"] > 0).all()):
        raise ConfigError("nesterov is set without momentum", help="give every member a momentum in (0, 1)")
    frozen = torch.zeros(len(rates), 1, dtype=torch.float64)

    def with_frozen(values: Tensor, last: float) -> Tensor:
        return torch.cat([values, frozen + last], dim=1).contiguous()

    return Hyperparameters(
        rate=with_frozen(rates, 0.0),
        weight_decay=with_frozen(spread["weight_decay"], 0.0),
        beta1=with_frozen(spread["momentum" if pushed else "beta1"], 0.0),
        beta2=with_frozen(spread["alpha" if options.optimizer == "rmsprop" else "beta2"], 0.0),
        eps=with_frozen(spread["eps"], 1.0),
    )


def _spread(name: str, value: Any, like: Tensor, limit: float, way: str) -> Tensor:
    """One number, [members] or [members, groups] to [members, groups]; each in [0, limit)."""
    try:
        given = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ConfigError(f"{name} is {value!r}", help=way) from problem
    if given.shape == like.shape[:1]:
        given = given[:, None]
    if given.ndim and given.shape not in (like.shape, (len(like), 1)):
        raise ConfigError(
            f"{name} has the shape {list(given.shape)}",
            help=f"give one number, [{len(like)}] (members) or {list(like.shape)} (members, groups)",
        )
    wrong = ~((given >= 0) & (given < limit))
    if wrong.any():
        raise ConfigError(f"{name} is {float(given[wrong].flatten()[0])}", help=way)
    return given.expand(like.shape)
