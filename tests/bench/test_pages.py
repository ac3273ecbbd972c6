"""Pages as they are written, whole; `pytest --snapshot-update` after a wanted change, and read the difference."""

import sys

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.parity.page import parity_page
from lrdiff_bench.parity.training_page import training_parity_page
from lrdiff_bench.report.page import as_given, markdown_table, render

HERE = {
    "machine": {"cpu": "a processor", "cpus": 2, "system": "Linux x86_64"},
    "lrdiff": "0.1.0",
    "python": "3.12.0",
}


def result(backend, **more):
    return {
        "backend": backend, "status": "agrees", "dtype": "float32", "max_error": 1.05, "tolerance": 10.2,
        "decisions_flipped": 0, "flips_unexplained": 0, "bitwise_repeatable": True, "batch_invariant": True,
        "single_row_error": None, "where": None,
        "denormals": "kept", "reason": None, "arithmetic": "float32", "facts": {"threads": 1, "fused": True}, **more,
    }  # fmt: skip


GONE = {
    "status": "unavailable", "max_error": None, "tolerance": None, "bitwise_repeatable": None, "arithmetic": None,
    "facts": {},
}  # fmt: skip
PARITY = HERE | {
    "models": {
        "main": {
            "rows": 150,
            "results": [
                result("eager", batch_invariant=False, single_row_error=0.279),
                result("wrong", status="differs", max_error=4.6e4, reason="its classes are in the order 2, 1, 0",
                       decisions_flipped=3, flips_unexplained=3),
                result("never", status="refused", max_error=None, tolerance=None, reason="it ran on the CPU"),
                result("cuda", **GONE, reason="torch was built without CUDA"),
            ],
        }
    },
    "layers": {"main": []},
}  # fmt: skip
LANE = {
    "implementation": "ours", "device": "cpu", "arithmetic": "float32", "status": "agrees", "reason": None,
    "remarks": [], "error": 2.82, "allowed": 38.4, "one_step": {"unseen": None, "covers": 1.2e-4},
    "repeats": {"equal": True}, "bits": [{"other": "torch-fused", "equal": False, "step": 4}],
}  # fmt: skip
TRAINING = HERE | {
    "reports": [
        {
            "job": "seed", "optimizer": "adam", "rates": "0.01, 0.001", "steps": 280, "parameters": 61,
            "reference": "torch's plain loop in float64 on the CPU", "flags": {"torch": "2.13.0", "threads": 1},
            "remarks": ["dropout is switched off: devices draw different numbers"],
            "results": [LANE, LANE | {"implementation": "theirs", "status": "differs", "reason": "step 1: one rate"}],
            "budgets": [{"arithmetic": "float32", "allowed": [96.6, 307.0], "judged": 280, "sharpness": 2.4e-5,
                         "blunt_from": None, "blind": []}],
        }
    ]
}  # fmt: skip


@pytest.mark.parametrize("guide", [True, False], ids=["beside the guide", "elsewhere"])
@pytest.mark.parametrize(("page", "document"), [(parity_page, PARITY), (training_parity_page, TRAINING)])
def test_a_page_is_as_it_was(page, document, guide, snapshot):
    assert page({**document, "guide": guide}, "lrdiff parity --out results") == snapshot


def test_a_page_says_by_which_command_it_was_written(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/lrdiff", "parity", "--backends", "eager", "--out", "my results"])
    assert as_given() == "lrdiff parity --backends eager --out 'my results'"
    asked = []
    monkeypatch.setattr("lrdiff_bench.doctor.diagnose", lambda: asked.append(as_given()) or {"entries": []})
    assert main(["doctor", "--json"]) == 0
    assert asked == ["lrdiff doctor --json"]
    assert sys.argv[1] == "parity"


def test_a_template_that_misses_a_value_and_a_cell_with_a_bar_are_no_silent_faults():
    with pytest.raises(Exception, match="'guide' is undefined"):
        render("parity.md", made_by="")
    assert markdown_table(["a"], [["x|y"]]).endswith("| x\\|y |")
