"""W1, the seed: the example the project began with, as a question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lrdiff_bench.study.workloads.common import PopulationWorkload
from lrdiff_bench.study.workloads.workload import Scheme, Trials, register_workload

if TYPE_CHECKING:
    from lrdiff_core.loop import Setup
    from lrdiff_core.population import PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["Seed", "seed_adam", "seed_sgd"]

EPOCHS = 10  # as the example
STEPS_AN_EPOCH = 28  # 700 training rows, 25 at a time


@dataclass(frozen=True, kw_only=True)
class Seed(PopulationWorkload):
    """1000 rows of 10 features, drawn anew for every seed; a 10-5-1 network, as the preset ``seed`` trains it."""

    def rows(self, seed: int, judged_on: str) -> PopulationData:
        from lrdiff_core.population import PopulationData

        return PopulationData.of(setup_of(seed).rows, held=judged_on)

    def network(self, trials: Trials) -> ModelFactory:
        from lrdiff_core import build_model

        spec = setup_of(int(trials.seeds[0])).net.spec
        return lambda seed: build_model(spec, seed=seed)

    def tiny(self) -> Seed:
        return replace(self, steps=STEPS_AN_EPOCH, evaluations=2)


def setup_of(seed: int) -> Setup:
    """Rows, split and initial weights of the preset at another seed."""
    from lrdiff_core import PRESETS, load_table, make_config, set_up

    return set_up(load_table("seed", seed=seed), make_config(PRESETS["seed"]), seed=seed)


def _seed(optimizer: str, *, base_rates: tuple[float, float]) -> Seed:
    return Seed(
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
        steps=EPOCHS * STEPS_AN_EPOCH,
        optimizer=optimizer,
        batch_size=25,
    )


@register_workload("seed-adam")
def seed_adam() -> Seed:
    """The seed example with Adam, as the preset."""
    return _seed("adam", base_rates=(1e-4, 10.0))


@register_workload("seed-sgd")
def seed_sgd() -> Seed:
    """The seed example with SGD."""
    return _seed("sgd", base_rates=(1e-3, 100.0))
