"""Pages as they are written, whole; `pytest --snapshot-update` after a wanted change, and read the difference."""

import sys

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.gpu.record import gpu_page
from lrdiff_bench.measure.cases.population_speed import SpeedRow
from lrdiff_bench.measure.cases.population_table import population_page
from lrdiff_bench.measure.cases.step_table import step_page
from lrdiff_bench.measure.cases.training_table import training_page
from lrdiff_bench.parity.page import parity_page
from lrdiff_bench.parity.section import parity_part, training_parity_part
from lrdiff_bench.parity.training_page import training_parity_page
from lrdiff_bench.report.page import as_given, markdown_table, render

HERE = {
    "machine": {"cpu": "a processor", "cpus": 2, "system": "Linux x86_64"},
    "command": "lrdiff parity --out results",
    "commit": "abc123",
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
            "reference": "eager float64 on cpu",
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
PASSED = {"passed": False, "torch": "2.13.0"}
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


MEASURED = {
    "command": "lrdiff bench step --threads 1", "quick": False, "commit": "abc123",
    "machine": {"cpu": "a processor", "cpus": 2, "load": 0.25, "system": "Linux x86_64", "device": "cpu"},
    "versions": {"lrdiff": "0.1.0", "torch": "2.13.0"},
}  # fmt: skip
STEP_ROW = {
    "shapes": "10-5-1 MLP, a rate a layer", "tensors": 4, "parameters": 61, "bytes": 1708, "caches": "hot",
    "against": "torch default", "question": "times faster", "goal": {"text": "at least 10x faster"}, "threads": 1,
    "ours": 0.002, "theirs": 0.01, "ratio": [5.0, 4.5, 5.5], "noise": 0.02, "bandwidth": 0.4, "verdict": "missed",
    "reason": None,
}  # fmt: skip
ABSENT = {"against": "DeepSpeed CPUAdam", "goal": None, "ratio": None, "verdict": "unavailable", "reason": "not here"}
STEP = MEASURED | {
    "forms": "kernel", "bandwidth": {"1": 1e10, "2": 2e10},
    "rows": [STEP_ROW, STEP_ROW | ABSENT, STEP_ROW | {"threads": 2, "bandwidth": None, "verdict": None}],
}  # fmt: skip
BY_PEER = {"default": [2.0, 1.5, 2.5], "fused": [1.5, 1.25, 1.75]}
TIMES = {"ours": 0.001, "default": 0.002, "fused": 0.0015}
TRAINING_STEP = MEASURED | {
    "quick": True,
    "rounds": 3,
    "builds": 10,
    "rows": [{"model": "MLP 10-5-1, 25 rows", "tensors": 4, "parameters": 1234, "threads": 1, "whole": TIMES,
              "share": dict.fromkeys(TIMES, 0.25), "gain": BY_PEER, "faster": BY_PEER}],
}  # fmt: skip
SPEED_ROWS = [
    SpeedRow(optimizer="sgd", name="lrdiff", seconds=0.05, share=0.9, note="kernel path"),
    SpeedRow(optimizer="sgd", name="JAX jit(vmap(scan))", seconds=None, note="not installed"),
    SpeedRow(optimizer="sgd", name="plain PyTorch loop", seconds=90.0, ratio=(1800.0, 1500.0, 2000.0), share=5e-4),
]
POPULATION = MEASURED | {
    "members": 4096,
    "rows": [vars(row) | {"goal": goal, "verdict": goal and "met"}
             for row, goal in zip(SPEED_ROWS, (None, 4.0, 300.0), strict=True)],
    "million": {"members": 1_000_000, "seconds": 12.3, "peak_gib": 3.456, "met": True},
}  # fmt: skip
GPU = MEASURED | {
    "machine": MEASURED["machine"] | {"device": "Some GPU"}, "passed": False, "seconds": 61.2, "missing": ["triton: x"],
    "parts": [
        {"title": "Prediction parity", "seconds": 60.0, "allowed_seconds": 115.0, "reason": None, "rows": [
            {"what": "a", "result": "passed", "value": "1 eps of 8", "note": ""},
            {"what": "b", "result": "measured", "value": "3 GB/s", "note": ""},
            {"what": "c", "result": "unavailable", "value": "", "note": "no ONNX Runtime"}]},
        {"title": "Training parity", "seconds": 1.2, "allowed_seconds": 115.0, "reason": "it crashed", "rows": []},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("page", "document"),
    [
        (step_page, STEP),
        (training_page, TRAINING_STEP),
        (population_page, POPULATION),
        (gpu_page, GPU),
    ],
    ids=["step", "training step", "population", "gpu"],
)
def test_a_page_of_measurements_is_as_it_was(page, document, snapshot):
    assert page(document) == snapshot


@pytest.mark.parametrize("guide", [True, False], ids=["beside the guide", "elsewhere"])
@pytest.mark.parametrize(("page", "document"), [(parity_page, PARITY), (training_parity_page, TRAINING)])
def test_a_page_is_as_it_was(page, document, guide, snapshot):
    assert page({**document, "guide": guide}) == snapshot


@pytest.mark.parametrize(
    ("part", "document"), [(parity_part, PARITY | PASSED), (training_parity_part, TRAINING | PASSED)]
)
def test_the_part_of_a_report_says_the_same(part, document):
    text = part(document, "here").body
    for one in ("torch was built without CUDA", "its classes are in") if part is parity_part else ("theirs", "ours"):
        assert one in text
    assert part(document, "here").finding.startswith("FAILED: ")


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
