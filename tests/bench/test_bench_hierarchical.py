"""Ratios over processes: coverage, false alarms and power, counted on planted samples with realistic noise.

The noise is that of a busy shared machine: processes differ by 1 %, blocks of a process by 3 %, and one block in
twenty is hit by a burst that makes it up to twice as long. The machine drifts by up to 10 % during a pair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lrdiff_bench.measure.engine.calibration import band_for, calibration_of, store_calibration
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.pairs.ab import Side, compare_sides
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.timer import Sample
from lrdiff_bench.stats.hierarchical import compare_paired, compare_unpaired
from lrdiff_bench.stats.intervals import t_quantile
from lrdiff_core.errors import CheckFailed, ConfigError, DataError

PROCESSES, ROUNDS = 8, 30  # `lrdiff bench ab` takes ten times the rounds, of blocks that scatter more
BETWEEN, WITHIN, BURSTS = 0.01, 0.03, 0.05


class Planted:
    """Stands in for a measuring process: samples around a true time, with the noise above."""

    def __init__(
        self, seconds: float, generator: np.random.Generator, drift: list[float], bursts: float = BURSTS
    ) -> None:
        self.seconds = seconds * math.exp(generator.normal(0, BETWEEN))
        self.generator, self.drift, self.bursts = generator, drift, bursts

    def start(self, case: Case, effort: Effort) -> None: ...

    def block(self) -> Sample:
        self.drift[0] *= 1.0025  # the machine gets slower with every block of either side
        burst = self.generator.uniform(1, 2) if self.generator.random() < self.bursts else 1.0
        return Sample(self.seconds * self.drift[0] * burst * math.exp(self.generator.normal(0, WITHIN)))

    def end(self) -> dict[str, Any]:
        process = {"number": 1, "first_call": 1.0, "first_graphs": 0, "recompilations": 0, "warmup": [],
                   "settled": True, "clock_share": 0.0, "host_before": None, "host_peak": None,
                   "device_peak": None}  # fmt: skip
        code = {"commit": None, "dirty": False, "project": "0", "torch": "0", "python": "0", "numpy": "0"}
        machine = {"id": "planted", "system": "", "cpu": "", "cpus": 1, "device": "cpu"}
        conditions = {"threads": 1, "affinity": [0], "governor": None, "load": None, "cpu_mhz": None,
                      "device_mhz": None, "environment": {}}  # fmt: skip
        return {"process": process, "parity": None, "facts": {}, "code": code, "machine": machine,
                "conditions": conditions}  # fmt: skip

    def keep_to(self, processors: Sequence[int]) -> None: ...

    def close(self) -> None: ...


def case() -> Case:
    return Case(name="planted", version="1", factory=lambda: Workload(lambda: None))


def compare(slow_down: float, seed: int, *, processes: int = PROCESSES, rounds: int = ROUNDS, band: float = 0.02,
            control: bool = False, bursts: float = BURSTS):  # fmt: skip
    generator, drift = np.random.default_rng(seed), [1.0]
    a, b = Side(label="a", case=case()), Side(label="b", case=case())
    effort = Effort(processes=processes, samples=rounds, block_seconds=1, warmup_seconds=1, most_seconds=60)

    def launch(side: Side) -> Planted:
        drift[0] = 1.0
        return Planted(slow_down if side is b else 1.0, generator, drift, bursts)

    return compare_sides(a, b, effort, band=band, control=control, seed=seed, launch=launch)


def verdicts(slow_down: float, comparisons: int, **options: Any) -> Counter:
    return Counter(compare(slow_down, seed, **options).outcome.verdict for seed in range(comparisons))


@pytest.mark.slow
def test_200_comparisons_of_the_same_and_100_of_a_planted_5_percent() -> None:
    """Through the whole path of ``lrdiff bench ab`` but for the processes."""
    # With ten rounds in place of thirty it is 60 of 100.
    same = verdicts(1.0, 200)
    assert same["faster"] + same["slower"] <= 10, same
    slower = verdicts(1.05, 100)
    assert slower["slower"] >= 95, slower
    faster = verdicts(1 / 1.05, 20)
    assert faster["faster"] >= 18, faster


@pytest.mark.slow
def test_with_a_control_and_many_bursts_no_side_is_favoured() -> None:
    """A third of all blocks is hit: the side with one process in a group came out 3 % faster than that with two."""
    every = [compare(1.0, seed, control=True, bursts=0.33) for seed in range(100)]
    logs = np.log([one.outcome.ratio.estimate for one in every])
    assert abs(logs.mean()) < 3 * logs.std(ddof=1) / math.sqrt(len(logs))
    assert logs.std(ddof=1) < 0.01  # of which 0.0043 is the luck of the processes
    assert sum(one.outcome.ratio.low <= 1.0 <= one.outcome.ratio.high for one in every) >= 90
    slower = verdicts(1.05, 40, control=True, bursts=0.33)
    assert slower["slower"] >= 30, slower


def test_twins_that_differ_count_as_much_as_one_another() -> None:
    """One is as fast, the other half as fast, and hit by a burst in one pair of five."""
    pairs = [[1.0, 0.5], [1.0, 0.5], [1.0, 0.1], [1.0, 0.5], [1.0, 0.5]]
    assert compare_paired([pairs] * 4).ratio.estimate == pytest.approx(math.sqrt(0.5))


@pytest.mark.slow
def test_a_slow_down_as_small_as_the_band_is_called_one_in_forty_at_most() -> None:
    edge = verdicts(1.02, 200)
    assert edge["slower"] <= 0.04 * 200, edge
    assert edge["faster"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3, 5, 8])
def test_the_interval_holds_the_truth_as_often_as_it_says(processes: int) -> None:
    """A thousand comparisons each: the standard error of a share is 0.7 %, and two of them off fails, either way."""
    held = 0
    for seed in range(1000):
        ratio = compare(1.03, seed, processes=processes, rounds=6).outcome.ratio
        held += ratio.low <= 1.03 <= ratio.high
    assert 0.936 <= held / 1000 <= 0.964


@pytest.mark.slow
def test_a_few_processes_that_are_far_off_neither_decide_nor_widen() -> None:
    """24 processes that differ by 1.2 %, but one in ten by 12 %: what foreign suites do beside busy neighbours."""
    for share, of_the_mean in ((0.1, 0.6), (0.0, 1.2)):  # of its width; none off: it costs a little
        held, widths, plain = 0, [], []
        for seed in range(300):
            generator = np.random.default_rng(seed)
            off = generator.random(24) < share
            logs = generator.normal(0, np.where(off, 0.12, 0.012))
            ratio = compare_paired([[math.exp(one)] * 5 for one in logs]).ratio
            held += ratio.low <= 1.0 <= ratio.high
            widths.append(math.log(ratio.high / ratio.low))
            plain.append(2 * t_quantile(0.95, 23) * logs.std(ddof=1) / math.sqrt(24))
        assert held / 300 >= 0.925
        assert np.median(widths) < of_the_mean * np.median(plain)


def test_sides_with_more_and_with_fewer_processes_are_judged_by_the_same_statistic() -> None:
    """One process in four is half as slow again on either side: eight of them, and sixteen."""
    few, many = [[1.0]] * 6 + [[1.5]] * 2, [[1.0]] * 12 + [[1.5]] * 4
    assert compare_unpaired(few, many).ratio.estimate == pytest.approx(1.0)
    assert compare_unpaired(many, few).ratio.estimate == pytest.approx(1.0)


def test_blocks_of_one_process_are_no_independent_evidence() -> None:
    """Processes that differ by 5 % and agree inside: only the spread between them counts."""
    generator = np.random.default_rng(0)
    ratios = [[float(r)] * 100 for r in np.exp(generator.normal(0, 0.05, 6))]
    wide, narrow = compare_paired(ratios), compare_paired([[0.999, 1.001] * 50] * 6)
    assert wide.verdict == "unresolved"
    assert wide.ratio.high / wide.ratio.low > 20 * narrow.ratio.high / narrow.ratio.low - 19
    assert narrow.verdict == "equivalent"


def test_more_samples_that_are_asked_for_do_tell() -> None:
    short = [compare(1.06, seed, processes=3, rounds=4).outcome for seed in range(40)]
    unresolved = [outcome for outcome in short if outcome.verdict == "unresolved"]
    assert len(unresolved) > 10
    assert all(outcome.more_processes is None or outcome.more_processes >= 1 for outcome in unresolved)
    more = int(np.median([outcome.more_processes or 1000 for outcome in unresolved]))
    first = next(outcome for outcome in unresolved if outcome.more_processes is not None)
    assert first.more_samples == 8 * first.more_processes  # forwards and backwards
    assert 2 < more < 200
    longer = verdicts(1.06, 10, processes=3 + more, rounds=4)
    assert longer["slower"] >= 5, (more, longer)
    assert all(outcome.more_processes is None for outcome in short if outcome.verdict != "unresolved")


def test_on_the_edge_of_the_band_no_number_of_samples_would_do() -> None:
    ratios = [[1.02 * math.exp(x)] for x in (-0.01, 0.01, -0.02, 0.02)]
    outcome = compare_paired(ratios)
    assert (outcome.verdict, outcome.more_processes, outcome.more_samples) == ("unresolved", None, None)


def test_one_process_cannot_tell() -> None:
    outcome = compare_paired([[1.5] * 20])
    assert outcome.verdict == "unresolved"
    assert outcome.ratio.estimate == pytest.approx(1.5)
    assert compare_unpaired([[1.0] * 9], [[1.5] * 9]).verdict == "unresolved"


@pytest.mark.slow
def test_runs_apart_from_one_another() -> None:
    generator = np.random.default_rng(1)

    def run(seconds: float) -> list[list[float]]:
        return [
            [seconds * math.exp(effect + generator.normal(0, WITHIN)) for _ in range(20)]
            for effect in generator.normal(0, BETWEEN, 6)
        ]

    found = Counter(compare_unpaired(run(1.0), run(1.05)).verdict for _ in range(100))
    same = Counter(compare_unpaired(run(1.0), run(1.0)).verdict for _ in range(100))
    assert found["slower"] >= 60, found  # less than side by side: nothing cancels
    assert same["slower"] + same["faster"] <= 5, same


def test_exchanging_the_sides_mirrors_the_verdict() -> None:
    ratios = [[1.08, 1.1, 1.12], [1.09, 1.1, 1.1], [1.1, 1.11, 1.1]]
    there, back = compare_paired(ratios), compare_paired([[1 / r for r in one] for one in ratios])
    assert (there.verdict, back.verdict) == ("slower", "faster")
    assert there.ratio.estimate == pytest.approx(1 / back.ratio.estimate)


@pytest.mark.parametrize(
    ("ratios", "text"),
    [([], "no samples"), ([[1.0], []], "no samples"), ([[0.0]], "positive"), ([[math.nan]], "positive")],
)
def test_what_cannot_be_compared(ratios: list, text: str) -> None:
    with pytest.raises(DataError, match=text):
        compare_paired(ratios)


def test_blocks_are_taken_in_turn_and_every_sample_is_kept() -> None:
    pairing = compare(1.0, 3, processes=2, rounds=5)
    a, b = pairing.records
    taken = sorted([(s.process, s.order, "a") for s in a.samples] + [(s.process, s.order, "b") for s in b.samples])
    assert [order for _, order, _ in taken] == list(range(40))
    rounds = ["".join(side for *_, side in taken[i : i + 4]) for i in range(0, 40, 4)]
    assert set(rounds) == {"abba", "baab"}  # by lot
    assert [s.block for s in a.samples if s.process == 1] == list(range(10))
    assert [len(one) for one in pairing.ratios] == [10, 10]


def test_the_machines_own_band_is_measured_kept_and_used(tmp_path) -> None:
    quiet = calibration_of(compare(1.0, 2, processes=20), processes=6)
    assert 0.001 < quiet.paired < 0.02
    assert quiet.apart > quiet.paired / 2
    assert band_for("planted", tmp_path, paired=True) == 0.02
    store_calibration(quiet, tmp_path)
    assert band_for("planted", tmp_path, paired=True) == 0.02  # never below 2 %
    noisy = quiet.model_copy(update={"paired": 0.08, "apart": 0.2})
    store_calibration(noisy, tmp_path)
    assert band_for("planted", tmp_path, paired=True) == 0.08
    assert band_for("planted", tmp_path, paired=False) == 0.2
    assert band_for("other machine", tmp_path, paired=True) == 0.02
    for wide in ({"paired": 3.79}, {"apart": 0.3}):  # beside load: it would call a step twice as slow equivalent
        with pytest.raises(CheckFailed, match=r"differs by (379|30) % from itself here.*\nhelp: nothing was kept"):
            store_calibration(quiet.model_copy(update=wide), tmp_path)
    assert band_for("planted", tmp_path, paired=True) == 0.08
    edited = (tmp_path / "calibration.json").read_text().replace("0.08", "3.79")
    (tmp_path / "calibration.json").write_text(edited)
    assert band_for("planted", tmp_path, paired=True) == 0.1
    assert compare(1.05, 0, band=0.08).outcome.verdict in ("equivalent", "unresolved")
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(DataError, match=r"damaged\nhelp: remove it and run `lrdiff bench calibrate`"):
        band_for("planted", tmp_path, paired=True)


@pytest.mark.slow
def test_a_band_of_few_pairs_holds_what_is_measured_later() -> None:
    """100 bands of six pairs, and a comparison of eight for each; without widening it is 87 of 100, with it 95."""
    inside = 0
    for seed in range(100):
        band = calibration_of(compare(1.0, seed, processes=6, rounds=6), processes=8).paired
        later = compare(1.0, seed + 1000, processes=8, rounds=6).outcome.ratio.estimate
        inside += abs(math.log(later)) <= math.log1p(band)
    assert inside >= 92, inside


@pytest.mark.parametrize("options", [{"processes": 0}, {"samples": 0}, {"block_seconds": 0.0}])
def test_an_effort_of_nothing(options: dict) -> None:
    usual = {"processes": 1, "samples": 1, "block_seconds": 1.0, "warmup_seconds": 1.0, "most_seconds": 1.0}
    with pytest.raises(ConfigError):
        Effort(**{**usual, **options})
