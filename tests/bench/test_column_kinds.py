"""A messy table through the main job: said on 80 columns, kept in the folder, and read the same way in a prediction."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from rich.console import Console

from lrdiff_bench import run_job
from lrdiff_bench.run.screen import draw_data, draw_preprocessing
from lrdiff_bench.run.use.open_run import held_out, open_run, predict_file, retrace
from lrdiff_bench.system.settings import write_settings
from lrdiff_core import load_config, make_config, population
from lrdiff_core.errors import CheckpointError


def people(rows: int = 60) -> str:
    draw = random.Random(0)
    lines = ["key;pay;team;joined;note;age;left"]
    for row in range(rows):
        note = " ".join(draw.choice(["lorem", "ipsum", "dolor"]) for _ in range(12))
        pay = f"{draw.randint(1, 9)}.{draw.randint(100, 999)},50 €"
        day = f"{draw.randint(13, 28)}.{draw.randint(1, 12)}.2021 {draw.randint(0, 23)}:30"
        age = "?" if row % 7 == 0 else str(draw.randint(20, 60))
        lines.append(
            f"k{row};{pay};{draw.choice(['Nord', 'Süd'])};{day};{note} {row};{age};{draw.choice(['no', 'yes'])}"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text(people(), encoding="utf-8")
    config = make_config({"data": "people.csv", "target": "left", "epochs": 2, "id": ["key"]})
    return run_job(config, out=tmp_path / "run", stages=()).folder


def test_a_messy_table(folder: Path) -> None:
    summary = retrace(folder)
    screen = io.StringIO()
    console = Console(file=screen, width=80, highlight=False)
    draw_data(console, summary["data"])
    draw_preprocessing(console, summary["preprocessing"])
    said = " ".join(screen.getvalue().split())
    assert max(map(len, screen.getvalue().splitlines())) <= 80
    for words in (
        'number: pay (decimal comma, €: "', "category: team (2 texts)", "date: joined (%d.%m.%Y, with the time of day)",
        "left out: key (as you said)", "column note is not used", "60 x 5 to 60 x 12", "was not met in training",
        "where a value is missing: age",
    ):  # fmt: skip
        assert words in said
    assert [step["name"] for step in summary["prediction"]["trace"]][:3] == ["input", "encoded", "standardized"]

    net, _, config = open_run(folder)
    assert (config.categorical, config.id, config.drop, config.date) == (
        ("team",), ("key",), ("note",), ("joined=%d.%m.%Y",)
    )  # fmt: skip
    task = population.population_task(config)
    assert task.rows(1).inputs.shape[1] == net.standardize.mean.numel() == 12

    answers = predict_file(folder, "people.csv")
    assert answers.columns == ["key", "left", "p(no)", "p(yes)"]
    # One row, in another order, with a team that nobody knows; by itself "6.2.2021" could be any month.
    lines = people().splitlines()
    Path("one.csv").write_text("\n".join([lines[0], lines[5]]) + "\n", encoding="utf-8")
    assert predict_file(folder, "one.csv").row(0) == pytest.approx(answers.row(4), abs=1e-6)
    Path("new.csv").write_text("joined,team,pay,age\n6.2.2021,West,12,\n6.2.2021,,12,\n", encoding="utf-8")
    new = predict_file(folder, "new.csv")
    assert new.columns == ["left", "p(no)", "p(yes)"]
    assert new.row(0) == new.row(1)

    rows, _ = held_out(net, config)
    assert rows.shape[1] == 5
    Path("people.csv").write_text(people().replace("Süd", "Ost"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="no longer has the columns"):
        held_out(net, config)


def test_init_writes_what_it_recognises(folder: Path) -> None:
    write_settings(Path("mine.toml"), {"data": "people.csv", "target": "left"}, overwrite=False)
    written = load_config("mine.toml")
    assert (written["categorical"], written["date"], written["drop"]) == (["team"], ["joined=%d.%m.%Y"], ["note"])
    assert '#   "team": 2 texts' in Path("mine.toml").read_text(encoding="utf-8")
    make_config(written)
