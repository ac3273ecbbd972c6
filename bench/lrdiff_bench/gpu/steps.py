"""What an AdamW step costs on an accelerator: BERT-base with layer-wise decay, against torch's fused one and a copy."""

from __future__ import annotations

from lrdiff_bench.gpu.record import NO_TIME, GpuRow, Reporter, Request
from lrdiff_bench.measure.cases.optimizer_step import IMPLEMENTATIONS
from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.compare import TimingComparison, compare_cases
from lrdiff_bench.measure.engine.registry import find_case
from lrdiff_bench.measure.engine.timing import time_case
from lrdiff_core.errors import LrdiffError

__all__ = ["run"]

FASTER = 2.0  # times torch's fused step with groups, where the host is what both wait for
OF_COPY = 0.85  # of the bandwidth of a copy on the device
ROUNDS, QUICK_ROUNDS = 12, 6
# Torch's fused step first: the others are compared with it.
STEPPERS = ("fused", "default", "ours", "ours-triton", "fused-graph", "ours-graph")


def run(request: Request, report: Reporter) -> None:
    """Time every way to step against torch's fused one, pair by pair, and against the device's memory.

    Args:
        request: where it is ``small`` the 10-5-1 network instead of BERT-base.
        report: takes the rows.
    """
    shapes = "mlp" if request.small else "bert_base"

    def case(implementation: str) -> Case:
        return find_case(
            "optimizer_step", shapes=shapes, rates="layers", implementation=implementation, device=request.device
        )

    copied = time_case(
        find_case("memory_copy", device=request.device), samples=10 if request.small else 20, most_seconds=3.0
    )
    bandwidth = copied.bytes_a_second
    report(GpuRow(what="addition in place", result="measured", value=f"{bandwidth / 1e9:.4g} GB/s",
             note="256 MiB to 256 MiB", numbers={"bytes_a_second": bandwidth}))  # fmt: skip
    for name in STEPPERS[1:]:
        what = f"{shapes}, layer decay, {IMPLEMENTATIONS[name].label}"
        reason = IMPLEMENTATIONS[name].unavailable("adamw", request.device)
        if reason is not None or not request.in_time():
            report(GpuRow(what=what, result="unavailable", note=reason or NO_TIME))
            continue
        try:
            compared = compare_cases(case(STEPPERS[0]), case(name), rounds=QUICK_ROUNDS if request.small else ROUNDS)
        except (RuntimeError, LrdiffError) as problem:  # one way's own fault is its row, and the others go on
            note = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
            report(GpuRow(what=what, result="failed", note=note))
            continue
        report(_row(what, name, compared, bandwidth, request))


def _row(what: str, name: str, compared: TimingComparison, bandwidth: float, request: Request) -> GpuRow:
    fused, mine = compared.a.median, compared.b.median
    ratio = 1 / compared.ratio.estimate
    share = compared.b.bytes_a_second / bandwidth
    met = ratio >= FASTER or share >= OF_COPY
    goal = f"goal: {FASTER:g}x torch fused where the host decides, or {OF_COPY:.0%} of memory's bandwidth"
    # Without Triton, ours on a GPU is torch's own step over merged groups.
    triton = IMPLEMENTATIONS["ours-triton"].unavailable("adamw", request.device) is None
    ours = name.startswith("ours-") or (name == "ours" and not triton)
    return GpuRow(
        what=what,
        result=("passed" if met else "failed") if ours and request.device == "cuda" else "measured",
        value=f"{mine * 1e3:.3g} ms, {ratio:.3g} times as fast as torch fused, {share:.0%} of memory's bandwidth",
        note=f"torch fused {fused * 1e3:.3g} ms" + (f"; {goal}" if ours else ""),
        numbers={
            "seconds": mine,
            "torch_fused_seconds": fused,
            "ratio": [ratio, 1 / compared.ratio.high, 1 / compared.ratio.low],
            "share_of_copy": share,
        },
    )
