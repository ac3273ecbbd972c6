"""The sweep that shows where a workload's best rates lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks import landscape
from lrdiff_bench.study.workloads.workload import WORKLOADS, Outcomes, Scheme, Trials, Workload
from lrdiff_core.errors import ConfigError

BOTH = {"a": 1.0, "b": 1.0}


@dataclass(frozen=True, kw_only=True)
class Planted(Workload):
    """Best where the rate of b is ``best``; rates of b above 1 diverge."""

    best: float = 0.1

    def train(self, trials: Trials) -> Outcomes:
        assert trials.judged_on == "validation"
        distance = np.abs(np.log10(trials.rates[:, 1] / self.best))
        value = 1 - distance / 10 if self.metric == "accuracy" else distance
        last = np.where(trials.rates[:, 1] > 1, np.nan, value + 0.001 * trials.seeds)
        return Outcomes(
            metric=np.stack([np.full_like(last, 7.0), last], axis=1),
            train_loss=np.zeros((len(last), 2)),
            evaluated_after=np.array([1, 2]),
            seconds_a_step=0.0,
        )

    def tiny(self) -> Planted:
        return self


def planted(metric: str = "loss", **changes: float) -> Planted:
    return Planted(
        name="planted", title="", question="", groups=("a", "b"), metric=metric, base_rates=(1e-3, 10.0),
        schemes=(Scheme(name="single", ratios=BOTH), Scheme(name="b 0.1x", ratios={"a": 1.0, "b": 0.1}),
                 Scheme(name="free", ratios={"a": 1.0}, free={"b": (0.1, 10.0)})),
        default_rate=0.1, smallest_difference=0.1, steps=2, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_planted_rate_is_found_in_every_scheme_of_fixed_ratios(metric: str) -> None:
    single, slower = landscape.sweeps(planted(metric), points=17, seeds=3)
    assert single.base_rates[single.best] == pytest.approx(0.1)
    assert single.metric[single.best] == pytest.approx(1.001 if metric == "accuracy" else 0.001)
    assert single.place == pytest.approx(0.5)
    assert single.diverged == pytest.approx(4 / 17)
    assert slower.base_rates[slower.best] == pytest.approx(1.0)
    assert slower.diverged == 0
    assert not single.at_edge
    assert not slower.at_edge


@pytest.mark.parametrize(("best", "at_edge"), [(1e-3, True), (1.7e-3, True), (2e-3, False)])
def test_an_edge_is_a_sixteenth_of_the_interval(best: float, at_edge: bool) -> None:
    found = landscape.sweep(planted(best=best), planted().schemes[0], points=65, seeds=1)
    assert found.at_edge == at_edge
    assert ("EDGE" in landscape.line(planted(), found)) == at_edge


def test_free_ratios_are_refused() -> None:
    with pytest.raises(ConfigError, match='scheme "free" has free ratios\nhelp: sweep a scheme of fixed ratios'):
        landscape.sweep(planted(), planted().schemes[2])


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(WORKLOADS, "planted", planted)
    landscape.main(["planted", "--points", "17", "--seeds", "3"])
    title, head, single, slower = capsys.readouterr().out.splitlines()
    assert title == "planted: loss, base rates 0.001 to 10"
    assert head.split()[0] == "scheme"
    assert single.split()[:4] == ["single", "0.0010", "0.1", "0.50"]
    assert "2 to 0.001" in single
    assert "24%" in single
    assert slower.split()[:2] == ["b", "0.1x"]
    assert max(map(len, (title, head, single, slower))) <= 80
    with pytest.raises(ConfigError, match='there is no workload "nonsense"\nhelp: workloads: '):
        landscape.main(["nonsense"])
