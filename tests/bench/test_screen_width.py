"""No number on the screen is ever cut off, however narrow the terminal is."""

import io
from dataclasses import asdict

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from lrdiff_bench.report.parity_table import draw_parity
from lrdiff_bench.report.tables import label, plain_table
from lrdiff_bench.run.comparison_screen import draw_comparison
from lrdiff_bench.run.screen import draw_step_cost
from lrdiff_bench.stats.gain import judge_gain

SCHEMES = [
    {
        "name": name,
        "rates_text": rates,
        "trials": 7,
        "searches": 6,
        "other_rates": {"0.01": 2} if name == "tuned single" else {},
        "train_loss": [[0.256, 0.2, 0.3]],
        "test_loss": [[0.287, 0.26, 0.32]] * 12,
        "final": [0.294, 0.26, 0.32],
        "score": 0.887,
        "diverged": 0.015,
    }
    for name, rates in (
        ("as configured", "0.01 / 0.001"),
        ("single 0.001", "0.001"),
        ("single 0.01", "0.01"),
        ("tuned single", "0.03"),
        ("tuned ratios", "0.03 / 0.003"),
    )
]
GAIN = asdict(judge_gain(np.zeros((8, 20)), np.linspace(-1, 1, 20) * np.ones((8, 1)), smallest=0.01))
COMPARISON = {
    "schemes": SCHEMES,
    "plan": {"report_seeds": 200, "searches": 8},
    "sweep": [0.01] * 7,
    "smallest_difference": 0.01,
    "gains": {"as configured": GAIN, "tuned ratios": GAIN},
    "void": "",
}
PARITY = {
    "results": [
        {"backend": "eager", "status": "agrees", "dtype": "float32", "max_error": 1.05, "tolerance": 10.2,
         "decisions_flipped": 0, "flips_unexplained": 0, "bitwise_repeatable": True, "batch_invariant": False,
         "single_row_error": 0.279,
         "denormals": "kept", "reason": None, "arithmetic": "float32", "fault": None},
        {"backend": "cuda", "status": "unavailable", "dtype": "float32", "max_error": None, "tolerance": None,
         "decisions_flipped": None, "flips_unexplained": None, "bitwise_repeatable": None, "batch_invariant": None,
         "single_row_error": None, "denormals": None,
         "reason": "torch 2.13.0+cpu was built without CUDA", "arithmetic": None, "fault": None},
    ],
    "reference": "eager float64 on cpu",
    "rows": 150,
}  # fmt: skip
STEP_COST = {
    "rows": [{"name": "one rate", "groups": 1, "median": 5.95e-6, "low": 5.87e-6, "high": 6.14e-6, "samples": 80}],
    "question": "2 rates against one",
    "ratio": 1.039,
    "interval": [1.03, 1.046],
    "verdict": "slower",
    "threads": 1,
}


def drawn(draw, section, width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    draw(console, section)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [34, 40, 60, 72, 80, 120])
@pytest.mark.parametrize(
    ("draw", "section"),
    [(draw_comparison, COMPARISON), (draw_parity, PARITY), (draw_step_cost, STEP_COST)],
    ids=["comparison", "parity", "step cost"],
)
def test_every_word_of_the_wide_screen_stands_whole_on_the_narrow_one(draw, section, width):
    lines = drawn(draw, section, width)
    assert max(map(cell_len, lines)) <= width
    wide = {word for line in drawn(draw, section, 200) for word in line.split()}
    assert wide <= {word for line in lines for word in line.split()}


def test_a_table_that_fits_is_one_table():
    table = plain_table("name", "first", "second")
    table.add_row("a", "1", "2")
    assert drawn(lambda console, t: console.print(t), table, 60) == ["   name  first  second", "   a         1       2"]


def test_columns_left_over_follow_beside_the_first_one_without_the_rows_that_say_nothing():
    table = plain_table("name", "first", "second")
    table.add_row("a", "1", "2")
    table.add_row("b", "3", "")
    assert drawn(lambda console, t: console.print(t), table, 16) == [
        "   name  first", "   a         1", "   b         3", "", "   name  second", "   a          2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("yes", "yes"),
        ("yes, sir", '"yes, sir"'),
        ("no\nway", '"no\\nway"'),
        ("", '""'),
        (" a", '" a"'),
        ("x" * 50, f'"{"x" * 37}..."'),
        (-2.3010001182556152, "-2.301"),
    ],
)
def test_a_label_stays_on_its_line(value, shown):
    assert label(value) == shown
