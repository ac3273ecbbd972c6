"""Contract of every registered workload of studies; a new one is covered on the day it is added."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lrdiff_bench.study import workloads as _registers_them  # noqa: F401
from lrdiff_bench.study.search.plan import make_plan
from lrdiff_bench.study.workloads.adapters import Adapters
from lrdiff_bench.study.workloads.common import PopulationWorkload
from lrdiff_bench.study.workloads.minilm import FineTuning
from lrdiff_bench.study.workloads.outcomes import mask_diverged
from lrdiff_bench.study.workloads.parts.side_by_side import SideBySide
from lrdiff_bench.study.workloads.workload import WORKLOADS, Outcomes, Scheme, Trials, Workload, register_workload
from lrdiff_core.errors import ConfigError
from lrdiff_core.population.members import build

NAMES = sorted(WORKLOADS)
OURS = """
    control-classes control-pixels distortion relearn-adam relearn-sgd ring seed-adam seed-sgd splats
    characters-blocks characters-muon minilm minilm-lora
    lora-32 lora-64 lora-128 tokens-adam tokens-sgd width-64 width-128 width-256 width-512
"""
ROUNDING = 1e-4  # of float32 over the few steps of a tiny trial
ONE_ROW = 0.011  # of accuracy: what rounding may turn over among 100 rows

TINY: dict[str, Workload] = {}


# The same code in another size, or beside another task, is for before a release.
DEAR = {"lora-64", "lora-128", "width-128", "width-256", "width-512", "control-classes", "relearn-sgd"}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.long if name in DEAR else []) for name in NAMES])
def tiny(request: pytest.FixtureRequest) -> Workload:
    """One object a workload, so that networks are pretrained and timed once."""
    if request.param not in TINY:
        TINY[request.param] = WORKLOADS[request.param]().tiny()
    return TINY[request.param]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def middle(workload: Workload) -> float:
    low, high = workload.base_rates
    return float(np.sqrt(low * high))


def trials(workload: Workload, rows: list[tuple[float, int]], *, judged_on: str = "validation", **of: float) -> Trials:
    """One trial for each (single rate, seed); ``of`` replaces the rates of groups."""
    rates = np.array([[of.get(group, rate) for group in workload.groups] for rate, _ in rows])
    seeds = np.array([seed for _, seed in rows])
    return Trials(rates=rates, seeds=seeds, scheme=workload.schemes[0], judged_on=judged_on)


def same(one: Outcomes, other: Outcomes) -> bool:
    return all(
        np.array_equal(getattr(one, part), getattr(other, part), equal_nan=True)
        for part in ("metric", "train_loss", "evaluated_after")
    )


def parameters(workload: Workload, asked: Trials) -> tuple[list[dict], list[dict], dict[str, int]]:
    """First and last parameters of every trial, and the group of each."""
    seeds = [int(seed) for seed in asked.seeds]
    if isinstance(workload, SideBySide):
        last = workload.train_tile(asked, slice(None))[3]
        first, group_of = [workload.start(seed) for seed in seeds], dict(workload.columns())
    elif isinstance(workload, FineTuning):
        start = [workload.start(seed) for seed in seeds]
        models = [workload.train_model(r, s, "validation")[2] for r, s in zip(asked.rates, seeds, strict=True)]
        group_of = workload.columns(start[0])
        first, now = ([{n: m.state_dict()[n] for n in group_of} for m in each] for each in (start, models))
        return first, now, group_of
    else:
        assert isinstance(workload, PopulationWorkload), "say here where the weights of this kind of workload are"
        workload.prepare(asked)
        factory = workload.network(asked)
        population = workload.population_of(factory, asked, evaluate="end", keep_weights=True)
        last = population.weights
        first = [{n: p.detach() for n, p in build(factory, seed).named_parameters()} for seed in seeds]
        group_of = {name: column for column, names in enumerate(population.groups) for name in names}
    return first, [{name: values[i] for name, values in last.items()} for i in range(len(seeds))], group_of


def test_the_registry_holds_ours() -> None:
    assert set(OURS.split()) <= set(NAMES)


def test_registering_costs_no_import_of_torch_or_sklearn() -> None:
    heavy = ("torch", "sklearn", "scipy", "optuna")
    code = f"import sys, lrdiff_bench.study.workloads; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_says_what_the_protocol_needs(name: str) -> None:
    for workload in (WORKLOADS[name](), WORKLOADS[name]().tiny()):
        assert workload.name == name
        assert workload.title
        assert workload.question.endswith("?")
        assert workload.metric in ("loss", "accuracy")
        low, high = workload.base_rates
        assert 0 < low < high < np.inf
        assert workload.default_rate > 0
        assert workload.smallest_difference > 0
        assert workload.steps > 0
        assert workload.report_seeds >= 29
        assert make_plan(report_seeds=workload.report_seeds, own=workload.plan_sizes).mode == "full"
        assert workload.label in ("", "mechanism", "control")
        single = workload.schemes[0]
        assert single.name == "single"
        assert set(single.ratios.values()) == {1.0}
        assert not single.free
        assert len({scheme.name for scheme in workload.schemes}) == len(workload.schemes) > 1
        for scheme in workload.schemes:
            assert sorted([*scheme.ratios, *scheme.free]) == sorted(workload.groups), scheme.name
            assert any(ratio == 1.0 for ratio in scheme.ratios.values()), f"{scheme.name}: no group has the base rate"


@pytest.mark.slow
def test_outcomes_have_the_shapes_and_repeat_bit_for_bit(tiny: Workload) -> None:
    asked = trials(tiny, [(middle(tiny) / 30, 3), (middle(tiny) / 10, 4)])
    found = tiny.train(asked)
    shape = (2, len(found.evaluated_after))
    assert found.metric.shape == found.train_loss.shape == shape
    assert found.metric.dtype == found.train_loss.dtype == np.float64
    assert found.evaluated_after[-1] == tiny.steps
    assert (np.diff(found.evaluated_after) > 0).all()
    assert len(found.evaluated_after) > 1 or tiny.at_once == 1  # of trainings that are dear, where only the last counts
    assert np.isfinite(found.metric).all()
    assert np.isfinite(found.train_loss).all()
    assert 0 < found.seconds_a_step < 10
    if tiny.metric == "accuracy":
        assert (found.metric >= 0).all()
        assert (found.metric <= 1).all()
    assert same(found, tiny.train(asked))
    fresh = WORKLOADS[tiny.name]().tiny()
    assert same(found, fresh.train(asked))


@pytest.mark.slow
def test_every_scheme_trains_and_seeds_differ(tiny: Workload) -> None:
    for scheme in tiny.schemes:
        ratios = [scheme.ratios.get(group) or sum(scheme.free.get(group, (0, 0))) / 2 for group in tiny.groups]
        rates = middle(tiny) / 100 * np.array([ratios, ratios])
        asked = Trials(rates=rates, seeds=np.array([0, 1]), scheme=scheme, judged_on="test")
        found = tiny.train(asked)
        assert found.metric.shape == (2, len(found.evaluated_after)), scheme.name
        assert found.evaluated_after[-1] == tiny.steps
        assert np.isfinite(found.metric).all(), scheme.name
        assert found.train_loss[0, -1] != found.train_loss[1, -1], scheme.name


@pytest.mark.slow
def test_a_trial_does_not_depend_on_its_batch(tiny: Workload) -> None:
    rate = middle(tiny) / 30
    rows = [(rate, 5), (rate / 2, 6), (rate * 2, 5), (rate, 7)]
    for scheme in (tiny.schemes[0], *(s for s in tiny.schemes if s.options)):
        whole = tiny.train(replace(trials(tiny, rows), scheme=scheme))
        part = tiny.train(replace(trials(tiny, [rows[2], rows[0]]), scheme=scheme))
        allowed = ONE_ROW if tiny.metric == "accuracy" else ROUNDING
        np.testing.assert_allclose(whole.metric[[2, 0]], part.metric, rtol=ROUNDING, atol=allowed)
        np.testing.assert_allclose(whole.train_loss[[2, 0]], part.train_loss, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.slow
def test_a_group_learns_at_its_rate_and_a_frozen_group_does_not_move(tiny: Workload) -> None:
    rate = middle(tiny) / 30
    for learning in tiny.groups:
        rates = {group: rate if group == learning else 0.0 for group in tiny.groups}
        first, last, group_of = parameters(tiny, trials(tiny, [(0.0, 3), (0.0, 8)], **rates))
        assert set(group_of.values()) == set(range(len(tiny.groups)))
        assert set(group_of) == set(first[0])
        moved = {name for i in range(2) for name in group_of if not torch.equal(first[i][name], last[i][name])}
        expected = {name for name, column in group_of.items() if tiny.groups[column] == learning}
        assert moved <= expected, f"frozen, and moved: {sorted(moved - expected)}"
        if not moved and (
            isinstance(tiny, Adapters) or getattr(tiny, "adapters", False)
        ):  # B is zero and frozen: nothing reaches A
            continue
        assert {name for name in expected if not name.endswith("bias")} <= moved


@pytest.mark.slow
def test_rates_of_0_leave_the_metric_where_it_starts(tiny: Workload) -> None:
    found = tiny.train(trials(tiny, [(0.0, 2)]))
    assert np.isfinite(found.metric).all()
    assert (found.metric == found.metric[:, :1]).all()
    assert (found.train_loss == found.train_loss[:, :1]).all()


def test_a_diverged_trial_is_nan_and_its_neighbours_do_not_notice(tiny: Workload) -> None:
    rate = middle(tiny) / 30
    calm = tiny.train(trials(tiny, [(rate, 3), (rate, 3), (rate, 4)]))
    wild = tiny.train(trials(tiny, [(rate, 3), (1e36, 3), (rate, 4)]))
    assert np.isnan(wild.metric[1, -1])
    assert np.isnan(wild.train_loss[1, -1])
    gone = np.isnan(wild.metric[1])
    assert (gone == np.logical_or.accumulate(gone)).all(), "a diverged trial comes back"
    for part in ("metric", "train_loss"):
        np.testing.assert_array_equal(getattr(wild, part)[[0, 2]], getattr(calm, part)[[0, 2]])


def test_what_is_not_finite_once_is_nan_from_then_on() -> None:
    accuracy = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, np.inf, 0.3]])
    train_loss = np.array([[3.0, 2.0, 1.0], [3.0, np.inf, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    held_loss = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, np.inf], [3.0, 2.0, 1.0]])
    found = mask_diverged(accuracy, train_loss, held_loss, evaluated_after=np.array([1, 2, 3]), seconds_a_step=0.5)
    gone = np.array([[0, 0, 0], [0, 1, 1], [0, 0, 1], [0, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(np.isnan(found.metric), gone)
    np.testing.assert_array_equal(np.isnan(found.train_loss), gone)
    np.testing.assert_array_equal(found.metric[~gone], accuracy[~gone])
    assert found.seconds_a_step == 0.5


def test_validation_and_test_are_different_rows_and_training_knows_neither(tiny: Workload) -> None:
    rows = [(middle(tiny) / 30, seed) for seed in range(3)]
    same_network = {"width": tiny.tuned_at} if hasattr(tiny, "tuned_at") else {}  # reports are of a wider network
    workload = replace(tiny, **same_network)
    validation, test = (workload.train(trials(tiny, rows, judged_on=split)) for split in ("validation", "test"))
    common = min(len(validation.evaluated_after), len(test.evaluated_after))  # searching may look at the last alone
    np.testing.assert_array_equal(validation.train_loss[:, -common:], test.train_loss[:, -common:])
    assert not np.array_equal(validation.metric[:, -common:], test.metric[:, -common:])


@pytest.mark.slow
def test_only_the_split_that_is_asked_for_is_made(tiny: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    kind, name = (SideBySide, "given") if isinstance(tiny, SideBySide) else ((PopulationWorkload, FineTuning), "rows")
    assert isinstance(tiny, kind)
    original = getattr(type(tiny), name)

    def spied(self: object, seed: int, judged_on: str) -> object:
        asked.append(judged_on)
        return original(self, seed, judged_on)

    monkeypatch.setattr(type(tiny), name, spied)
    for split in ("validation", "test"):
        for scheme in tiny.schemes:
            asked.clear()
            tiny.train(replace(trials(tiny, [(0.0, 1)], judged_on=split), scheme=scheme))
            assert set(asked) == {split}


def rows_of(tiny: Workload, seed: int, split: str) -> tuple[set[bytes], set[bytes]]:
    """Rows that are learnt from, and rows that are judged."""
    if isinstance(tiny, PopulationWorkload):
        tiny.prepare(trials(tiny, [(0.0, seed)]))
        data = tiny.rows(seed, split)
        assert data.held_inputs is not None
        parts = data.inputs, data.held_inputs
    elif isinstance(tiny, FineTuning):
        parts = [[row for row, _ in part] for part in tiny.rows(seed, split)]
    else:
        given = tiny.given(seed, split)
        parts = {
            "ring": lambda: (torch.cat([given["batches"].reshape(-1, 2), given["train"]]), given["held"]),
            "splats": lambda: (given["places"], given["held_places"]),
            "characters": lambda: (torch.cat([given["batches"].flatten(0, 1), given["learnt"]]), given["held"]),
        }[tiny.name.partition("-")[0]]()
    return tuple({row.numpy().tobytes() for row in part} for part in parts)  # type: ignore[return-value]


def test_no_row_is_in_two_splits(tiny: Workload) -> None:
    for seed in (0, 1):
        train, validation = rows_of(tiny, seed, "validation")
        again, test = rows_of(tiny, seed, "test")
        assert train == again
        assert not train & validation
        assert not train & test
        assert not validation & test
        assert min(map(len, (validation, test))) >= 100
    assert rows_of(tiny, 0, "test") != rows_of(tiny, 1, "test")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rates": np.ones((1, 9))}, "rates of .* have the shape .*\nhelp: give one column for each of "),
        ({"seeds": np.arange(3)}, "1 trials have 3 seeds\nhelp: give one whole number per trial"),
        ({"judged_on": "train"}, 'judged_on is \'train\'\nhelp: write "validation" or "test"'),
    ],
)
def test_trials_that_do_not_fit_are_refused(tiny: Workload, change: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        tiny.train(replace(trials(tiny, [(0.0, 0)]), **change))


def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigError, match='there is a workload "ring" already\nhelp: choose another name'):
        register_workload("ring")


def test_a_scheme_refuses_what_is_no_ratio() -> None:
    with pytest.raises(ConfigError, match='scheme "x": ratio of a is -1.0\nhelp: write 0 or more'):
        Scheme(name="x", ratios={"a": -1.0})
    with pytest.raises(ConfigError, match='scheme "x": interval of a is 2 to 1'):
        Scheme(name="x", ratios={}, free={"a": (2, 1)})


@pytest.mark.slow
def test_a_new_workload_is_one_file_and_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that CONTRIBUTING adds holds the contract above."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## A workload for studies")[2].partition("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    monkeypatch.setitem(WORKLOADS, "parabola", None)  # put back when the test ends
    del WORKLOADS["parabola"]
    exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "parabola"})
    assert list(WORKLOADS)[-1] == "parabola"
    test_a_workload_says_what_the_protocol_needs("parabola")
    TINY["parabola"] = workload = WORKLOADS["parabola"]().tiny()
    for check in (
        test_outcomes_have_the_shapes_and_repeat_bit_for_bit,
        test_every_scheme_trains_and_seeds_differ,
        test_a_trial_does_not_depend_on_its_batch,
        test_a_group_learns_at_its_rate_and_a_frozen_group_does_not_move,
        test_rates_of_0_leave_the_metric_where_it_starts,
        test_a_diverged_trial_is_nan_and_its_neighbours_do_not_notice,
        test_validation_and_test_are_different_rows_and_training_knows_neither,
        test_no_row_is_in_two_splits,
    ):
        check(workload)


@pytest.mark.parametrize("name", OURS.split())
def test_the_guide_says_what_the_file_says(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "workloads.md").read_text(encoding="utf-8")
    section = next(part for part in text.split("\n## ") if f"`{name}`" in part.partition("\n")[0])
    workload = WORKLOADS[name]()
    words = " ".join(section.split())
    assert f"Groups: {workload.groups[0]}" in words
    assert all(group in words for group in workload.groups)
    assert f"mallest difference: {workload.smallest_difference:g}" in words
    for scheme in workload.schemes:
        ratio = re.search(r"(\d+)x$", scheme.name)
        assert (ratio[1] if ratio else scheme.name) in words, scheme.name
    assert f"{workload.steps} " in words or "epochs" in words
