"""What a workload steps on: tensors of given shapes, state that is put back, facts for the record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrdiff_core.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

__all__ = [
    "BYTES_STEP",
    "Shapes",
    "model_shapes",
    "optimizer_facts",
    "rate_groups",
    "restore_tensors",
    "restorer",
    "state_tensors",
    "tensors",
]

Shapes = Mapping[str, tuple[int, ...]]

BASE_RATE = 1e-3
BYTES_STEP = 28  # AdamW in float32: reads parameter, gradient and two moments, writes all but the gradient
_DISTINCT = 2**20  # random numbers that are drawn; larger tensors repeat them


@cache
def model_shapes(name: str) -> Shapes:
    """Names and shapes of a model's trainable parameters.

    ``thousand`` is made up, for what real models do not have: 1000 tensors of 1024 numbers. The others are data that
    ``benchmarks/generate_shapes.py`` took from the libraries' own configurations.

    Raises:
        ConfigError: there is no such model.

    Example:
        >>> len(model_shapes("bert_base")), sum(prod(shape) for shape in model_shapes("bert_base").values())
        (199, 109482240)
    """
    if name == "thousand":
        return {f"layer{i}.weight": (32, 32) for i in range(1000)}
    models = json.loads(Path(__file__).with_name("shapes.json").read_text(encoding="utf-8"))["models"]
    if name not in models:
        raise ConfigError(f"no shapes are called {name!r}", help=f"shapes: thousand, {', '.join(models)}")
    return {key: tuple(shape) for key, shape in models[name]["parameters"]}


def tensors(shapes: Shapes, *, device: str = "cpu", seed: int = 0) -> dict[str, nn.Parameter]:
    """Parameters with gradients, normally distributed, the same for the same seed.

    Args:
        shapes: by name.
        device: where to.
        seed: of the numbers.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(min(_DISTINCT, 2 * max(map(prod, shapes.values()))), generator=generator)

    def filled(shape: tuple[int, ...], offset: int) -> Tensor:
        size = prod(shape)
        repeated = pool.roll(offset).repeat(-(-size // len(pool)))[:size]
        return repeated.reshape(shape).to(device, copy=True)

    made = {}
    for i, (name, shape) in enumerate(shapes.items()):
        made[name] = torch.nn.Parameter(filled(shape, 2 * i))
        made[name].grad = filled(shape, 2 * i + 1)
    return made


def rate_groups(parameters: Sequence[nn.Parameter], rates: int | str) -> list[dict[str, Any]]:
    """Parameter groups of neighbours, each with its own rate.

    Args:
        parameters: in the model's order.
        rates: how many, or "each" for one a tensor.

    Raises:
        ConfigError: more rates than tensors.
    """
    count = len(parameters) if rates == "each" else int(rates)
    if count > len(parameters):
        raise ConfigError(f"{len(parameters)} tensors cannot have {count} rates", help="ask for fewer, or for each")
    size = len(parameters)
    return [
        {"params": list(parameters[i * size // count : (i + 1) * size // count]), "lr": BASE_RATE * (1 + i / count)}
        for i in range(count)
    ]


def restorer(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    """A function that puts weights, gradients and optimizer state back, in place, to what they are now.

    Most optimizers build their state on the first step: take one before, or there is nothing to put back.
    """
    weights = list(model.parameters())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return restore_tensors([*weights, *gradients, *state_tensors(optimizer)])


def restore_tensors(kept: Sequence[Tensor]) -> Callable[[], None]:
    """A function that puts these tensors back, in place, to what they hold now."""
    import torch

    saved = [tensor.detach().clone() for tensor in kept]

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in zip(kept, saved, strict=True):
                tensor.copy_(value)

    return restore


def state_tensors(optimizer: Optimizer) -> list[Tensor]:
    """Every tensor of an optimizer's state."""
    import torch

    return [value for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]


def optimizer_facts(optimizer: Optimizer) -> dict[str, Any]:
    """What a reader of the numbers wants to know: class, flags, numbers of groups, rates, tensors, parameters."""
    groups = optimizer.param_groups
    parameters: list[torch.Tensor] = [p for group in groups for p in group["params"]]
    return {
        "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "foreach": groups[0].get("foreach"),
        "fused": groups[0].get("fused"),
        "groups": len(groups),
        "rates": len({float(group["lr"]) for group in groups}),
        "tensors": len(parameters),
        "parameters": sum(p.numel() for p in parameters),
    }
