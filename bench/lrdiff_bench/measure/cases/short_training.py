"""Short trainings of small models by each implementation of an optimizer: how long, and how far from float64."""

from __future__ import annotations

from lrdiff_bench.measure.engine.case import Parity, Workload
from lrdiff_bench.measure.engine.registry import case_family

__all__ = ["short_training"]

STEPS = 10
MODELS = ("main", "convolution", "transformer block", "3-D linear")


def _unavailable(*, model: str, optimizer: str, implementation: str, device: str) -> str | None:
    try:
        from lrdiff_export.training import Lane, why_not
    except ImportError:
        return "this commit has no training parity"
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
    unavailable=_unavailable,
)
def short_training(model: str, optimizer: str, implementation: str, device: str) -> Workload:
    """Ten training steps of a small model from its initial weights, the optimizer built anew."""
    from lrdiff_export.training import ARITHMETICS, IMPLEMENTATIONS, Lane, check_training_parity, zoo_job

    job = zoo_job(model, optimizer=optimizer, steps=STEPS)
    lane = Lane(implementation=implementation, device=device)
    arithmetic = ARITHMETICS[lane.arithmetic]

    def train() -> None:
        placed = job.place(device, arithmetic.dtype)
        step = IMPLEMENTATIONS[implementation].start(placed, arithmetic).step
        for number in range(STEPS):
            step(*placed.batch(number))

    def parity() -> Parity:
        # Of the median tensor: one that only rounding moves would hide all others.
        (result,) = check_training_parity(job, [lane], repeat=False).results
        if result.typical is None or result.typical_allowed is None:
            return Parity(float("nan"), 0.0)
        return Parity(result.typical if result.departure is None else float("inf"), result.typical_allowed)

    return Workload(step=train, device=device, facts={"steps": STEPS, "parameters": job.parameters}, parity=parity)
