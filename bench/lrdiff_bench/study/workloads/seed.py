"""W1, the seed: the example the project began with, as a question."""

from __future__ import annotations

from lrdiff_bench.study.workloads.common import RunWorkload
from lrdiff_bench.study.workloads.workload import Scheme, register_workload
from lrdiff_core.config import PRESETS

__all__ = ["seed_adam", "seed_sgd"]

STEPS_AN_EPOCH = 28  # 700 training rows, 25 at a time


def _seed(optimizer: str, *, base_rates: tuple[float, float]) -> RunWorkload:
    settings = {**PRESETS["seed"], "optimizer": optimizer}
    return RunWorkload(
        name=f"seed-{optimizer}",
        title=f"the seed example, {optimizer.upper() if optimizer == 'sgd' else 'Adam'}",
        question="Does another rate for the second layer help the network that the project began with?",
        groups=("hidden", "output"),
        schemes=(
            Scheme(name="single", ratios={"hidden": 1.0, "output": 1.0}),
            Scheme(name="ratio 0.1", ratios={"hidden": 1.0, "output": 0.1}),  # the example's own
            Scheme(name="ratio 10", ratios={"hidden": 1.0, "output": 10.0}),
            Scheme(name="free", ratios={"hidden": 1.0}, free={"output": (1e-3, 1e3)}),
        ),
        metric="loss",
        base_rates=base_rates,
        default_rate=0.001,  # torch's own for both
        smallest_difference=0.01,  # nats; the example's trace of losses is given to two decimals
        steps=STEPS_AN_EPOCH * int(settings["epochs"]),
        optimizer=optimizer,
        batch_size=int(settings["batch_size"]),
        settings=settings,
    )


@register_workload("seed-adam")
def seed_adam() -> RunWorkload:
    """The seed example with Adam, as the preset."""
    return _seed("adam", base_rates=(1e-4, 10.0))


@register_workload("seed-sgd")
def seed_sgd() -> RunWorkload:
    """The seed example with SGD."""
    return _seed("sgd", base_rates=(1e-3, 100.0))
