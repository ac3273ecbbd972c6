"""Studies held against the same ones on other seeds: what comes again, what does not, and what cannot be held."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from statistics import NormalDist

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.study.again import again
from lrdiff_bench.study.records import keep_records, read_records
from lrdiff_core.errors import ConfigError

RESULTS = Path(__file__).parents[2] / "docs" / "results"
NAME = "seed-adam-from-10000000"


@pytest.fixture
def first() -> dict:
    return {"seed-adam": read_records(RESULTS / "studies")["seed-adam"]}


@pytest.fixture
def repeated() -> dict:
    return copy.deepcopy(read_records(RESULTS / "replications")[NAME])


def test_every_median_and_gain_of_a_study_is_held_against_the_first(first, repeated) -> None:
    found = again([repeated], first)
    medians, gains = len(repeated["columns"]), len(repeated["schemes"]) - 1  # the single rate gains nothing over itself
    assert (found.numbers, found.verdicts) == (medians + gains, gains) == (8, 3)
    assert found.inside == sum(row[-1] == "yes" for row in found.rows) > found.numbers // 2
    assert found.same == found.verdicts


def test_a_number_beside_the_first_interval_one_apart_from_it_and_another_verdict_are_counted(first, repeated) -> None:
    before = again([repeated], first)
    gain = repeated["schemes"][1]["gain"]
    own = first["seed-adam"]["schemes"][1]["gain"]
    gain.update(estimate=own["high"] * 1.01 + 1e-6, low=own["low"], high=1.0, verdict="HELPS")
    beside = again([repeated], first)
    assert (beside.inside, beside.overlapping) == (before.inside - 1, before.overlapping)
    assert beside.same == before.same - 1
    gain.update(low=own["high"] + 1e-6)
    assert again([repeated], first).overlapping == before.overlapping - 1
    (row,) = [row for row in beside.rows if row[1] == f"gain, {repeated['schemes'][1]['name']}"]
    assert row[-1] == "no"
    assert ["HELPS" in text for text in row[2:4]] == [False, True]


def test_medians_that_are_not_finite_are_no_numbers_to_compare(first, repeated) -> None:
    repeated["columns"][0]["median"] = [None, 0.5, None]
    assert again([repeated], first).numbers == 7


def test_the_first_is_the_study_on_its_own_seeds_where_there_are_several(first, repeated) -> None:
    other = copy.deepcopy(repeated)
    other["plan"]["seeds_from"] = 5
    other["columns"][0]["median"] = [9.0, 9.0, 9.0]
    assert again([repeated], {"a": other, **first}) == again([repeated], first)


@pytest.mark.parametrize("change", ["itself", "workload", "steps", "mode"])
def test_what_is_not_the_same_study_on_other_seeds_is_refused(change, first, repeated) -> None:
    if change == "itself":
        repeated = first["seed-adam"]
    elif change == "mode":
        repeated["mode"] = "quick"
    else:
        repeated["workload"][{"workload": "name", "steps": "steps"}[change]] = "other"
    with pytest.raises(ConfigError, match=r"no record of the same study on other seeds"):
        again([repeated], first)


def test_a_study_that_is_described_in_other_words_is_the_same(first, repeated) -> None:
    repeated["workload"].update(title="other words", question="?")
    assert again([repeated], first).numbers == 8


def test_a_study_from_its_storage_is_held_against_a_record_of_fewer_digits(first, repeated) -> None:
    first["seed-adam"]["workload"]["schemes"][1]["ratios"]["output"] = 0.3846154
    repeated["workload"]["schemes"][1]["ratios"]["output"] = 1 / 2.6
    repeated["workload"]["groups"] = tuple(repeated["workload"]["groups"])
    assert again([repeated], first).numbers == 8


def test_the_shares_that_the_page_tells_are_those_of_two_normal_estimates() -> None:
    """The distance of two estimates of one spread has sqrt(2) times it."""
    half = NormalDist().inv_cdf(0.975)
    inside, overlap = (2 * NormalDist().cdf(reach / math.sqrt(2)) - 1 for reach in (half, 2 * half))
    assert (round(100 * inside), round(100 * overlap)) == (83, 99)


def test_a_page_tells_what_came_again_and_refuses_what_cannot_be_held(tmp_path, first, repeated, capsys) -> None:
    keep_records([first["seed-adam"]], tmp_path / "first")
    keep_records([repeated], tmp_path / "again")
    page = tmp_path / "page.md"
    export = ["study", "export", "--records", str(tmp_path / "again"), "--no-pictures", "--out", str(page)]
    assert main([*export, "--against", str(tmp_path / "first")]) == 0
    text = page.read_text(encoding="utf-8")
    assert "## On other seeds" in text
    assert text.count(f"| {NAME} | ") == 8
    assert main(export) == 0
    assert "## On other seeds" not in page.read_text(encoding="utf-8")
    capsys.readouterr()
    assert main([*export, "--against", str(tmp_path / "nothing")]) == 2
    assert "no record of the same study on other seeds" in capsys.readouterr().err
