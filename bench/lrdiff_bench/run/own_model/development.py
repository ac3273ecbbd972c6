"""Choosing rates for a model of one's own: the rows that they may be compared on, and a setup with those chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lrdiff_bench.run.compare.chosen_rates import development
from lrdiff_bench.run.own_model.setup import Development, OwnSetup, order_of, share_of
from lrdiff_core.rates import RatePlan
from lrdiff_core.rates.plan.entry import Factor

__all__ = ["development_of", "with_rates"]

KEPT = ("freeze", "weight_decay", "no_weight_decay")  # what a table of tuned rates keeps of the one before


def development_of(setup: OwnSetup) -> Development:
    """The rows of a run that its rates may be compared on."""
    if setup.table is not None:
        config, table = development(setup.table)
        return Development(table=table, epochs=config.epochs)
    given, parts = setup.user.parts(), setup.parts
    if not parts["train"].can_be_cut:  # a stream, or batches of the user's own making: what validates also reports
        return Development(parts={**parts, "test": parts["validation"]})
    if "validation" in given:
        return Development(parts={"train": parts["train"], "validation": parts["validation"]})
    order = order_of(given["train"], setup.config.seed)
    cut = 0 if "test" in given else share_of(given["train"], setup.config.test)
    begin = share_of(given["train"], setup.config.validation)
    kept = torch.cat([order[:begin], order[begin + cut :]]).sort().values
    return Development(parts={"train": given["train"].subset(kept)})


def with_rates(setup: OwnSetup, rates: Mapping[str, float]) -> OwnSetup:
    """The same setup with other rates.

    Args:
        setup: not yet trained.
        rates: by the names of layers or parameters, as in ``[rates]``; the longest name counts.
    """

    def rate(name: str) -> float | None:
        above = [key for key in rates if name == key or name.startswith(f"{key}.")]
        return float(rates[max(above, key=len)]) if above else None

    entries = []
    for entry in setup.plan:
        tuned = rate(entry.name)
        own: dict[str, Any] = {} if tuned is None else {"lr": tuned, "factors": (Factor("tuned", tuned),)}
        entries.append(replace(entry, **own))
    plan = RatePlan(entries).bind(setup.module).apply_freeze(statistics="stop")
    kept = {key: value for key, value in (setup.config.rates or {}).items() if key in KEPT}
    return replace(setup, plan=plan, config=setup.config.model_copy(update={"rates": {**kept, **rates}}))
