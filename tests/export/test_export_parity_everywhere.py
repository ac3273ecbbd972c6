"""Every backend that PyPI, npm and Debian packages give on a CPU agrees on the four models that are built in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from lrdiff_bench.parity.sources import BUILTIN
from lrdiff_export import BACKENDS, ParityReport, check_subjects
from lrdiff_export.runtimes.javascript.install import PACKAGES

# Four packages of AOTInductor take 44 s of processor time, more than all the others together.
HERE = [name for name, backend in BACKENDS.items() if backend.device == "cpu"]
LEAST = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reports(javascript: Path) -> Mapping[str, ParityReport]:
    return check_subjects({name: make() for name, make in BUILTIN.items()}, backends=HERE)


def test_the_models_are_the_main_one_a_convolution_a_transformer_and_digits() -> None:
    assert list(BUILTIN) == ["main", "convolution", "transformer", "digits"]


@pytest.mark.parametrize("model", BUILTIN)
def test_at_least_eight_backends_agree_and_none_differs(reports: Mapping[str, ParityReport], model: str) -> None:
    report = reports[model]
    wrong = {one.backend: one.reason for one in report.results if one.status in ("differs", "refused")}
    assert wrong == {}
    agree = [one for one in report.results if one.status == "agrees" and one.dtype == "float32"]
    assert len(agree) >= LEAST, {one.backend: one.reason for one in report.results if one.status == "unavailable"}
    assert report.passed
    for one in agree:
        assert one.arithmetic == "float32"
        assert one.max_error is not None
        assert one.max_error <= (one.tolerance or 0)
        assert one.flips_unexplained in (0, None)
        assert one.denormals == "kept"
        assert one.bitwise_repeatable
        assert one.facts["ran_on"] == "cpu"


@pytest.mark.parametrize("name", ["onnxruntime-web", "onnxruntime-node", "chromium"])
def test_javascript_ran_in_what_it_says(reports: Mapping[str, ParityReport], name: str) -> None:
    result = next(one for one in reports["main"].results if one.backend == name)
    if result.status == "unavailable":
        pytest.skip(str(result.reason))
    package = "onnxruntime-node" if name == "onnxruntime-node" else "onnxruntime-web"
    assert result.facts["runtime"] == f"{package} {PACKAGES[package]}"
    assert str(result.facts["in"]).startswith("Chromium 1" if name == "chromium" else "node ")


def test_lower_precision_is_named_and_judged_by_its_own_budget(reports: Mapping[str, ParityReport]) -> None:
    for report in reports.values():
        eager = next(one for one in report.results if one.backend == "eager-bf16")
        assert (eager.status, eager.dtype, eager.arithmetic) == ("agrees", "bfloat16", "bfloat16")
        chosen = next(one for one in report.results if one.backend == "openvino-default")
        if chosen.status == "unavailable":
            pytest.skip(str(chosen.reason))
        # bfloat16 where the CPU multiplies it, float32 elsewhere: either way what it says is what the error shows.
        assert (chosen.status, chosen.arithmetic) == ("agrees", chosen.dtype)
        assert chosen.dtype in ("float32", "bfloat16")
