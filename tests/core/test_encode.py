"""Categories, dates and gaps inside the model: what the first layer gets, and that nothing leaks from other rows."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lrdiff_core import ColumnSpec, ModelSpec, build_model, constant_columns, load_checkpoint, save_checkpoint
from lrdiff_core.data.encode import Encode

COLUMNS = (
    ColumnSpec(name="age", flags_missing=True),
    ColumnSpec(name="city", kind="category", categories=("Oslo", "Rome", "Ōsaka"), rule="3 texts"),
    ColumnSpec(name="joined", kind="date", format="%d/%m/%Y"),
    ColumnSpec(name="joined time", kind="time", source="joined"),
    ColumnSpec(name="member", kind="boolean"),
)
SPEC = ModelSpec(
    features=5, hidden=(4,), outputs=1, task="binary", feature_names=tuple(c.name for c in COLUMNS),
    classes=("no", "yes"), target_name="y", fills_missing=True, columns=COLUMNS, ids=("key",),
)  # fmt: skip


def row(**values: float) -> dict[str, float]:
    """What the first layer gets for one row, by name."""
    raw = torch.tensor([[values.get(column.name.replace(" ", "_"), 0.0) for column in COLUMNS]])
    return dict(zip(SPEC.encoded_names, Encode(COLUMNS)(raw)[0].tolist(), strict=True))


def test_a_category_is_one_column_of_its_own_and_code_zero_is_none() -> None:
    for code in range(4):
        got = row(city=float(code))
        assert [got[f"city = {name}"] for name in COLUMNS[1].categories] == [float(code == k) for k in (1, 2, 3)]
    for nothing in (0.0, 4.0, -1.0, 1.5, math.nan, math.inf):
        assert sum(row(city=nothing)[f"city = {name}"] for name in COLUMNS[1].categories) == 0


def test_a_day_has_its_place_in_week_and_year_and_a_second_in_the_day() -> None:
    def day(text: str) -> float:
        return float((dt.date.fromisoformat(text) - dt.date(1970, 1, 1)).days)

    monday, next_monday = row(joined=day("2024-03-04")), row(joined=day("2031-03-03"))
    for part in ("sin", "cos"):
        assert monday[f"joined weekday {part}"] == pytest.approx(next_monday[f"joined weekday {part}"], abs=1e-6)
        assert monday[f"joined year {part}"] == pytest.approx(next_monday[f"joined year {part}"], abs=0.05)
    assert monday["joined"] == day("2024-03-04")
    assert row(joined=day("1958-02-11"))["joined"] == day("1958-02-11")  # before 1970
    night, morning = row(joined_time=86399.0), row(joined_time=0.0)
    assert night["joined time day cos"] == pytest.approx(morning["joined time day cos"], abs=1e-6)
    assert row(joined_time=21600.0)["joined time day sin"] == pytest.approx(1.0)


def test_a_gap_is_flagged_and_filled() -> None:
    assert [row(age=value)["age missing"] for value in (3.0, math.nan, math.inf)] == [0.0, 1.0, 1.0]
    net = build_model(SPEC, seed=0)
    raw = np.array([[1, 1, 0, 0, 0], [3, 1, 700, 60, 1], [np.nan, 3, 9, 5, 1]], np.float32)
    net.standardize.fit(Encode(COLUMNS)(torch.from_numpy(raw)).numpy(), fill="median")
    got = dict(zip(SPEC.encoded_names, net.preprocess(torch.from_numpy(raw))[2].tolist(), strict=True))
    assert (got["age"], got["age missing"], got["city = Ōsaka"]) == (0.0, 1.0, 1.0)
    # Rome is in none of the training rows: with it a row is like one whose category is missing
    with_rome, without = raw.copy(), raw.copy()
    with_rome[:, 1], without[:, 1] = 2, 0
    assert torch.equal(net(torch.from_numpy(with_rome)), net(torch.from_numpy(without)))
    assert not torch.equal(net(torch.from_numpy(with_rome)), net(torch.from_numpy(raw)))
    assert constant_columns(net) == ()


def test_a_checkpoint_keeps_the_kinds(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", build_model(SPEC, seed=0))
    net, _ = load_checkpoint(tmp_path / "m.safetensors")
    assert (net.spec, net.spec.columns[1].rule) == (SPEC, "3 texts")
    assert [step.name for step in net.trace(torch.zeros(5))][:3] == ["input", "encoded", "standardized"]


def test_a_spec_without_kinds_is_what_it_was() -> None:
    old = {
        "features": 1, "hidden": [2], "outputs": 1, "task": "regression", "feature_names": ["x"], "classes": [],
        "target_name": "y", "fills_missing": False,
    }  # fmt: skip
    spec = ModelSpec.from_dict(old)
    assert (spec.columns, spec.encoded_names) == ((), ("x",))
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in spec.to_dict().items()} == old
