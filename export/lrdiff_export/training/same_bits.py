"""Whether two lanes gave the same weights and losses, bit for bit, and where they have to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lrdiff_export.training.arithmetic import ARITHMETICS
from lrdiff_export.training.job import PROBE, TrainingJob
from lrdiff_export.training.lanes import Lane
from lrdiff_export.training.reference import LOSS
from lrdiff_export.training.report import LaneResult, SameBits
from lrdiff_export.verify.backend_result import AGREES, DIFFERS

__all__ = ["Bits", "compare_bits", "with_bits"]

Bits = list[tuple[bytes, ...]]  # a digest of each tensor, after each step


def _expected(job: TrainingJob, lane: Lane) -> bool:
    """Whether our optimizer has to give torch's fused bits: where it runs torch's fused kernels."""
    if lane.device != "cpu" or job.optimizer == "muon":
        return False
    if lane.arithmetic == "bfloat16" and job.optimizer == "sgd":
        return False  # torch's fused SGD is wrong there, and ours does not use it
    in_float32 = ARITHMETICS[lane.arithmetic].dtype is torch.float32  # there ours has a kernel of its own
    return lane.implementation == "ours-no-kernel" or (lane.implementation == "ours" and not in_float32)


def with_bits(job: TrainingJob, lane: Lane, result: LaneResult, bits: Mapping[Lane, Bits]) -> LaneResult:
    """Compare with torch's implementations in the same arithmetic on the same device, where both ran."""
    if lane not in bits or lane.implementation.startswith("torch"):
        return result
    names = (*_names(job), PROBE, LOSS)
    others = [replace(lane, implementation=name) for name in ("torch-fused", "torch-foreach", "torch")]
    told = tuple(
        compare_bits(
            names, bits[lane], bits[other], other=other.implementation,
            expected=other.implementation == "torch-fused" and _expected(job, lane),
        )
        for other in others if other in bits
    )  # fmt: skip
    broken = next((one for one in told if one.expected and not one.equal), None)
    if broken is not None and result.status == AGREES:
        why = f"bits differ from those of {broken.other} from step {broken.step}, {broken.parameter}: "
        result = replace(result, status=DIFFERS, reason=why + "the same kernels have to give the same bits")
    return replace(result, bits=told)


def _names(job: TrainingJob) -> list[str]:
    return [name for name, weight in job.module.named_parameters() if weight.requires_grad]


def compare_bits(names: Sequence[str], mine: Bits, theirs: Bits, *, other: str | None, expected: bool) -> SameBits:
    """Compare two trainings bit by bit; where they differ, name the first step and parameter."""
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        for name, x, y in zip(names, a, b, strict=True):
            if x != y:
                return SameBits(other=other, expected=expected, equal=False, step=step, parameter=name)
    return SameBits(other=other, expected=expected, equal=True)
