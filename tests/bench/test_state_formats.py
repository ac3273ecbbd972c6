"""The measurements of ``state_format``: bytes, the page, and a study that the court can judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.state_formats import cost, study
from lrdiff_bench.measure.cases.state import model_shapes
from lrdiff_bench.study.search.engine import check_workload
from lrdiff_bench.study.workloads.workload import Trials
from lrdiff_core.optim import kernel


@pytest.mark.skipif(kernel.load() is None, reason="no C compiler here")
@pytest.mark.parametrize(("dtype", "state"), [("float32", "float32"), *cost.ROWS])
def test_bytes_are_those_of_the_tensors(dtype: str, state: str) -> None:
    """What a step moves is counted in the tensors themselves: all are read, and all but the gradient are written."""
    workload = cost.step_in(model_shapes("lora_bert"), dtype, state, "hot").factory()
    assert set(workload.facts["forms"]) == {"kernel"}  # type: ignore[call-overload]
    params = [*workload.step.__self__.param_groups[0]["params"]]  # type: ignore[attr-defined]
    held = workload.step.__self__.state  # type: ignore[attr-defined]
    numbers = sum(param.numel() for param in params)
    own = sum(
        tensor.numel() * tensor.itemsize
        for param in params
        for tensor in (param, *(value for name, value in held[param].items() if name != "step"))
    )
    assert own / numbers == pytest.approx(cost.kept(dtype, state), rel=0.01)
    assert cost.moved(dtype, state) == pytest.approx(2 * cost.kept(dtype, state) + params[0].itemsize)


def trials(workload: study.FormatWorkload, scheme: int) -> Trials:
    count = 2
    return Trials(
        rates=np.full((count, 1), 0.01), seeds=np.arange(count), scheme=workload.schemes[scheme], judged_on="test"
    )


@pytest.mark.parametrize("make", [study.digits, study.tokens, study.relearn])
def test_schemes_train_the_same_rows_in_other_formats(make) -> None:
    workload = replace(make().tiny(), steps=20, evaluations=2)
    check_workload(workload)
    found = [workload.train(trials(workload, i)) for i in range(len(workload.schemes))]
    again = workload.train(trials(workload, 0))
    assert np.array_equal(again.train_loss, found[0].train_loss)
    for one in found[1:]:
        assert one.metric.shape == (2, 2)
        assert not np.array_equal(one.train_loss, found[0].train_loss)
        np.testing.assert_allclose(one.train_loss, found[0].train_loss, rtol=0.2)


@pytest.mark.parametrize("scheme", [0, 2, 4])
def test_a_network_is_trained_as_alone_whoever_stands_beside_it(scheme: int) -> None:
    workload = replace(study.digits().tiny(), steps=20, evaluations=2)
    rates, seeds = np.array([[0.001], [0.01], [1e4]]), np.array([3, 1, 2])
    together = Trials(rates=rates, seeds=seeds, scheme=workload.schemes[scheme], judged_on="validation")
    found = workload.train(together)
    for i in range(3):
        alone = workload.train(replace(together, rates=rates[i : i + 1], seeds=seeds[i : i + 1]))
        np.testing.assert_array_equal(alone.train_loss[0], found.train_loss[i])
        np.testing.assert_array_equal(alone.metric[0], found.metric[i])


def test_float32_is_the_workloads_own_training() -> None:
    """The population of the workload itself, from the same seeds, comes to the same losses."""
    workload = study.digits().tiny()
    inner = workload.inner
    workload = replace(workload, steps=inner.steps)
    given = trials(workload, 0)
    alike = replace(given, rates=np.repeat(given.rates, len(inner.groups), axis=1), scheme=inner.schemes[0])
    theirs = inner.train(alike)
    np.testing.assert_allclose(workload.train(given).metric[:, -1], theirs.metric[:, -1], rtol=1e-4)
