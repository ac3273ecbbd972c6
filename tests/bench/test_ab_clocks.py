"""Two clocks and the A/A band of the same run: which one judges, what is found beside load, what is held back."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_bench_hierarchical import Planted, case

from lrdiff_bench.cli import main
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.pairs.ab import Pairing, Side, compare_sides
from lrdiff_bench.measure.engine.pairs.comparison import Comparison, comparison_of
from lrdiff_bench.measure.engine.pairs.judge import ClockRounds, judge
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.timer import Sample, Timer
from lrdiff_bench.measure.engine.usage import Usage
from lrdiff_bench.stats.hierarchical import compare_paired, same_code_band
from lrdiff_core.errors import DataError


class Loaded(Planted):
    """Beside two busy loops: by the wall clock a block lasts up to three times as long."""

    busy: bool | None = True

    def block(self) -> Sample:
        processor = self.seconds * math.exp(self.generator.normal(0, 0.03))
        return Sample(processor * self.generator.uniform(1, 3), processor=processor, busy=self.busy)


class Sleeping(Loaded):
    busy = False


def compare(slow_down: float, seed: int, *, kind: type[Loaded] = Loaded, processes: int = 5, **options) -> Pairing:
    generator = np.random.default_rng(seed)
    a, b = Side(label="a", case=case()), Side(label="b", case=case())
    effort = Effort(processes=processes, samples=10, block_seconds=1, warmup_seconds=1, most_seconds=60)
    return compare_sides(
        a, b, effort, seed=seed, launch=lambda side: kind(slow_down if side is b else 1.0, generator, [1.0]), **options
    )


def test_the_processors_clock_finds_beside_load_what_the_wall_clock_cannot() -> None:
    found = Counter(str(compare(1.2, seed).outcome.verdict) for seed in range(12))
    assert found["slower"] >= 11, found
    same = Counter(str(compare(1.0, seed).outcome.verdict) for seed in range(15))
    assert same["slower"] + same["faster"] == 0, same
    one = compare(1.2, 0).judgement
    assert one.clock == "processor"
    assert one.processor is not None
    assert one.processor.noise < one.wall.noise / 3
    wall = Counter(str(compare(1.2, seed, kind=Sleeping).outcome.verdict) for seed in range(10))
    assert wall["slower"] <= 2, wall


def test_what_waits_is_judged_by_the_wall_clock_and_both_are_told() -> None:
    pairing = compare(1.2, 0, kind=Sleeping)
    assert pairing.judgement.clock == "wall"
    assert "waits" in pairing.judgement.why
    assert pairing.judgement.processor is not None  # told all the same
    assert pairing.judgement.processor.outcome.verdict == "slower"


def test_a_side_that_begins_to_wait_takes_both_to_the_wall_clock() -> None:
    quick = [[1.0, 1.0, 1.0]] * 4
    rounds = ClockRounds(quick, quick)
    assert judge(rounds, rounds, (1.0, 1.0)).clock == "processor"
    assert judge(rounds, rounds, (1.0, 0.5)).clock == "wall"
    assert judge(rounds, rounds, (None, 1.0)).why == "the processor's time is not known here"
    assert judge(rounds, None, (1.0, 1.0)).clock == "wall"


def rounds_of(ratio: float, spread: float, processes: int = 8) -> list[list[float]]:
    """Processes that lie evenly around a ratio."""
    return [[ratio * math.exp(x)] * 5 for x in np.linspace(-spread, spread, processes)]


def test_a_change_inside_the_same_codes_own_differences_is_no_change() -> None:
    twice = judge(ClockRounds(rounds_of(1.1, 0.02), rounds_of(1.0, 0.02)), None, (1.0, 1.0))
    assert (str(twice.outcome.verdict), twice.doubt) == ("slower", None)
    shifted = judge(ClockRounds(rounds_of(1.1, 0.02), rounds_of(1.3, 0.02)), None, (1.0, 1.0))
    assert shifted.outcome.verdict == "unresolved"
    assert shifted.outcome.more_processes == 8
    assert "the same code differs by 42 % from itself" in (shifted.doubt or "")


def test_a_wide_band_calls_nothing_equivalent() -> None:
    """The issue's 2.13 [1.77, 2.87] beside an A/A band of 379 % was called equivalent."""
    wide = rounds_of(1.0, 1.0)
    large = judge(ClockRounds(rounds_of(2.13, 0.3), wide), None, (1.0, 1.0))
    assert large.outcome.verdict != "equivalent"
    same = judge(ClockRounds(rounds_of(1.0, 0.01), wide), None, (1.0, 1.0))
    assert same.wall.outcome.verdict == "equivalent"
    assert same.outcome.verdict == "unresolved"
    assert judge(ClockRounds(rounds_of(1.0, 0.01), rounds_of(1.0, 0.01)), None, (1.0, 1.0)).doubt is None


def test_a_higher_level_widens_as_students_t_does() -> None:
    ratios = rounds_of(1.1, 0.05, 4)
    usual, strict = compare_paired(ratios), compare_paired(ratios, level=0.998)
    assert strict.ratio.level == 0.998
    widening = math.log(strict.ratio.high / 1.1) / math.log(usual.ratio.high / 1.1)
    assert widening == pytest.approx(10.21 / 3.18, rel=0.02)
    assert same_code_band([[1.0] * 5]) == math.inf


def test_work_that_waits_or_is_done_by_others_is_seen() -> None:
    def computes() -> bool | None:
        usage = Usage()
        sum(range(100_000))
        return usage.busy()

    if computes() is None:
        pytest.skip("this system does not tell how often a process waits")
    assert any(computes() for _ in range(10))  # one of them may meet a page fault or a neighbour
    usage = Usage()
    time.sleep(0.001)
    assert not usage.busy()

    def timed(step) -> list[Sample]:
        timer = Timer(Case(name="x", version="1", factory=lambda: Workload(step)), target_seconds=1e-3)
        timer.warm_up()
        return [timer.sample() for _ in range(10)]

    computing = timed(lambda: sum(range(1000)))
    assert sum(bool(one.busy) for one in computing) >= 6  # on a quiet machine all ten
    assert all(one.processor is not None for one in computing)
    assert not any(one.busy for one in timed(lambda: time.sleep(1e-4)))


def test_steps_timed_one_by_one_have_a_processor_time_too() -> None:
    workload = Workload(lambda: sum(range(10_000)), before=lambda: None)
    timer = Timer(Case(name="x", version="1", factory=lambda: workload), target_seconds=1e-3)
    timer.warm_up()
    shares = [sample.processor / sample.seconds for sample in (timer.sample() for _ in range(10)) if sample.processor]
    assert len(shares) == 10
    assert 0.3 < max(shares) < 1.5  # that of the least interrupted one


def test_the_control_runs_in_turn_and_its_samples_are_kept() -> None:
    pairing = compare(1.0, 3, processes=2)
    a, b = pairing.records
    assert [p.process for p in a.processes] == [0, 1, 2, 3]
    assert [p.process for p in b.processes] == [0, 1]
    assert len(a.samples) == 2 * len(b.samples) == 2 * 2 * 20
    orders = sorted(s.order for record in pairing.records for s in record.samples)
    assert orders == list(range(2 * 10 * 6))
    by_order = {s.order: (name, s.process) for name, r in zip("ab", pairing.records, strict=True) for s in r.samples}
    for begin in range(0, 120, 6):
        places = [by_order[begin + i] for i in range(6)]
        assert places == places[::-1]  # forwards and backwards
        assert len(set(places)) == 3


def test_a_verdict_is_a_record_that_ls_show_and_compare_know(tmp_path: Path, capsys) -> None:
    pairing = compare(1.5, 0)
    sides = Side(label="before", case=case()), Side(label="after", case=case())
    one = comparison_of(pairing, *sides)
    run = store.new_run(tmp_path)
    for record in (*pairing.records, one):
        store.append_record(run, record)
    assert store.read_run(run) == list(pairing.records)
    assert store.read_comparisons(run) == [one]
    assert Comparison.model_validate_json(one.model_dump_json()) == one
    assert (one.verdict, one.clock, one.a.record) == ("slower", "processor", pairing.records[0].id)
    store.replace_record(run, pairing.records[1])
    assert store.read_comparisons(run) == [one]
    assert main(["bench", "ls", "--from", str(tmp_path)]) == 0
    assert "planted, slower" in capsys.readouterr().out
    assert main(["bench", "show", "--from", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    said = " ".join(said.split())
    assert f"after against before: slower, ratio {one.ratio:.3f} [{one.low:.3f}, {one.high:.3g}]" in said
    assert "wall clock: " in said
    assert "processor's clock: " in said
    assert "A/A " in said
    with open(run, "a") as file:
        file.write('{"format":"lrdiff.bench.comparison"}\n')
    with pytest.raises(DataError, match="holds no comparison: id: "):
        store.read_comparisons(run)


def test_one_process_a_side_says_so(capsys, tmp_path: Path) -> None:
    pairing = compare(1.5, 0, processes=1)
    one = comparison_of(pairing, *(Side(label=name, case=case()) for name in "ab"))
    assert (one.verdict, one.high, one.judged.same_band) == ("unresolved", None, None)
    store.append_record(tmp_path / "1.jsonl", pairing.records[0])
    store.append_record(tmp_path / "1.jsonl", one)
    assert main(["bench", "show", "--from", str(tmp_path)]) == 0
    assert "one process a side cannot tell" in capsys.readouterr().out


def test_settling_has_a_price_in_time() -> None:
    pairing = compare(1.03, 2, processes=3)
    assert pairing.outcome.verdict == "unresolved"
    assert pairing.outcome.more_processes is not None
    assert pairing.minutes == pytest.approx(pairing.outcome.more_processes * pairing.seconds / 60)
