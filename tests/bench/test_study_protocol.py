"""Each point of the protocol, with a test that breaks when the point is violated; workloads are formulas."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.simulate_study import SINGLE, SMALLEST, TEN, TENTH, Planted, _free
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.analysis.document import document_of, seconds_a_search
from lrdiff_bench.study.describe import time_text
from lrdiff_bench.study.search.engine import check_workload, run_study, trainings
from lrdiff_bench.study.search.ledger import MemoryLedger
from lrdiff_bench.study.search.plan import FEWEST_SEARCHES, Plan, make_plan
from lrdiff_bench.study.search.points import BASE, EDGE, Space, group_rates, space_of, unit_points
from lrdiff_bench.study.search.tasks import batches_of
from lrdiff_bench.study.search.winner import choose_winner, finalists, lower_is_better
from lrdiff_bench.study.workloads.workload import Outcomes, Scheme
from lrdiff_core.errors import ConfigError

SMALL = Plan(budget=16, searches=3, report_seeds=30, target_seeds=6, widenings=2, finalists=4, final_seeds=6)
FOUR = (SINGLE, TENTH, TEN, _free("head", "tail"))


class Spy:
    """A workload that writes down what it is asked to train."""

    def __init__(self, workload):
        self._workload, self.asked = workload, []

    def __getattr__(self, name):
        return getattr(self._workload, name)

    def train(self, trials):
        self.asked.append(trials)
        return self._workload.train(trials)


class News:
    def __init__(self):
        self.lines, self.last = [], {}

    def progress(self, stage, done, total):
        self.last[stage] = (done, total)

    def news(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def studied():
    spy = Spy(Planted(schemes=FOUR, gain={"ratio 10": 3 * SMALLEST}))
    finished = run_study(spy, SMALL, MemoryLedger())
    return spy, finished, analyse(finished, draws=400)


# 1: a slice of one space, the same base rates for all


def test_every_scheme_tries_the_same_base_rates_and_the_same_number_of_points(studied):
    _, finished, _ = studied
    bases = []
    for search in finished.searches:
        assert search.unit.shape[:2] == (SMALL.searches, SMALL.budget)
        bases.append([[task.parameters[BASE] for task in own] for own in search.tasks])
    for other in bases[1:]:
        np.testing.assert_allclose(other, bases[0], rtol=1e-12)


def test_single_is_ratio_one_and_a_fixed_ratio_costs_what_single_costs(studied):
    _, finished, _ = studied
    single, tenth, _, free = finished.searches
    assert all(set(task.rates) == {task.parameters[BASE]} for own in single.tasks for task in own)
    assert tenth.space.names == single.space.names == (BASE,)
    assert free.space.names == (BASE, "head", "tail")
    for task in tenth.tasks[0]:
        assert task.rates == pytest.approx((task.rates[0], task.rates[0] / 10, task.rates[0]))


def test_a_workload_whose_first_scheme_is_no_single_rate_is_refused():
    with pytest.raises(ConfigError, match="is not a single rate"):
        check_workload(Planted(schemes=(TEN, SINGLE)))
    with pytest.raises(ConfigError, match=r'names the group "hed"') as problem:
        check_workload(Planted(schemes=(SINGLE, Scheme(name="x", ratios={"hed": 2.0}))))
    assert problem.value.help == "groups are: body, head, tail"
    with pytest.raises(ConfigError, match="1 schemes, none of differential rates"):
        check_workload(Planted(schemes=(SINGLE,)))


# 2: the same for all, points of a scrambled Sobol sequence


def test_all_schemes_are_trained_on_the_same_tuning_seeds_and_equally_often(studied):
    spy, _, _ = studied
    plan = SMALL
    for first, each in ((1_000_000, plan.budget * plan.tuning_seeds), (2_000_000, plan.finalists * plan.final_seeds)):
        counts, seeds = {}, {}
        for trials in spy.asked:
            own = trials.seeds[(trials.seeds >= first) & (trials.seeds < first + 1_000_000)]
            if len(own) and (trials.rates > 0).all():
                assert trials.judged_on == "validation"
                counts[trials.scheme.name] = counts.get(trials.scheme.name, 0) + len(own)
                seeds.setdefault(trials.scheme.name, set()).update(own.tolist())
        assert len(counts) == 4
        assert set(counts.values()) == {plan.searches * each}
        assert len({frozenset(one) for one in seeds.values()}) == 1


def test_points_are_a_scrambled_sobol_sequence_and_no_grid():
    points = unit_points(64, 3, seed=5)
    uniform = np.random.default_rng(0).random((64, 3))
    assert stats.qmc.discrepancy(points) < 0.25 * stats.qmc.discrepancy(uniform)
    # every dyadic interval of each axis has its one point, and no two points share a coordinate as in a grid
    for axis in points.T:
        assert sorted((axis * 64).astype(int).tolist()) == list(range(64))
    assert not np.array_equal(points, unit_points(64, 3, seed=6))
    assert np.array_equal(points[:, :1], unit_points(64, 3, seed=5)[:, :1])


def test_rates_are_log_uniform():
    space = space_of(_free("head"), (1e-4, 1.0))
    values = space.values(unit_points(256, 2, seed=0))
    assert np.median(np.log10(values[:, 0])) == pytest.approx(-2.0, abs=0.1)
    assert np.log10(values[:, 1]).min() < -1.9
    assert np.log10(values[:, 1]).max() > 1.9
    rates = group_rates(_free("head"), ["body", "head", "tail"], values)
    np.testing.assert_allclose(rates[:, 1] / rates[:, 0], values[:, 1])
    np.testing.assert_allclose(rates[:, 2], values[:, 0])


# 3: who chooses and who reports


def test_test_data_is_not_looked_at_before_every_search_has_its_winner(studied):
    spy, _, _ = studied
    first_test = next(i for i, trials in enumerate(spy.asked) if trials.judged_on == "test")
    searched = [i for i, t in enumerate(spy.asked) if t.seeds.min() >= 1_000_000 and (t.rates > 0).all()]
    assert max(searched) < first_test
    for trials in spy.asked:
        assert trials.judged_on == ("test" if trials.seeds.max() < 500_000 else trials.judged_on)
        if trials.judged_on == "test":
            assert trials.seeds.max() < 1_000_000  # never on a tuning seed


def test_seeds_that_choose_report_and_set_the_target_are_apart_and_each_search_has_its_own():
    plan = Plan(searches=5, tuning_seeds=3, report_seeds=300)
    streams = (plan.tuning, plan.final, plan.report)
    every = [plan.target(), *(own(r) for own in streams for r in range(plan.searches))]
    assert len(set().union(*every)) == sum(map(len, every))
    scrambles = {plan.scramble(r) for r in range(plan.searches)}
    assert len(scrambles) == plan.searches


def test_the_search_is_repeated_with_other_points(studied):
    _, finished, _ = studied
    assert finished.plan.searches >= 3
    unit = finished.searches[0].unit
    assert not np.array_equal(unit[0], unit[1])
    assert len({task.seeds for own in finished.searches[0].tasks for task in own}) == SMALL.searches


def test_the_scheme_of_the_verdict_is_chosen_on_validation_data():
    class Contrary(Planted):
        """On validation data a tenth is best, on test data ten."""

        def train(self, trials):
            found = super().train(trials)
            better = {"validation": "ratio 0.1", "test": "ratio 10"}[trials.judged_on]
            gain = 0.5 if trials.scheme.name == better else 0.0
            return replace(found, metric=found.metric - gain)

    found = analyse(
        run_study(Contrary(schemes=(SINGLE, TENTH, TEN), setting_noise=0.005), SMALL, MemoryLedger()), draws=400
    )
    assert found.chosen == "ratio 0.1"
    assert found.gain.verdict == "NO DIFFERENCE"
    assert found.schemes["ratio 10"].verdict == "HELPS"


def test_a_reference_is_judged_beside_but_never_chosen():
    reference = replace(TENTH, reference=True)
    workload = Planted(schemes=(SINGLE, reference, TEN), gain={"ratio 0.1": 0.3})
    found = analyse(run_study(workload, SMALL, MemoryLedger()), draws=400)
    assert found.chosen == "ratio 10"
    assert found.schemes["ratio 0.1"].verdict == "HELPS"
    with pytest.raises(ConfigError, match="none of differential rates"):
        check_workload(Planted(schemes=(SINGLE, reference)))


# 4: edges


def test_a_winner_at_the_edge_of_the_base_rate_widens_it_for_every_scheme():
    news = News()
    finished = run_study(Planted(best=-4.4, breaks_at=10.0), SMALL, MemoryLedger(), watcher=news)
    assert finished.void == ""
    for search in finished.searches:
        assert search.widened[0] == (BASE, "low")
        assert search.space.intervals[0][0] < 1e-5
        assert search.space.intervals[0] == finished.searches[0].space.intervals[0]
        for winner in search.winners:
            assert not winner.edges
    assert any("low edge of the base rate; widened for every scheme" in text for text in news.lines)


def test_one_scheme_at_the_edge_of_the_base_rate_widens_it_for_the_others_too():
    class Apart(Planted):
        """Ratio 10 has its best base rate beyond the interval, single in its middle."""

        def train(self, trials):
            if trials.scheme.name == "ratio 10":
                return Planted.train(replace(self, best=-4.4), trials)
            return super().train(trials)

    finished = run_study(Apart(), SMALL, MemoryLedger())
    assert finished.void == ""
    assert finished.searches[0].widened[0] == finished.searches[1].widened[0] == (BASE, "low")
    assert finished.searches[0].space == finished.searches[1].space


def test_a_winner_at_the_edge_of_a_ratio_widens_that_scheme_alone():
    valley = Planted(schemes=(SINGLE, _free("head")), gain=lambda logs: 0.3 - 0.1 * (logs[:, 1] - 2.6) ** 2)
    finished = run_study(valley, SMALL, MemoryLedger())
    single, free = finished.searches
    assert single.widened == ()
    assert free.widened[0] == ("head", "high")
    assert free.space.intervals[0] == single.space.intervals[0]
    assert finished.void == ""
    assert all(winner.edges == frozenset() for winner in free.winners)


def test_an_optimum_at_infinity_is_inconclusive_and_says_so():
    slope = Planted(schemes=(SINGLE, _free("head")), gain=lambda logs: 0.2 * logs[:, 1])
    news = News()
    finished = run_study(slope, SMALL, MemoryLedger(), watcher=news)
    assert "still lies at the edge after widening 2 times (free: high edge of the ratio of head)" in finished.void
    found = analyse(finished, draws=400)
    assert found.gain.verdict == "INCONCLUSIVE"
    assert "edge" in found.gain.reason
    assert found.gain.low > SMALLEST  # the numbers alone would have said HELPS


def test_a_plateau_is_no_edge():
    plateau = Planted(schemes=(SINGLE, _free("head")), gain=lambda logs: 0.1 * (logs[:, 1] > -1))
    finished = run_study(plateau, SMALL, MemoryLedger())
    assert finished.void == ""


@pytest.mark.parametrize(("at", "edges"), [(0.5 * EDGE, {(BASE, "low")}), (1 - 0.5 * EDGE, {(BASE, "high")}), (0.1, set())])  # fmt: skip # noqa: E501
def test_the_edge_is_the_outermost_sixteenth(at, edges):
    space = Space(names=(BASE,), intervals=((1e-4, 1.0),))
    unit = np.array([[at], [0.5], [0.4]])
    scores = np.array([[0.0, 0.0], [1.0, 1.0], [1.1, 1.1]])
    assert choose_winner(space, unit, scores, smallest=0.1).edges == edges


def test_all_trials_diverged_means_the_rates_were_too_high():
    winner = choose_winner(
        Space(names=(BASE,), intervals=((1.0, 10.0),)), np.array([[0.5]]), np.array([[np.inf]]), smallest=0.1
    )
    assert winner.index is None
    assert winner.edges == {(BASE, "low")}
    finished = run_study(Planted(base_rates=(1.0, 100.0), best=-2.0), replace(SMALL, widenings=3), MemoryLedger())
    assert all(search.space.intervals[0][0] < 0.1 for search in finished.searches)


def test_fewest_diverged_seeds_win_then_the_lowest_mean():
    """One seed that diverged rules a point out; where every point has one, the rest decides and none is void."""
    space = Space(names=(BASE,), intervals=((1e-4, 1.0),))
    unit = np.array([[0.5], [0.6], [0.4]])
    scores = np.array([[0.0, np.inf], [1.0, 1.0], [2.0, 2.0]])
    assert choose_winner(space, unit, scores, smallest=0.1).index == 1
    assert finalists(scores, 3).tolist() == [1, 2, 0]
    lost = choose_winner(space, unit, np.array([[np.inf, 0.2], [0.1, np.inf], [np.inf, np.inf]]), smallest=0.1)
    assert (lost.index, lost.score, lost.edges) == (1, np.inf, frozenset())


class Optimistic(Planted):
    """On the tuning seeds one point in ten of ratio 10 looks far better than it is: real tuning luck is skewed."""

    def train(self, trials):
        found = super().train(trials)
        key = np.round(1e6 * np.log(np.maximum(trials.rates[:, 0], 1e-12))).astype(int)
        tuning = (trials.seeds >= 1_000_000) & (trials.seeds < 2_000_000)
        lucky = tuning & (key % 10 == 0) & (trials.scheme.name == "ratio 10")
        return replace(found, metric=found.metric - 0.5 * lucky[:, None])


def test_finalists_are_trained_again_on_seeds_of_their_own_and_those_decide():
    """A point that is best by luck does not win twice."""
    workload = Optimistic(schemes=(SINGLE, TEN), curvature=0.4)
    once = run_study(workload, replace(SMALL, finalists=0), MemoryLedger())
    twice = run_study(workload, SMALL, MemoryLedger())
    spread = [np.std([np.log10(t.rates[0]) for t in one.searches[1].winning_tasks]) for one in (once, twice)]
    assert spread[1] < 0.6 * spread[0]
    for own in twice.searches:
        for search, (winner, best) in enumerate(zip(own.winners, own.finalists, strict=True)):
            assert winner.index in best
            assert len(best) == SMALL.finalists
            tasks = [task for task in twice.by_kind["final", own.scheme.name] if task.search == search]
            assert {task.seeds for task in tasks} == {SMALL.final(search)}
            means = [twice.results[task.id].final.mean() for task in tasks]
            assert winner.score == pytest.approx(min(means))


def test_the_share_of_diverged_runs_is_reported(studied):
    _, finished, found = studied
    base = np.array([[task.parameters[BASE] for task in own] for own in finished.searches[0].tasks])
    assert found.search_diverged["single"] == pytest.approx((base > 0.3).mean())
    assert found.search_diverged["single"] > 0


# 6 and 9: enough seeds, in pairs; the plan of a workload


def test_the_full_plan_has_what_the_protocol_asks_for():
    plan = make_plan(report_seeds=30)
    assert plan.mode == "full"
    assert plan.report_seeds >= 29
    assert plan.searches == FEWEST_SEARCHES == 16
    assert plan.budget * plan.searches >= 64
    assert make_plan(report_seeds=200).report_seeds == 200
    assert make_plan(report_seeds=200, quick=True).mode == "quick"
    assert make_plan(report_seeds=30, seeds=28).mode == "reduced"
    assert make_plan(report_seeds=30, seeds=29).mode == "full"
    with pytest.raises(ConfigError, match="budget is 1"):
        make_plan(report_seeds=30, budget=1)


def test_the_winners_of_a_search_are_reported_on_the_same_seeds_and_another_search_on_others(studied):
    _, finished, found = studied
    for scheme in FOUR:
        for repeat in range(SMALL.searches):
            seeds = [
                seed
                for task in finished.tasks.values()
                if (task.kind, task.scheme.name, task.search) == ("report", scheme.name, repeat)
                for seed in task.seeds
            ]
            assert tuple(seeds) == SMALL.report(repeat)
    assert [column.name for column in found.columns] == ["untuned default", *(s.name for s in FOUR)]


# 8: time to target


class Clock(Planted):
    """Loss falls to 0 in equal steps; ratio 10 does it in less than half of them, ratio 0.1 never gets there."""

    def train(self, trials):
        speed = {"ratio 10": 2.1, "ratio 0.1": 0.5}.get(trials.scheme.name, 1.0)
        at = np.arange(1, 11)
        path = np.maximum(1.0 - speed * at / 10.0, 0.0)
        base = np.abs(np.log10(np.maximum(trials.rates[:, :1], 1e-12)) - self.best)
        return Outcomes(
            metric=path + 0.05 * base,
            train_loss=path + 0.05 * base,
            evaluated_after=10 * at,
            seconds_a_step=0.01,
        )


def test_time_to_target_is_in_steps_and_seconds_and_a_miss_is_infinite():
    finished = run_study(Clock(schemes=(SINGLE, TENTH, TEN)), replace(SMALL, budget=64), MemoryLedger())
    found = analyse(finished, draws=400)
    assert found.target == pytest.approx(0.2, abs=0.02)  # what the single rate has after 80 of 100 steps
    assert found.times["ratio 10"].steps.estimate == 40
    assert found.times["ratio 10"].seconds == pytest.approx(0.4)
    assert found.times["single"].steps.estimate in (80, 90)
    assert found.times["ratio 0.1"].steps.estimate == math.inf
    assert found.times["ratio 0.1"].reached == 0.0
    assert found.times["untuned default"].steps.estimate == 90  # later than the tuned one


class Slow(Clock):
    """A training takes 2 ms although its steps take 0.1 ms: evaluation, starts, what is compiled."""

    def train(self, trials):
        time.sleep(2e-3 * len(trials.seeds))
        return replace(super().train(trials), seconds_a_step=1e-4 / self.steps)


def test_the_price_of_a_search_is_the_time_that_passed():
    begun = time.perf_counter()
    finished = run_study(Slow(schemes=(SINGLE, TEN)), SMALL, MemoryLedger())
    passed = (time.perf_counter() - begun) / SMALL.searches
    made = sum(len(task.seeds) for task in finished.tasks.values() if task.kind != "target") / SMALL.searches
    assert 2e-3 * made <= seconds_a_search(finished) <= passed
    earlier = {id: replace(one, seconds_a_training=math.nan) for id, one in finished.results.items()}
    assert seconds_a_search(replace(finished, results=earlier)) == pytest.approx(1e-4 * made)


def test_the_target_comes_from_seeds_of_its_own_and_the_best_of_all_searches(studied):
    _, finished, _ = studied
    target = [task for task in finished.tasks.values() if task.kind == "target"]
    assert {seed for task in target for seed in task.seeds} == set(SMALL.target())
    assert {task.judged_on for task in target} == {"test"}
    scores = [winner.score for winner in finished.searches[0].winners]
    best = finished.searches[0].winning_tasks[int(np.argmin(scores))]
    assert {task.rates for task in target} == {best.rates}


# 10: nothing is dropped


def test_every_trial_is_kept_and_diverged_ones_count():
    ledger = MemoryLedger()
    finished = run_study(Planted(best=-4.4, breaks_at=0.01), SMALL, ledger)
    searched = [id for id in ledger.results if id.startswith("search/")]
    rounds = {id.split("/")[2] for id in searched}
    assert len(rounds) == 2  # the space that was given up is still there
    assert len(searched) == 2 * 2 * SMALL.searches * SMALL.budget
    diverged = [id for id in searched if np.isnan(ledger.results[id].final).any()]
    assert diverged
    assert len(finished.searches[0].tasks[0]) == SMALL.budget


def test_a_winner_that_diverges_on_fresh_seeds_is_not_dropped():
    class Fragile(Planted):
        def train(self, trials):
            found = super().train(trials)
            if trials.judged_on == "test" and trials.scheme.name == "ratio 10":
                found.metric[trials.seeds % 2 == 0] = np.nan
            return found

    workload = Fragile(schemes=(SINGLE, TEN), gain={"ratio 10": 4 * SMALLEST})
    finished = run_study(workload, SMALL, MemoryLedger())
    found = analyse(finished, draws=400)
    assert found.columns[2].diverged == pytest.approx(0.5)
    assert found.gain.verdict != "HELPS"  # half of the pairs are better by far, half are lost
    facts = {"name": "x", "source": {}, "spec": {**vars(workload), "schemes": [{"name": "single"}]}, "versions": {}}
    document = document_of(finished, found, facts)
    assert document["columns"][2]["diverged"] == pytest.approx(0.5)


def test_accuracy_is_the_mirror_of_loss():
    loss = analyse(run_study(Planted(gain={"ratio 10": 0.05}), SMALL, MemoryLedger()), draws=400)
    accuracy = analyse(run_study(Planted(gain={"ratio 10": 0.05}, metric="accuracy"), SMALL, MemoryLedger()), draws=400)
    assert accuracy.gain.verdict == loss.gain.verdict == "HELPS"
    assert accuracy.gain.estimate == pytest.approx(loss.gain.estimate)
    assert accuracy.columns[1].median.estimate == pytest.approx(1 - loss.columns[1].median.estimate)
    assert accuracy.target == pytest.approx(1 - loss.target)
    assert lower_is_better(np.array([0.2, np.nan]), "accuracy").tolist() == [-0.2, np.inf]


def test_the_plan_says_what_will_be_trained(studied):
    spy, finished, _ = studied
    told = trainings(finished.workload, SMALL)
    assert sum(len(trials.seeds) for trials in spy.asked) == sum(told.values())


def test_batches_depend_on_the_tasks_alone_and_never_mix_schemes(studied):
    _, finished, _ = studied
    tasks = [task for search in finished.searches for own in search.tasks for task in own]
    batches = batches_of(tasks, at_once=10)
    assert [task for batch in batches for task in batch] == tasks
    for batch in batches:
        assert len({task.scheme.name for task in batch}) == 1
        assert sum(len(task.seeds) for task in batch) <= 10
    assert batches_of(tasks, at_once=1) == [[task] for task in tasks]


def test_a_record_whose_time_has_a_compiler_in_it_tells_steps_alone():
    column = {"steps_to_target": [140.0, 130.0, 150.0], "seconds_to_target": 4.97, "reached": 1.0}
    assert time_text(column) == "140 steps"
    assert time_text(column | {"training_seconds_to_target": 135e-6}) == "140 steps, 135 µs"
    assert time_text(column | {"steps_to_target": [None] * 3, "reached": 0.29}) == "29 % get there"
