"""Errors against float64 as cases: tracked over commits beside the speeds."""

from __future__ import annotations

from lrdiff_bench.measure.case import Parity, Workload
from lrdiff_bench.measure.registry import case_family

__all__ = ["training_error"]

STEPS = 10
MODELS = ("main", "convolution", "transformer block", "3-D linear")


def _unavailable(*, model: str, optimizer: str, implementation: str, device: str) -> str | None:
    from lrdiff_export.training_lanes import Lane, why_not

    return why_not(Lane(implementation=implementation, device=device), optimizer)


@case_family(
    version="1",
    parameters={
        "model": MODELS,
        "optimizer": ("adamw", "adam", "sgd"),
        "implementation": ("ours", "ours-no-kernel", "torch-fused", "torch-foreach", "torch"),
        "device": ("cpu", "cuda", "mps"),
    },
    views={
        "models": {"model": MODELS},
        "optimizers": {"optimizer": ("adamw", "sgd"), "implementation": ("ours", "torch-fused")},
        "devices": {"device": ("cuda", "mps"), "implementation": ("ours", "torch-fused")},
    },
    quick={"implementation": ("ours",)},
    metric="parity",
    unavailable=_unavailable,
)
def training_error(model: str, optimizer: str, implementation: str, device: str) -> Workload:
    """Distance of ten training steps from float64, of the median tensor."""
    from lrdiff_export.training_lanes import Lane
    from lrdiff_export.training_parity import check_training_parity
    from lrdiff_export.training_zoo import zoo_job

    job = zoo_job(model, optimizer=optimizer, steps=STEPS)
    lane = Lane(implementation=implementation, device=device)

    def train() -> Parity:
        (result,) = check_training_parity(job, [lane], repeat=False).results
        if result.typical is None or result.typical_allowed is None:
            return Parity(float("nan"), 0.0)
        return Parity(result.typical if result.departure is None else float("inf"), result.typical_allowed)

    return Workload(step=train, device=device, facts={"steps": STEPS, "parameters": job.parameters}, parity=train)
