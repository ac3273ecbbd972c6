"""What the plan of a model of one's own costs: the optimizer step with its groups against one group."""

from __future__ import annotations

import copy
from typing import Any

from lrdiff_bench.measure.cases.state import step_workload
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.run.compare.step_cost import time_groups
from lrdiff_bench.run.own_model.training import OwnTrained
from lrdiff_bench.system.batches import stacked
from lrdiff_bench.system.user_code import user_code
from lrdiff_core.setup import make_optimizer

__all__ = ["measure_own_step_cost"]


def measure_own_step_cost(trained: OwnTrained) -> dict[str, Any]:
    """As :func:`lrdiff_bench.run.compare.step_cost.measure_step_cost`, on one batch of the model's own rows."""
    setup = trained.setup
    groups = setup.groups()
    batch = stacked(setup.parts["train"], min(setup.batch_size, 64))

    def factory(single: bool) -> Workload:
        module = copy.deepcopy(setup.module).train()
        named = dict(module.named_parameters())
        own = [
            {**group, "params": [named[name] for name in group["param_names"]]}
            for group in groups
        ]  # fmt: skip
        if single:
            params = [p for group in own for p in group["params"]]
            own = [{"params": params, "lr": max(g["lr"] for g in groups), "weight_decay": groups[0]["weight_decay"]}]
        optimizer = make_optimizer(setup.config.optimizer, own, momentum=setup.config.momentum)
        with user_code():
            loss = setup.task.loss(batch.answer(module), batch.targets)
            loss.backward()
        optimizer.step()  # makes the optimizer's state
        return step_workload(optimizer, parity=False)

    return time_groups(factory, len(groups))
