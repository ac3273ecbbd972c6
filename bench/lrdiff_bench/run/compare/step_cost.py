"""What different rates cost: the optimizer step with the run's rates against the same step with one rate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from lrdiff_bench.measure.cases.state import step_workload
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.compare import compare_cases
from lrdiff_bench.measure.engine.timing import Timing
from lrdiff_core.loop import Trained, loss_function
from lrdiff_core.setup import make_optimizer, plan_rates

__all__ = ["measure_step_cost", "time_groups"]

ROUNDS = 40  # of four blocks of 10 ms: 1.6 s


def measure_step_cost(trained: Trained) -> dict[str, Any]:
    """Time the optimizer step with the run's rates and with one rate, alternating in one run on one thread.

    The step alone is timed, on the CPU, on gradients of one training batch; weights and state are put back before
    every block. One rate means one parameter group.

    Args:
        trained: its weights and rows are used; it is not changed.

    Returns:
        The section ``step_cost`` of the summary: one row a side, and the ratio with its 95 % interval.
    """
    setup = trained.setup
    rates, config = setup.rates, setup.config
    one = dict.fromkeys(rates, max(rates.values()))

    def factory(assigned: dict[str, float]) -> Workload:
        net = copy.deepcopy(trained.net)
        plan = plan_rates(net, assigned, config)
        optimizer = make_optimizer(config.optimizer, plan.groups(), momentum=config.momentum)
        inputs, targets = (part["train"][: setup.batch_size].cpu() for part in (setup.rows.inputs, setup.rows.targets))
        loss_function(net.spec.task)(net.network(inputs), targets).backward()
        optimizer.step()  # makes the optimizer's state
        return step_workload(optimizer, parity=False)

    return time_groups(lambda single: factory(one if single else rates), len(set(rates.values())))


def time_groups(factory: Callable[[bool], Workload], several: int) -> dict[str, Any]:
    """Time two ways to step the same weights.

    Args:
        factory: makes the step with one group (True), or with the groups of the plan.
        several: rates of the plan.

    Returns:
        As :func:`measure_step_cost`; why it was skipped where the plan has one rate.
    """

    def case(single: bool) -> Case:
        rates = 1 if single else several
        return Case(name="step", version="1", parameters={"rates": rates}, factory=lambda: factory(single))

    if several < 2:  # the same step twice would only show how restless the machine is
        return {"skipped": "the model was trained with one rate, so there are no different rates to pay for"}
    result = compare_cases(case(True), case(False), rounds=ROUNDS, threads=1)
    return {
        "rows": [_row("one rate", 1, result.a), _row(f"{several} rates", several, result.b)],
        "question": f"{several} rates against one",
        "ratio": result.ratio.estimate,
        "interval": [result.ratio.low, result.ratio.high],
        "verdict": result.verdict,
        "threads": result.a.threads,
        "torch": torch.__version__,
    }


def _row(name: str, groups: int, timing: Timing) -> dict[str, Any]:
    low, high = timing.quartiles
    return {
        "name": name,
        "groups": groups,
        "median": timing.median,
        "low": low,
        "high": high,
        "samples": len(timing.samples),
    }
