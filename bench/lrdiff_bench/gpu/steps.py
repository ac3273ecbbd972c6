"""What an AdamW step costs on an accelerator: BERT-base with layer-wise decay, against torch's fused one and a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from lrdiff_bench.gpu.record import NO_TIME, Request, Row, Tell
from lrdiff_bench.measure.cases import step_peers
from lrdiff_bench.measure.engine import timing
from lrdiff_core.errors import LrdiffError
from lrdiff_core.optim import AdamW
from lrdiff_export.model.capture import capture
from lrdiff_export.training.implementations import triton_switched_on

__all__ = ["Stepper", "run", "steppers"]

FASTER = 2.0  # times torch's fused step with groups, where the host is what both wait for
OF_COPY = 0.85  # of the bandwidth of a copy on the device
ROUNDS, QUICK_ROUNDS = 12, 6
BYTES_COPY = 8  # reads one, writes one
COPIED, QUICK_COPIED = 2**27, 2**18  # numbers: half a GiB


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """One way to make the step.

    Attributes:
        name: of the row.
        make: builds it.
        unavailable: why not here, or None.
        ours: whether the goals are for it.
    """

    name: str
    make: Callable[[], timing.Workload]
    unavailable: str | None = None
    ours: bool = False


def run(request: Request, tell: Tell) -> None:
    """Time every way to step against torch's fused one, pair by pair, and against a copy.

    Args:
        request: where it is ``small`` the 10-5-1 network instead of BERT-base.
        tell: takes the rows.
    """
    case = step_peers.mlp() if request.small else step_peers.bert_base()
    rounds = QUICK_ROUNDS if request.small else ROUNDS
    found = steppers(case, request.device)
    base = _case(found[0])
    copied = timing.time_case(
        _case(_copy(request)), samples=10 if request.small else 20, most_seconds=3.0
    )  # fmt: skip
    numbers = QUICK_COPIED if request.small else COPIED
    bandwidth = numbers * BYTES_COPY / copied.median
    tell(Row(what="copy on the device", result="told", value=f"{bandwidth / 1e9:.4g} GB/s",
             note=f"{numbers * 4 / 2**20:g} MiB to elsewhere", numbers={"bytes_a_second": bandwidth}))  # fmt: skip
    for stepper in found[1:]:
        what = f"{case.name}, {len(case.groups)} groups, {stepper.name}"
        if stepper.unavailable is not None:
            tell(Row(what=what, result="missing", note=stepper.unavailable))
            continue
        if not request.in_time():
            tell(Row(what=what, result="missing", note=NO_TIME))
            continue
        try:
            compared = timing.compare_cases(base, _case(stepper), rounds=rounds)
        except (RuntimeError, LrdiffError) as problem:  # one way's own fault is its row, and the others go on
            tell(Row(what=what, result="failed", note=f"{type(problem).__name__}: {problem}".splitlines()[0][:200]))
            continue
        tell(_row(what, stepper, compared, case.parameters, bandwidth, judged=request.device == "cuda"))


def _row(
    what: str, stepper: Stepper, compared: timing.Comparison, parameters: int, bandwidth: float, *, judged: bool
) -> Row:
    fused, mine = compared.a.median, compared.b.median
    ratio = 1 / compared.ratio.estimate
    share = parameters * step_peers.BYTES_STEP / mine / bandwidth
    met = ratio >= FASTER or share >= OF_COPY
    goal = f"goal: {FASTER:g}x torch fused where the host decides, or {OF_COPY:.0%} of a copy's bandwidth"
    return Row(
        what=what,
        result=("held" if met else "failed") if stepper.ours and judged else "told",
        value=f"{mine * 1e3:.3g} ms, {ratio:.3g} times as fast as torch fused, {share:.0%} of the copy's bandwidth",
        note=f"torch fused {fused * 1e3:.3g} ms" + (f"; {goal}" if stepper.ours else ""),
        numbers={
            "seconds": mine,
            "torch_fused_seconds": fused,
            "ratio": [ratio, 1 / compared.ratio.high, 1 / compared.ratio.low],
            "share_of_copy": share,
        },
    )


def steppers(case: step_peers.Case, device: str) -> list[Stepper]:
    """Return the ways to step, torch's fused one first.

    Args:
        case: shapes and groups.
        device: where to.
    """
    cuda = None if device == "cuda" else "needs cuda"
    triton = cuda or (None if find_spec("triton") is not None else "triton is not installed")

    def eager(kind: Any, **options: Any) -> Callable[[], timing.Workload]:
        return lambda: _eager(case, device, lambda groups: kind(groups, **options))

    def graph(kind: Any, **options: Any) -> Callable[[], timing.Workload]:
        return lambda: _captured(case, lambda groups: kind(groups, capturable=True, **options))

    torchs = torch.optim.AdamW
    return [
        Stepper(name="torch fused", make=eager(torchs, fused=True)),
        Stepper(name="torch default", make=eager(torchs)),
        Stepper(name="ours", make=eager(AdamW), ours=triton is not None),
        Stepper(name="ours, Triton", make=_with_triton(eager(AdamW)), unavailable=triton, ours=True),
        Stepper(name="torch fused, in a graph", make=graph(torchs, fused=True), unavailable=cuda),
        Stepper(name="ours, in a graph", make=graph(AdamW), unavailable=cuda, ours=True),
    ]


def _case(stepper: Stepper) -> timing.Case:
    return timing.Case(name=stepper.name, version="1", factory=stepper.make)


def _copy(request: Request) -> Stepper:
    def make() -> timing.Workload:
        count = QUICK_COPIED if request.small else COPIED
        source, target = (torch.zeros(count, device=request.device) for _ in range(2))
        return timing.Workload(step=lambda: target.copy_(source), device=request.device)

    return Stepper(name="copy", make=make)


def _optimizer(case: step_peers.Case, device: str, kind: Callable[[list[dict[str, Any]]], Any]) -> tuple[Any, Any]:
    """The optimizer, and a function that puts weights and state back."""
    made = {name: torch.nn.Parameter(value.detach().to(device)) for name, value in case.tensors().items()}
    for param in made.values():
        param.grad = torch.full_like(param, 1e-3)
    optimizer = kind([
        {"params": [made[name] for name in names], "lr": rate, "weight_decay": decay}
        for rate, decay, names in case.groups
    ])  # fmt: skip
    first = {name: param.detach().clone() for name, param in made.items()}

    @torch.no_grad()
    def reset() -> None:
        for name, param in made.items():
            param.copy_(first[name])
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()

    return optimizer, reset


def _eager(case: step_peers.Case, device: str, kind: Callable[[list[dict[str, Any]]], Any]) -> timing.Workload:
    optimizer, reset = _optimizer(case, device, kind)
    return timing.Workload(step=optimizer.step, reset=reset, device=device)


def _captured(case: step_peers.Case, kind: Callable[[list[dict[str, Any]]], Any]) -> timing.Workload:
    """The step alone, captured once and replayed."""
    optimizer, reset = _optimizer(case, "cuda", kind)
    graph, _ = capture(optimizer.step)
    return timing.Workload(step=graph.replay, reset=reset, device="cuda")


def _with_triton(make: Callable[[], timing.Workload]) -> Callable[[], timing.Workload]:
    """The kernel is chosen in the first step, which is taken here; what was prepared is kept."""

    def made() -> timing.Workload:
        workload = make()
        with triton_switched_on():
            workload.step()
        workload.reset()
        return workload

    return made
