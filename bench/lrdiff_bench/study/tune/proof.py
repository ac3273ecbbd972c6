"""The court's answer about rates that were found: they, one rate, or not settled; and how to write them down."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrdiff_bench.stats.verdict import Verdict
from lrdiff_bench.study.describe import verdict_text
from lrdiff_bench.study.own_training import FunctionWorkload
from lrdiff_bench.study.search.plan import FEWEST_SEARCHES, Plan, make_plan
from lrdiff_bench.study.tune.found import FoundRates, rounded
from lrdiff_bench.study.workloads.common import RunWorkload
from lrdiff_bench.study.workloads.workload import Scheme, Workload
from lrdiff_core.optimizers import OPTIMIZERS

__all__ = ["ONE_RATE", "OPEN", "RATES", "TUNED", "Answer", "answer_of", "judged_workload", "plan_of"]

TUNED = "ratios"
RATES, ONE_RATE, OPEN = "rates by group", "one rate", "open"

# A search of the verdict: the ratios are fixed, so only the base rate is searched, and 12 points do.
SEARCH = {"budget": 12, "tuning_seeds": 2, "finalists": 4, "final_seeds": 8}
DEAR = {"budget": 8, "tuning_seeds": 1, "finalists": 3, "final_seeds": 3, "searches": 5, "seeds": 10}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to do.

    Attributes:
        word: :data:`RATES`, :data:`ONE_RATE` or :data:`OPEN`.
        text: one sentence.
        rates: of each group; the same for all where one rate is the answer, or nothing is settled.
        toml: the same as a ``[rates]`` table; empty for a training of one's own, whose groups are no parameters.
        python: lines that use them.
    """

    word: str
    text: str
    rates: Mapping[str, float]
    toml: str
    python: str


def judged_workload(workload: Workload, found: FoundRates, name: str) -> Workload:
    """The workload with two schemes: the single rate, and the ratios that were found."""
    tuned = Scheme(name=TUNED, ratios=dict(found.ratios))
    return replace(workload, name=name, schemes=(workload.schemes[0], tuned))


def plan_of(workload: Workload, *, searches: int | None = None, seeds_from: int | None = None) -> Plan:
    """How much the verdict trains: by the protocol side by side, a part of it where a training is dear."""
    dear = workload.at_once == 1 and (searches is None or searches < FEWEST_SEARCHES)
    sizes: dict[str, Any] = dict(DEAR if dear else SEARCH)
    if searches:
        sizes["searches"] = searches
    return make_plan(report_seeds=workload.report_seeds, **{**sizes, "seeds_from": seeds_from})


def answer_of(workload: Workload, found: FoundRates, document: Mapping[str, Any] | None) -> Answer:
    """What follows from a verdict.

    Args:
        workload: that was tuned.
        found: by the search.
        document: of the study of the ratios; None where it was not asked for.
    """
    if document is None:
        same = all(ratio == 1.0 for ratio in found.ratios.values())
        text = "the search found the ratio 1: one rate" if same else "found, and not judged"
        rates = dict.fromkeys(workload.groups, found.single) if same else found.rates
        return _answer(workload, ONE_RATE if same else OPEN, text, rates)
    verdict = Verdict(document["gain"]["verdict"])
    single, tuned = (_base_rate(scheme) for scheme in document["schemes"])
    one_rate = dict.fromkeys(workload.groups, single or found.single)
    if verdict in (Verdict.HELPS, Verdict.HELPS_ON_AVERAGE, Verdict.NO_DIFFERENCE_BUT_STEADIER):
        base = tuned or found.base_rate
        by_group = {group: rounded(base * ratio) for group, ratio in found.ratios.items()}
        why = "" if verdict.plain is Verdict.HELPS else ": fewer runs diverge"
        return _answer(workload, RATES, f"use these rates{why}", by_group)
    gain = document["gain"]
    if verdict is Verdict.INCONCLUSIVE and not document["void"] and gain["high"] < gain["smallest"]:
        # between HURTS and NO DIFFERENCE: either way there is no gain that matters
        return _answer(workload, ONE_RATE, "one rate suffices (no gain that matters)", one_rate)
    if verdict is Verdict.INCONCLUSIVE:
        return _answer(workload, OPEN, "not settled; one rate until it is", one_rate)
    reason = {
        Verdict.NO_DIFFERENCE: "no difference that matters",
        Verdict.HELPS_BUT_DIVERGES: "rates by group diverge more often",
        Verdict.NO_DIFFERENCE_BUT_DIVERGES: "rates by group diverge more often",
    }.get(verdict, "rates by group are worse")
    return _answer(workload, ONE_RATE, f"one rate suffices ({reason})", one_rate)


def summary(document: Mapping[str, Any]) -> str:
    """The verdict's sentence."""
    return verdict_text(document)


def _base_rate(scheme: Mapping[str, Any]) -> float | None:
    """The middle of what the searches chose, on a logarithmic scale."""
    chosen = [one["parameters"]["base rate"] for one in scheme["winners"] if one["parameters"]]
    return rounded(float(np.exp(np.median(np.log(chosen))))) if chosen else None


def _answer(workload: Workload, word: str, text: str, rates: Mapping[str, float]) -> Answer:
    if isinstance(workload, FunctionWorkload):
        return Answer(word=word, text=text, rates=rates, toml="", python=f"rates = {json.dumps(dict(rates))}")
    named = _patterns(workload, rates)
    lines = [f"{_key(name)} = {rate:g}" for name, rate in named.items()]
    return Answer(
        word=word, text=text, rates=rates, toml="\n".join(["[rates]", *lines]), python=_python(workload, named)
    )


def _patterns(workload: Workload, rates: Mapping[str, float]) -> dict[str, float]:
    """Rates by what names the parameters: the group's patterns, or its layer."""
    if isinstance(workload, RunWorkload):  # groups are its layers in order
        return {f"layer{i + 1}": rates[group] for i, group in enumerate(workload.groups)}
    patterns: Mapping[str, Any] = getattr(workload, "patterns", {})
    return {one: rate for group, rate in rates.items() for one in patterns.get(group, (group,))}


def _python(workload: Workload, named: Mapping[str, float]) -> str:
    name = OPTIMIZERS[getattr(workload, "optimizer", "adam")].kind
    momentum = getattr(workload, "momentum", 0.0)
    more = f", momentum={momentum:g}" if momentum else ""
    made = f"optimizer = optim.{name}(plan.groups(){more})"
    values = list(dict.fromkeys(named.values()))
    if len(values) == 1:
        plan = f"plan = param_groups(model, lr={values[0]:g})"
        return f"from lrdiff_core import optim, param_groups\n{plan}\n{made}"
    rules = ", ".join(f"Rule({_match(one)}, lr={rate:g})" for one, rate in named.items())
    plan = f"plan = param_groups(model, lr={values[0]:g}, rules=[{rules}])"
    return f"from lrdiff_core import Rule, optim, param_groups\n{plan}\n{made}"


def _match(pattern: str) -> str:
    if len(pattern) > 2 and pattern[0] == pattern[-1] == "/":
        return f'{json.dumps(pattern[1:-1])}, kind="regex"'
    return json.dumps(pattern)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
