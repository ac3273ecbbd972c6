"""A million 10-5-1 networks trained side by side: 1000 rows, batch 50, ten epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from lrdiff_bench.gpu.record import NO_TIME, GpuRow, Reporter, Request
from lrdiff_bench.measure.cases.optimizer_error import error_in_eps
from lrdiff_bench.measure.cases.population_speed import SpeedCase, network
from lrdiff_bench.measure.engine.device import device_clock
from lrdiff_core.population import Population, PopulationOptions, train_population
from lrdiff_export.verify.tolerance import allowed_error

__all__ = ["GOAL_SECONDS", "run"]

MEMBERS, QUICK_MEMBERS = 1_000_000, 64
SHARE = 16  # tiles are chosen on one member in so many
TILES = (None, 62_500, 250_000)
PARITY_MEMBERS = 16
GOAL_SECONDS = 20.0  # for SGD on an H200
MOST_SECONDS = 40.0  # a run that would take longer is not begun


def run(request: Request, report: Reporter) -> None:
    """Choose the tile on fewer members, then train all of them and time it once.

    Args:
        request: where it is ``small`` 64 members.
        report: takes the rows.
    """
    members = QUICK_MEMBERS if request.small else MEMBERS
    for optimizer in ("sgd", "adam"):
        whole = SpeedCase(optimizer=optimizer, members=members, epochs=1 if request.small else 10)
        part = replace(whole, members=max(1, members // SHARE))
        _timed(part, request, None)  # loads kernels
        best: tuple[float, int | None] | None = None
        for tile in TILES[:1] if request.small else TILES:
            if (tile is not None and tile > part.members) or not request.in_time():
                continue
            seconds, _ = _timed(part, request, tile)
            report(GpuRow(what=f"{optimizer}, {part.members} members, tile {tile or 'by default'}", result="measured",
                     value=f"{seconds:.3g} s", numbers={"seconds": seconds, "members": part.members}))  # fmt: skip
            best = (seconds, tile) if best is None or seconds < best[0] else best
        if best is None:
            report(GpuRow(what=f"{optimizer}, {members} members", result="unavailable", note=NO_TIME))
            continue
        report(_parity(replace(part, members=min(PARITY_MEMBERS, members)), request))
        what = f"{optimizer}, {members} members"
        expected = best[0] * members / part.members
        if expected > MOST_SECONDS:
            report(GpuRow(what=what, result="failed", note=f"not begun: would take about {expected:.0f} s"))
            continue
        seconds, population = _timed(whole, request, best[1])
        report(_row(what, seconds, population, whole, goal=GOAL_SECONDS if optimizer == "sgd" else None))


def _parity(case: SpeedCase, request: Request) -> GpuRow:
    """A few members on the device against float64 on the CPU: fast but wrong must not pass."""

    def weights(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
        result = train_population(
            network,
            case.data(),
            case.rates(),
            0,
            PopulationOptions(
                optimizer=case.optimizer,
                epochs=1,
                batch_size=case.batch_size,
                evaluate="never",
                keep_weights=True,
                device=device,
                dtype=dtype,
                path="general",
            ),
        )
        assert result.weights is not None
        return [one.cpu() for one in result.weights.values()]

    exact, plain = weights("cpu", torch.float64), weights("cpu", torch.float32)
    allowed = allowed_error(error_in_eps(plain, exact))
    error = error_in_eps(weights(request.device, torch.float32), exact)
    return GpuRow(
        what=f"{case.optimizer}, {case.members} members, one epoch, against float64",
        result="passed" if error <= allowed else "failed",
        value=f"{error:.3g} eps of {allowed:.3g}",
        numbers={"error": error, "allowed": allowed},
    )


def _row(what: str, seconds: float, population: Population, case: SpeedCase, *, goal: float | None) -> GpuRow:
    loss = population.train_loss[:, -1]
    finite = float(torch.isfinite(loss).float().mean())
    sound = finite > 0.5 and float(loss[torch.isfinite(loss)].min()) < math.log(2)  # better than a guess
    rate = case.flops / seconds / 1e12
    return GpuRow(
        what=what,
        result="passed" if sound and (goal is None or seconds <= goal) else "failed",
        value=f"{seconds:.3g} s, {rate:.3g} TFLOP/s of matrix products",
        note=("" if goal is None else f"goal {goal:g} s on an H200; ")
        + f"{finite:.1%} of the losses are finite, the lowest is {float(loss[torch.isfinite(loss)].min()):.3g}",
        numbers={"seconds": seconds, "members": case.members, "flops": case.flops, "finite": finite},
    )


def _timed(case: SpeedCase, request: Request, tile: int | None) -> tuple[float, Population]:
    wait: Callable[[], None] = device_clock(request.device).wait
    data, rates = case.data(), case.rates()
    wait()
    start = time.perf_counter()
    population = train_population(
        network,
        data,
        rates,
        0,
        PopulationOptions(
            optimizer=case.optimizer,
            epochs=case.epochs,
            batch_size=case.batch_size,
            evaluate="end",
            device=request.device,
            path="general",
            tile=tile,
        ),
    )
    wait()
    return time.perf_counter() - start, population
