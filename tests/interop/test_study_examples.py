"""The guide's studies of a Lightning training and of a Hugging Face Trainer: a few real trainings of each."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lrdiff_bench.study import Trials
from lrdiff_bench.study.own_training import workload_named

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "own-training.md"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*num_workers.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.mark.parametrize(("module", "package"), [("lit", "lightning"), ("hugging", "transformers")])
def test_an_example_of_the_guide_trains_repeats_and_tells_rates_apart(module, package, tmp_path, monkeypatch):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install -e .[interop]")
    pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = [one for one in blocks if f"# {module}.py" in one]
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    workload = workload_named(f"{module}:train")
    assert workload.name == f"{module}-train"
    rates = np.array([[0.01, 0.01], [0.01, 0.01], [0.01, 0.1], [0.0, 0.0]])
    found = workload.train(
        Trials(rates=rates, seeds=np.full(4, 5), scheme=workload.schemes[0], judged_on="validation")
    )  # fmt: skip
    assert np.isfinite(found.metric).all()
    assert found.metric[0].tolist() == found.metric[1].tolist()
    assert found.metric[0, -1] != found.metric[2, -1]
    assert found.metric[3, 0] == pytest.approx(found.metric[3, 1])  # rates of 0: nothing is learnt
