"""Predictions of the built-in models on every quick backend: how long, and how far from float64."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from lrdiff_bench.measure.cases.shipping import prepared
from lrdiff_bench.measure.engine.case import Parity, Workload
from lrdiff_bench.measure.engine.registry import case_family

if TYPE_CHECKING:
    from lrdiff_export import Subject

__all__ = ["prediction"]

QUICK = ("onnxruntime", "eager", "eager-bf16", "onnxruntime-disabled", "onnx-reference", "openvino")
HEAVY = ("compiled", "aotinductor", "onnxruntime-web", "onnxruntime-node", "chromium", "cuda", "cuda-tf32", "mps")


def _no_backend(*, backend: str, model: str) -> str | None:
    import lrdiff_export

    if not hasattr(lrdiff_export, "subject_of_module") or backend not in lrdiff_export.BACKENDS:
        return f"this commit has no backend {backend} to compare"
    return lrdiff_export.BACKENDS[backend].availability()


@cache
def _subject(model: str) -> Subject:
    from lrdiff_bench.parity.sources import BUILTIN

    return BUILTIN[model]()


@case_family(
    version="1",
    parameters={"backend": QUICK + HEAVY, "model": ("main", "convolution", "transformer", "digits")},
    views={"": {"backend": QUICK, "model": ("main", "convolution", "transformer", "digits")}},
    quick={"backend": ("onnxruntime", "eager")},
    unavailable=_no_backend,
)
def prediction(backend: str, model: str) -> Workload:
    """Prediction of all held-out rows of a built-in model, from NumPy to NumPy, one thread."""
    from lrdiff_export import BACKENDS

    subject, place = _subject(model), BACKENDS[backend]
    assert subject.module is not None
    predict = prepared(place, subject.module, subject.get_onnx() if place.needs_onnx else None)

    def parity() -> Parity:
        outputs = predict(*subject.rows)
        dtype = place.dtype or str(place.facts()["arithmetic"])
        worst = max(subject.judge.judge(outputs, dtype), key=lambda verdict: verdict.severity)
        return Parity(worst.error, worst.allowed)

    return Workload(
        step=lambda: predict(*subject.rows), device=place.device, facts={"rows": len(subject.rows[0])}, parity=parity
    )
