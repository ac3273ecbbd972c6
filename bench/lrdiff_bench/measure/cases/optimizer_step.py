"""The optimizer step: which implementation, how many rates, on which model's tensors, with hot or cold caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.state import (
    BYTES_STEP,
    evict_caches,
    model_shapes,
    optimizer_facts,
    rate_groups,
    step_workload,
    tensors,
)
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import case_family
from lrdiff_core.devices import compiler_status, device_status
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.setup import set_mode

__all__ = ["IMPLEMENTATIONS", "RULES", "Implementation", "build_optimizer", "memory_copy", "optimizer_step"]

# Not Muon, whose groups a router makes, and whose step is the matrix products that torch's is, too.
RULES = ("adamw", *(name for name, entry in OPTIMIZERS.items() if not entry.routed and name != "adamw"))
_OF_TORCH = tuple(name for name in RULES if hasattr(torch.optim, OPTIMIZERS[name].kind))

# Of these, shapes.json has the shapes.
REAL = ("resnet50", "vit_b16", "bert_base", "gpt2_small", "lora_bert", "gaussians")
COUNTS: tuple[int | str, ...] = (1, 2, 8, 32, 128, 1000, "each")
MOMENTUM = 0.9
COPIED = 2**26  # numbers a tensor, 256 MiB: far beyond any cache

Groups = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One way to take the step.

    Args:
        label: in tables.
        make: the optimizer of a name, one of ``RULES``, over groups.
        step: what takes its step once there is state; left out, the optimizer's own method.
        context: around the first step, in which the optimizer chooses how it will step.
        devices: where it runs.
        optimizers: those it has.
        package: that must be installed.
        compiled: by torch.compile.
        workload: makes the whole workload where there is no optimizer of torch's interface.
    """

    label: str
    make: Callable[[str, Groups], torch.optim.Optimizer] | None = None
    step: Callable[[torch.optim.Optimizer], Callable[[], object]] | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    optimizers: tuple[str, ...] = ("adamw", "adam", "sgd")
    package: str | None = None
    compiled: bool = False
    workload: Callable[[Groups, Callable[[], object] | None], Workload] | None = None

    def unavailable(self, optimizer: str, device: str) -> str | None:
        """Why it cannot step so here, or None."""
        if device not in self.devices:
            return f"needs {' or '.join(self.devices)}"
        if optimizer not in self.optimizers:
            return f"has no {optimizer}"
        if self.package is not None and find_spec(self.package) is None:
            return f"{self.package} is not installed: pip install {self.package}"
        return compiler_status().reason if self.compiled and device == "cpu" else None


def build_optimizer(name: str, groups: Groups, *, home: Any = torch.optim, **flags: Any) -> torch.optim.Optimizer:
    """An optimizer of torch's interface.

    Args:
        name: one of ``RULES``; with momentum 0.9 where it takes that.
        groups: with their rates.
        home: the module that has it.
        flags: its options, such as ``fused``.
    """
    kind = getattr(home, OPTIMIZERS[name].kind)
    options = {"momentum": MOMENTUM} if OPTIMIZERS[name].momentum else {}
    made: torch.optim.Optimizer = kind(groups, **options, **flags)
    return made


def _ours(name: str, groups: Groups, **flags: Any) -> torch.optim.Optimizer:
    from lrdiff_core import optim

    return build_optimizer(name, groups, home=optim, **flags)


def _loop(name: str, groups: Groups) -> torch.optim.Optimizer:
    """What steps in our rule's own file where the kernel has no place."""
    from lrdiff_core import optim

    made: torch.optim.Optimizer = getattr(optim, OPTIMIZERS[name].kind)._torch_class(groups)
    return made


def _deepspeed(name: str, groups: Groups) -> torch.optim.Optimizer:
    """DeepSpeed's ``DeepSpeedCPUAdam``: https://deepspeed.readthedocs.io/en/latest/optimizers.html."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam  # type: ignore[import-not-found]

    made: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, adamw_mode=name == "adamw")
    return made


def _from(module: str, kinds: Mapping[str, str], name: str, groups: Groups) -> torch.optim.Optimizer:
    import importlib

    made: torch.optim.Optimizer = getattr(importlib.import_module(module), kinds[name])(groups)
    if hasattr(made, "consume_grad"):  # heavyball's: gradients stay where they are, as with all the others
        made.consume_grad = False
    return made


def _captured(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """The step alone, captured once and replayed."""
    from lrdiff_export.model.capture import capture

    graph, _ = capture(optimizer.step)
    replay: Callable[[], object] = graph.replay
    return replay


def _triton() -> AbstractContextManager[Any]:
    from lrdiff_export.training.optimizers import triton_switched_on

    return triton_switched_on()


def _optax(groups: Groups, before: Callable[[], object] | None) -> Workload:
    """``optax.multi_transform`` with AdamW for each label, compiled, buffers donated."""
    import jax
    import optax

    parameters = [p for group in groups for p in group["params"]]
    labels = {str(i): f"group{g}" for i, g in enumerate(g for g, group in enumerate(groups) for _ in group["params"])}
    first = {str(i): p.detach().numpy() for i, p in enumerate(parameters)}
    grads = {str(i): jax.numpy.asarray(p.grad.numpy()) for i, p in enumerate(parameters)}
    rule = optax.multi_transform(
        {
            f"group{g}": optax.adamw(one["lr"], weight_decay=one.get("weight_decay", 0.01))
            for g, one in enumerate(groups)
        },
        labels,
    )

    def update(params: Any, state: Any, grads: Any) -> Any:
        changes, state = rule.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    held: dict[str, Any] = {}

    def reset() -> None:
        held["params"] = {name: jax.numpy.array(value) for name, value in first.items()}
        held["state"] = rule.init(held["params"])

    def step() -> None:
        held["params"], held["state"] = compiled(held["params"], held["state"], grads)
        jax.block_until_ready(held["params"])

    reset()
    return Workload(step=step, reset=reset, before=before, facts={"optimizer": "optax.adamw", "groups": len(groups)})


IMPLEMENTATIONS: Mapping[str, Implementation] = {
    "ours": Implementation(label="lrdiff", make=_ours, optimizers=RULES),
    "fused": Implementation(
        label="torch fused", make=partial(build_optimizer, fused=True),
        optimizers=tuple(name for name in RULES if OPTIMIZERS[name].fused),
    ),
    "foreach": Implementation(label="torch foreach", make=partial(build_optimizer, foreach=True), optimizers=_OF_TORCH),
    # torch chooses by itself: the loop on the CPU, foreach on CUDA.
    "default": Implementation(label="torch default", make=build_optimizer, optimizers=_OF_TORCH),
    "compiled": Implementation(label="torch compiled", make=build_optimizer, compiled=True),
    "ours-triton": Implementation(
        label="lrdiff, Triton", make=_ours, context=_triton, devices=("cuda",), optimizers=("adamw", "adam"),
        package="triton",
    ),
    "ours-graph": Implementation(
        label="lrdiff, in a graph", make=partial(_ours, capturable=True), step=_captured, devices=("cuda",),
        optimizers=("adamw", "adam"),
    ),
    "fused-graph": Implementation(
        label="torch fused, in a graph", make=partial(build_optimizer, fused=True, capturable=True), step=_captured,
        devices=("cuda",), optimizers=("adamw", "adam"),
    ),
    "optax": Implementation(
        label="optax multi_transform", workload=_optax, devices=("cpu",), optimizers=("adamw",), package="optax"
    ),
    "deepspeed": Implementation(
        label="DeepSpeed CPUAdam", make=_deepspeed, devices=("cpu",), optimizers=("adamw", "adam"), package="deepspeed"
    ),
    "torchao": Implementation(
        label="torchao 8-bit", make=partial(_from, "torchao.optim", {"adamw": "AdamW8bit"}), optimizers=("adamw",),
        package="torchao",
    ),
    "heavyball": Implementation(
        label="heavyball", make=partial(_from, "heavyball", {"adamw": "AdamW"}), optimizers=("adamw",),
        package="heavyball",
    ),
    "loop": Implementation(
        label="plain loop", make=_loop, devices=("cpu",), optimizers=tuple(n for n in RULES if n not in _OF_TORCH)
    ),
    "schedulefree": Implementation(
        label="schedulefree", make=partial(_from, "schedulefree", {"schedule_free": "AdamWScheduleFree"}),
        devices=("cpu",), optimizers=("schedule_free",), package="schedulefree",
    ),
    "pytorch_optimizer": Implementation(
        label="pytorch_optimizer", make=partial(_from, "pytorch_optimizer", {"lion": "Lion", "lamb": "Lamb"}),
        devices=("cpu",), optimizers=("lion", "lamb"), package="pytorch_optimizer",
    ),
}  # fmt: skip


@cache
def _tensors_of(shapes: str) -> int:
    return len(MODELS[shapes]().trainable()) if shapes in MODELS else len(model_shapes(shapes))


def _unavailable(
    *, shapes: str, optimizer: str, implementation: str, rates: int | str, caches: str, device: str, threads: int
) -> str | None:
    status = device_status(device)
    if not status.available:
        return status.reason
    if isinstance(rates, int) and rates > 2 and rates > _tensors_of(shapes):
        return f"{shapes} has {_tensors_of(shapes)} tensors"
    if caches == "cold" and device != "cpu":
        return "cold caches are those of the CPU"
    return IMPLEMENTATIONS[implementation].unavailable(optimizer, device)


@case_family(
    version="2",
    parameters={
        "shapes": ("lora_bert", "thousand", *(name for name in REAL if name != "lora_bert"), *MODELS),
        "optimizer": RULES,
        "implementation": tuple(IMPLEMENTATIONS),
        "rates": (*COUNTS, "layers"),
        "caches": ("hot", "cold"),
        "device": ("cpu", "cuda", "mps"),
        "threads": (1, 2, 4, 8, 16),
    },
    views={
        "rates": {"shapes": ("thousand",), "implementation": ("ours", "fused", "foreach", "default"), "rates": COUNTS},
        "models": {"shapes": REAL, "implementation": ("ours", "fused"), "rates": (1, "each")},
        "optimizers": {"optimizer": ("adamw", "adam", "sgd"), "implementation": ("ours", "fused"), "rates": (1, 32)},
        "compiled": {"implementation": ("compiled",), "rates": (1, 8)},
        "cold": {"shapes": ("mlp", "transformer"), "implementation": ("ours", "fused"), "rates": ("layers",), "caches": ("cold",)},  # noqa: E501
        "threads": {"shapes": ("resnet50",), "implementation": ("ours", "fused"), "rates": (32,), "threads": (1, 2)},
        "devices": {"device": ("cuda", "mps"), "implementation": ("ours", "fused", "foreach"), "rates": (1, 32)},
    },
    quick={"implementation": ("ours", "fused"), "rates": (1, 32)},
    unavailable=_unavailable,
)  # fmt: skip
def optimizer_step(
    shapes: str, optimizer: str, implementation: str, rates: int | str, caches: str, device: str, threads: int
) -> Workload:
    """Optimizer step over the parameters of a model, again and again (hot) or as a training loop finds it (cold)."""
    how = IMPLEMENTATIONS[implementation]
    before: Callable[[], object] | None = None
    if shapes in MODELS:
        model = MODELS[shapes]().to(device)
        model.backward()
        parameters: Mapping[str, nn.Parameter] = model.trainable()
        before = model.backward
    else:
        parameters = tensors(model_shapes(shapes), device=device)
        before = evict_caches if caches == "cold" else None
    groups = rate_groups(parameters, rates)
    if caches == "hot":
        before = None
    if how.workload is not None:
        return how.workload(groups, before)
    assert how.make is not None
    made = how.make(optimizer, groups)
    set_mode(made, "train")
    with how.context():
        made.step()  # makes the state, and what is kept for the next steps
    if before is None and any(p.grad is None for group in made.param_groups for p in group["params"]):
        raise RuntimeError(f"{how.label} takes the gradients away: a second step would have none")
    step: Callable[[], object] = made.step if how.step is None else how.step(made)
    if how.compiled:
        step = torch.compile(step)
    return step_workload(
        made, step, before=before, device=device, parity=how.package in (None, "triton"),
        facts={
            **optimizer_facts(made), "implementation": how.label, "compiled": how.compiled,
            "bytes": BYTES_STEP[optimizer] * sum(p.numel() for p in parameters.values()),
        },
    )  # fmt: skip


@case_family(
    version="1",
    parameters={"device": ("cpu", "cuda", "mps"), "threads": (1, 2, 4, 8, 16)},
    views={"": {"threads": (1, 2)}},
    unavailable=lambda *, device, threads: device_status(device).reason,
    parity=False,
)
def memory_copy(device: str, threads: int) -> Workload:
    """Addition of 256 MiB to 256 MiB in place: what memory gives when nothing else is in the way."""
    # In place, as a step is: a copy to elsewhere reads the target's lines before it writes them, unseen.
    target, source = torch.zeros(COPIED, device=device), torch.ones(COPIED, device=device)
    return Workload(
        step=lambda: target.add_(source), reset=target.zero_, device=device, facts={"bytes": 3 * 4 * COPIED}
    )
