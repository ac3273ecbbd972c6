"""``lrdiff tune``: the surface, both searches on planted optima, the answer that follows from a verdict, the screen."""

import json
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from benchmarks import tune_rates as tune_rates_benchmark
from benchmarks.simulate_study import Planted
from benchmarks.tune_rates import null, tune_page
from lrdiff_bench.cli import main
from lrdiff_bench.study import training
from lrdiff_bench.study.tune import FoundRates, TuneOptions, find_rates, tune_rates
from lrdiff_bench.study.tune.found import free_scheme
from lrdiff_bench.study.tune.proof import answer_of
from lrdiff_bench.study.tune.surface import Surface, capped
from lrdiff_bench.study.user_model import UserModelWorkload
from lrdiff_bench.study.workloads.workload import WORKLOADS
from lrdiff_bench.system.machine import provenance
from lrdiff_core.errors import ConfigError, InputError


def valley(logs):
    """Lowest where the head learns 30 times faster than the others: a gain of 0.3."""
    return 0.3 - 0.1 * ((logs[:, 1] - 1.5) ** 2 + logs[:, 2] ** 2)


def test_the_surface_separates_seeds_from_rates_and_passes_over_noise():
    random = np.random.default_rng(0)
    at = random.uniform(-3.0, 0.0, (40, 2))
    seeds = np.repeat(np.arange(5), 8)
    truth = (at[:, 0] + 1.0) ** 2 + 0.5 * (at[:, 1] + 2.0) ** 2
    surface = Surface(at, seeds, truth + 5.0 * seeds + random.normal(0.0, 0.1, 40))  # seeds differ more than rates
    grid = np.stack(np.meshgrid(*[np.linspace(-3, 0, 31)] * 2), axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(grid[surface.mean(grid).argmin()], [-1.0, -2.0], atol=0.35)
    draws = surface.draws(grid, 50, random)
    assert draws.std(axis=0).min() > 0.0
    assert np.isfinite(capped(np.full(3, np.inf))).all()


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_side_by_side_a_planted_ratio_is_found_in_56_trainings(metric):
    told = []
    found = find_rates(Planted(gain=valley, metric=metric), told=lambda *one: told.append(one))
    assert found.trainings == 56
    assert 12 < found.ratios["head"] < 80
    assert 0.2 < found.ratios["tail"] < 5
    assert 0.002 < found.base_rate < 0.05
    assert found.ratios["body"] == 1.0
    assert [one[0] for one in told] == ["one rate", *["ratios"] * 5, "finalists"]
    assert told[-1][1:] == (56, 56)
    again = find_rates(Planted(gain=valley, metric=metric))
    assert again.ratios == found.ratios  # the same seeds, the same rates
    assert find_rates(Planted(gain=valley, metric=metric), seeds_from=99).ratios != found.ratios


@training(groups=("body", "head"), steps=20, base_rates=(1e-4, 1.0), smallest_difference=0.05)
def stepwise(rates, seed):
    """Yields its values, so that it can be stopped."""
    body, head = (np.log10(max(rates[group], 1e-9)) for group in ("body", "head"))
    if head > -0.3:
        raise OverflowError
    CALLS.append(0)
    for step in range(2, 21, 2):
        CALLS[-1] = step
        yield step, 0.5 + 0.2 * (body + 2.5) ** 2 + 0.2 * (head + 1.0) ** 2 + 1.0 / step + np.random.normal(0.0, 0.01)


CALLS = []


def test_one_after_the_other_a_planted_ratio_is_found_in_the_time_of_12_trainings():
    CALLS.clear()
    found = find_rates(stepwise)
    assert 8 < found.ratios["head"] < 120  # 32
    assert found.spent <= 12.5
    assert found.trainings > found.spent  # some were stopped, and paid for that
    assert any(4 <= step < 20 for step in CALLS)
    assert all(step == 20 for step in CALLS[-2:])  # the last ones decide, and are whole


def test_where_all_diverges_it_says_so():
    for workload in (Planted(breaks_at=1e-5), training(groups=("a", "b"), steps=4, evaluations=1)(diverging)):
        with pytest.raises(InputError, match="every training of .* diverged") as problem:
            find_rates(workload)
        assert "base_rates" in problem.value.help
    with pytest.raises(ConfigError, match="--trainings is 3"):
        find_rates(Planted(), 3)


def diverging(rates, seed):
    return [float("nan")]


@pytest.mark.parametrize(
    ("verdict", "word", "rates"),
    [
        ("HELPS", "rates by group", {"body": 0.02, "head": 0.2}),
        ("HELPS ON AVERAGE", "rates by group", {"body": 0.02, "head": 0.2}),
        ("HELPS BUT DIVERGES", "one rate", {"body": 0.1, "head": 0.1}),
        ("NO DIFFERENCE", "one rate", {"body": 0.1, "head": 0.1}),
        ("HURTS", "one rate", {"body": 0.1, "head": 0.1}),
        ("INCONCLUSIVE", "open", {"body": 0.1, "head": 0.1}),
        ("INCONCLUSIVE below", "one rate", {"body": 0.1, "head": 0.1}),  # no gain that matters, harm or not
        ("INCONCLUSIVE void", "open", {"body": 0.1, "head": 0.1}),
        ("NO DIFFERENCE BUT STEADIER", "rates by group", {"body": 0.02, "head": 0.2}),
    ],
)
def test_the_answer_follows_from_the_verdict_and_can_be_copied(verdict, word, rates):
    workload = UserModelWorkload(
        name="mine", title="", question="", groups=("body", "head"), schemes=(), metric="loss", base_rates=(1e-3, 1.0),
        default_rate=0.01, smallest_difference=0.01, steps=3, data="wine", optimizer="sgd", momentum=0.9,
        patterns={"body": ["0.*", "/2[.]w.*/"], "head": ["4"]},
    )  # fmt: skip
    found = FoundRates(
        single=0.05, base_rate=0.03, ratios={"body": 1.0, "head": 10.0}, trainings=8, spent=8, seconds=1.0, diverged=0.0
    )
    schemes = [
        {"winners": [{"parameters": {"base rate": rate}} for rate in (0.9 * x, x, 1.2 * x)]} for x in (0.1, 0.02)
    ]
    high = 0.009 if "below" in verdict or "void" in verdict else 0.03
    said = verdict.removesuffix(" below").removesuffix(" void")
    gain = {"verdict": said, "low": -0.02, "high": high, "smallest": 0.01}
    document = {"gain": gain, "schemes": schemes, "void": "an edge" if "void" in verdict else ""}
    answer = answer_of(workload, found, document)
    assert answer.word == word
    assert answer.rates == rates
    one, other = rates["body"], rates["head"]
    assert tomllib.loads(answer.toml) == {"rates": {"0.*": one, "/2[.]w.*/": one, "4": other}}
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 1))
    space = {"model": model}
    exec(answer.python, space)  # what is printed is what runs
    assert {entry.name: entry.lr for entry in space["plan"]} == {
        "0.weight": one, "0.bias": one, "2.weight": one, "4.weight": other, "4.bias": other,
    }  # fmt: skip
    assert space["optimizer"].param_groups[0]["momentum"] == 0.9
    assert len(answer.python.splitlines()) == 3
    from lrdiff_bench.system.rate_settings import plan_from_settings

    settings = tomllib.loads(answer.toml)["rates"]
    assert [entry.lr for entry in plan_from_settings(model, settings)] == [entry.lr for entry in space["plan"]]


def test_what_helps_is_proven_and_what_does_not_is_told():
    helps = tune_rates(Planted(gain=valley))
    assert (helps.answer.word, helps.document["gain"]["verdict"]) == ("rates by group", "HELPS")
    assert helps.answer.rates["head"] > 10 * helps.answer.rates["body"]
    seen = set(range(5_000_000, 5_000_100))
    assert not seen & {seed for pair in helps.document["seeds"]["tuning"] for seed in range(pair[0], pair[1] + 1)}
    for number in (0, 2):
        tuned = tune_rates(null(number), TuneOptions(most_searches=40))
        assert tuned.answer.word == "one rate"
        assert len(set(tuned.answer.rates.values())) == 1
    with pytest.raises(ConfigError, match="most_searches is 17"):
        TuneOptions(most_searches=17)


def test_the_page_of_results_counts_what_its_bars_ask_for():
    for name in tune_rates_benchmark.WORKLOADS:
        workload = tune_rates_benchmark.workload_of(name)
        assert len(free_scheme(workload).free) == len(workload.groups) - 1
    row = {"name": "x", "metric": "accuracy", "free": -0.9, "tune": -0.89, "seconds": 1.0, "time": 12.0, "gap": 1.0}
    far = {**row, "gap": 1.01}
    right = [{"verdict": "NO DIFFERENCE", "answer": "one rate"}] * 40
    wrong = {"verdict": "HELPS", "answer": "rates by group"}
    document = {"command": "the command", "quick": False, **provenance(), "others_from": 1000}

    def page(rows, nulls, others):
        return tune_page({**document, "rows": rows, "nulls": nulls, "others": others})

    text, held = page([row] * 6 + [far] * 2, [*right[:39], wrong], right)
    assert held
    assert "Within one smallest difference in 6 of 8" in text
    assert "| `x` | accuracy | 0.9000 | 0.8900 | +1.01 | 1.0 | 12 |" in text
    assert "| HELPS | 0 | 1 |" in text
    assert [f"*one rate suffices* in {count} of 40" in text for count in (39, 40)] == [True, True]
    assert not page([row] * 5 + [far] * 3, right, right)[1]
    assert not page([row] * 8, [*right[:37], *[wrong] * 3], right)[1]
    assert not page([row] * 8, right, [*right[:37], *[wrong] * 3])[1]


def test_nulls_are_judged_once_others_have_other_seeds_and_the_page_is_written_again(tmp_path, monkeypatch, capsys):
    judged = []

    def fake(workload, options):
        judged.append((workload.name, options.seeds_from))
        return SimpleNamespace(document=None, answer=SimpleNamespace(word="one rate"))

    monkeypatch.setattr(tune_rates_benchmark, "tune_rates", fake)
    monkeypatch.setattr(tune_rates_benchmark, "WORKLOADS", ())
    out, record, parts = (tmp_path / name for name in ("page.md", "tune.json", "parts.jsonl"))
    where = ["--out", str(out), "--parts", str(parts)]
    assert tune_rates_benchmark.main([*where, "--record", str(record)]) == 0
    text = out.read_text()
    assert text.count("*one rate suffices* in 40 of 40") == 2
    assert len(judged) == len(set(judged)) == 80
    assert judged[0] == ("formula-0", 0)
    assert judged[40:42] == [("formula-1000", 1000), ("halves-1001", 1000)]
    for again in (where, ["--from", str(record), "--out", str(out)]):
        assert tune_rates_benchmark.main(again) == 0
        assert out.read_text() == text
    assert len(judged) == 80, "judges nothing twice"
    for few in ("7", "1001", "-2", "38"):
        with pytest.raises(SystemExit):
            tune_rates_benchmark.main([*where, "--seeds-from", few])
    assert "write an even number from 40 up" in capsys.readouterr().err

    lines = parts.read_text().replace('"cpu": "', '"cpu": "another, ').splitlines(keepends=True)
    parts.write_text("".join(lines))
    assert tune_rates_benchmark.main(where) == 0
    assert "- machine: another, " in out.read_text(), "a page is of the machine that measured"
    parts.write_text("".join(lines[:20]))
    with pytest.raises(InputError, match="on another machine"):
        tune_rates_benchmark.main(where)
    assert len(judged) == 80


def test_the_scheme_that_is_searched_is_the_workloads_own_where_it_frees_all_but_one():
    assert free_scheme(Planted()).free.keys() == {"head", "tail"}
    assert free_scheme(null(1)).name == "free"


@pytest.mark.slow
def test_the_command_searches_once_says_the_price_and_can_be_read_by_machines(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(WORKLOADS, "planted", lambda: Planted(gain=valley, report_seeds=29))
    monkeypatch.setattr("lrdiff_bench.study.pictures.draw_document", lambda *_: [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["tune", "planted"]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())
    for text in ("56 trainings side by side", "searched: 56 trainings", "the verdict takes about", "HELPS: tuned",
                 "use these rates", "[rates]", "param_groups(model"):  # fmt: skip
        assert text in said
    assert max(map(len, out.partition("[rates]")[0].splitlines())) <= 80
    monkeypatch.setattr("lrdiff_bench.study.tune.command.find_rates", None)  # it is not searched again
    assert main(["tune", "planted", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["answer"]["word"] == "rates by group"
    assert document["verdict"]["name"] == "planted-ratios"
    assert document["found"]["ratios"]["head"] > 10
    assert main(["study", "show", "planted-ratios"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to tune"),
        (["nothing-there"], "no workload and no file"),
        (["seed-adam", "--trainings", "2"], "--trainings is 2"),
        (["seed-adam", "--trainings", "100000"], "write 8 to 1000"),
        (["seed-adam", "--searches", "17"], "searches is 17"),
        (["seed-adam", "--minutes", "3"], "add --until-resolved"),
        (["theirs:model"], "add --data FILE"),
        (["theirs:model", "--data", "wine"], "one group"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_trained(arguments, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "theirs.py").write_text("from torch import nn\ndef model():\n    return nn.Linear(1, 1)\n")
    sys.modules.pop("theirs", None)
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_of_ones_own_with_rows_is_tuned_in_three_parts(tmp_path, monkeypatch, capsys):
    (tmp_path / "deep.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(*[nn.Linear(13, 13) for _ in range(4)], nn.Linear(13, 3))\n"
    )
    sys.modules.pop("deep", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(UserModelWorkload, "at_once", 8)
    assert main(["tune", "deep:make", "--data", "wine", "--trainings", "8", "--no-verdict", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document["found"]["ratios"]) == ["first", "middle", "last"]
    assert document["verdict"] is None
    assert tomllib.loads(document["answer"]["toml"])["rates"].keys() == {f"{i}.*" for i in range(5)}


def test_the_example_of_the_guide_runs(capsys):
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "tune.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    exec(code, {"__name__": "guide"})
    assert "'head'" in capsys.readouterr().out
