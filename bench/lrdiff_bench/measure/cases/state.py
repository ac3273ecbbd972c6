"""What a workload steps on: tensors of given shapes, state that is put back, facts for the record."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrdiff_bench.measure.engine.case import Workload
from lrdiff_core.errors import ConfigError
from lrdiff_core.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

__all__ = [
    "BYTES_STEP",
    "Shapes",
    "evict_caches",
    "model_shapes",
    "optimizer_facts",
    "rate_groups",
    "restore_tensors",
    "restorer",
    "state_tensors",
    "step_workload",
    "tensors",
]

Shapes = Mapping[str, tuple[int, ...]]

BASE_RATE = 1e-3
LAYER_DECAY = 0.9
# Bytes a number that a step moves in float32: parameter, gradient and moments are read, all but the gradient written.
BYTES_STEP = {name: 4 * (3 + 2 * entry.moments) for name, entry in OPTIMIZERS.items() if not entry.routed}
LEAST_STREAMED = 64 * 2**20
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")  # a part of a name by itself: layer.3, not sh0
_STREAMED: list[Tensor] = []  # made once a process, when first needed
_DISTINCT = 2**20  # random numbers that are drawn; larger tensors repeat them


@cache
def model_shapes(name: str) -> Shapes:
    """Names and shapes of a model's trainable parameters.

    ``thousand`` is made up, for what real models do not have: 1000 tensors of 1024 numbers. The others are data that
    ``benchmarks/overhead/generate_shapes.py`` took from the libraries' own configurations.

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


def rate_groups(parameters: Mapping[str, nn.Parameter], rates: int | str) -> list[dict[str, Any]]:
    """Parameter groups, each with its own rate.

    Args:
        parameters: by name, in the model's order.
        rates: how many, of neighbours; "each" for one a tensor; "layers" for layer-wise decay, without weight decay
            for vectors (biases, norms): what comes before the first numbered layer is the lowest, what comes after the
            last one the highest; without numbers every module is a layer.

    Raises:
        ConfigError: more rates than tensors.
    """
    if rates == "layers":
        return _by_layer(parameters)
    count = len(parameters) if rates == "each" else int(rates)
    size = len(parameters)
    if count > size:
        raise ConfigError(f"{size} tensors cannot have {count} rates", help="ask for fewer, or for each")
    values = list(parameters.values())
    return [
        {"params": values[i * size // count : (i + 1) * size // count], "lr": BASE_RATE * (1 + i / count)}
        for i in range(count)
    ]


def _by_layer(parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    layers: dict[str, int] = {}
    numbered = any(map(_NUMBER.search, parameters))
    seen = "first"
    keys = []
    for name in parameters:
        number = _NUMBER.search(name)
        if numbered:
            seen = number[1] if number else "last" if seen != "first" else "first"
        keys.append(seen if numbered else name.rpartition(".")[0] or name)
        layers.setdefault(keys[-1], len(layers))
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for key, p in zip(keys, parameters.values(), strict=True):
        groups.setdefault((layers[key], p.dim() > 1), []).append(p)
    return [
        {"params": several, "lr": BASE_RATE * LAYER_DECAY ** (len(layers) - 1 - layer), "weight_decay": 0.01 * decays}
        for (layer, decays), several in groups.items()
    ]


def step_workload(
    optimizer: Optimizer,
    step: Callable[[], object] | None = None,
    *,
    before: Callable[[], object] | None = None,
    device: str = "cpu",
    parity: bool = True,
    facts: Mapping[str, object] | None = None,
) -> Workload:
    """The step of an optimizer on the gradients that are there, its state put back before every block.

    Most optimizers build their state on the first step: take one before, or there is nothing to put back.

    Args:
        optimizer: with gradients in place and state made.
        step: what steps it; left out, its own method.
        before: untimed, before every step.
        device: of the parameters.
        parity: compare with PyTorch's plain loop in float64, or ours where it has none of the rule.
        facts: left out, :func:`optimizer_facts`.
    """
    from lrdiff_bench.measure.cases.optimizer_error import optimizer_parity

    step = optimizer.step if step is None else step
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return Workload(
        step=step,
        reset=restore_tensors([*parameters, *state_tensors(optimizer)]),  # nothing changes the gradients
        device=device,
        facts=optimizer_facts(optimizer) if facts is None else facts,
        parity=optimizer_parity(optimizer, step) if parity else None,
        before=before,
    )


def evict_caches() -> None:
    """Read and write more memory than the last cache holds, so that what comes next finds its own memory cold."""
    import torch

    if not _STREAMED:
        _STREAMED.append(torch.zeros(max(LEAST_STREAMED, 2 * _last_cache()) // 4))
    _STREAMED[0].add_(1.0)


def _last_cache() -> int:
    """Bytes of the largest cache, 0 where the system does not say."""
    sizes = [file.read_text().strip() for file in _CACHES.glob("index*/size")]
    return max((int(size[:-1]) * {"K": 2**10, "M": 2**20}[size[-1]] for size in sizes if size[-1:] in "KM"), default=0)


def restorer(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    """A function that puts weights, gradients and optimizer state back, in place, to what they are now.

    Most optimizers build their state on the first step: take one before, or there is nothing to put back.
    """
    weights = list(model.parameters())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return restore_tensors([*weights, *gradients, *state_tensors(optimizer)])


def restore_tensors(tensors: Sequence[Tensor]) -> Callable[[], None]:
    """A function that puts these tensors back, in place, to what they hold now."""
    import torch

    saved = [tensor.detach().clone() for tensor in tensors]

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
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
