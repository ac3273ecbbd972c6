"""What a process that goes on for long comes to hold: memory, files and threads per 1000 steps, optimizers, tiles.

::

    python -m benchmarks.faults.soak      # 20 000 steps, 1200 optimizers, 300 population tiles, 150 map tiles
    python -m benchmarks.faults.soak --share 0.05 --parts steps,optimizers

Each part is warmed up with a tenth of it, then looked at nine times. Memory is what the system counts as resident; its
slope is the median of the slopes between any two looks (Theil and Sen), which one jump of the allocator does not move.
Linux alone: what a process holds is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LOOKS = 9
MOST_GROWTH = 4 * 2**20  # bytes from the first look to the last by the slope; arenas of the allocator come and go


class Look(NamedTuple):
    """What the process held after so many rounds."""

    rounds: int
    resident: int  # bytes
    files: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """A part that was gone through.

    Attributes:
        name: of the part.
        looks: at equal distances, the first after the warm-up.
        seconds: of all rounds.
    """

    name: str
    looks: tuple[Look, ...]
    seconds: float

    @property
    def slope(self) -> float:
        """Resident bytes a round."""
        pairs = itertools.combinations(self.looks, 2)
        return statistics.median((b.resident - a.resident) / (b.rounds - a.rounds) for a, b in pairs)

    @property
    def grown(self) -> list[str]:
        """What became more; empty where all is flat."""
        first, last = self.looks[0], self.looks[-1]
        found = [name for name in ("files", "threads") if getattr(last, name) > getattr(first, name)]
        return [*found, *(["memory"] if self.slope * (last.rounds - first.rounds) > MOST_GROWTH else [])]

    def text(self) -> str:
        """One line."""
        last = self.looks[-1]
        said = ", ".join(f"{name} GROWS" for name in self.grown) or "flat"
        return (
            f"{self.name:18} {last.rounds:6d}   {self.slope * 1000 / 1024:+9.1f} KiB per 1000   "
            f"{last.resident / 2**20:7.1f} MiB   {last.files:3d} files   {last.threads:2d} threads   "
            f"{self.seconds:5.0f} s   {said}"
        )


def soak(name: str, count: int, one: Callable[[], object]) -> Soaked:
    """Go through a part.

    Args:
        name: of the part.
        count: rounds after the warm-up.
        one: a round.
    """
    begun = time.perf_counter()
    for _ in range(max(LOOKS, count // 10)):
        one()

    def look(rounds: int) -> Look:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        files, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
        return Look(rounds, pages * os.sysconf("SC_PAGE_SIZE"), files, threads)

    looks = [look(0)]
    for i in range(1, LOOKS):
        before, after = count * (i - 1) // (LOOKS - 1), count * i // (LOOKS - 1)
        for _ in range(before, after):
            one()
        looks.append(look(after))
    return Soaked(name=name, looks=tuple(looks), seconds=time.perf_counter() - begun)


def steps() -> Callable[[], object]:
    """Training steps of one model: loss, gradients, clipping, update, schedule."""
    import torch

    from lrdiff_core import AdamW, LayerDecay, Schedule, param_groups
    from lrdiff_core.optim import clip_grad_norms_

    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1))
    plan = param_groups(model, lr=1e-3, scale=[LayerDecay(0.5)])
    optimizer = AdamW(plan.groups())
    schedule = Schedule(optimizer, total_steps=10**7, shape="cosine")
    rows = torch.randn(16, 20)

    def one() -> None:
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        clip_grad_norms_(optimizer, 1.0)
        optimizer.step()
        schedule.step()

    return one


def optimizers() -> Callable[[], object]:
    """Optimizers that come and go, each with a model, two steps and a checkpoint."""
    import torch

    from lrdiff_core import SGD, Adam, AdamW, param_groups

    kinds = itertools.cycle([SGD, Adam, AdamW])

    def one() -> None:
        model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1))
        optimizer = next(kinds)(param_groups(model, lr=1e-3).groups())
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(4, 20)).sum().backward()
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())

    return one


def population_tiles() -> Callable[[], object]:
    """Tiles of populations, by the kernel and by the general path in turn."""
    import torch

    from lrdiff_core.population import PopulationData, PopulationOptions, train_population

    rows = torch.randn(40, 10)
    data = PopulationData(inputs=rows, targets=(rows.sum(1, keepdim=True) > 0).float(), task="binary")
    paths = itertools.cycle([True, False])

    def model(seed: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(10, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))

    def one() -> None:
        options = PopulationOptions(epochs=2, batch_size=20, path="auto" if next(paths) else "general")
        train_population(model, data, torch.full((64, 1), 1e-2), [i % 4 for i in range(64)], options)

    return one


def map_tiles() -> Callable[[], object]:
    """Tiles of a map, as a worker trains them."""
    from lrdiff_bench.maps import MapRequest, make_plan
    from lrdiff_bench.maps.tiles import run_job

    plan = make_plan(MapRequest(size=4, seeds=3, epochs=1, tile=2))
    jobs = itertools.cycle([plan.job(tile, None) for tile in plan.tiles if tile.kind == "cells"])
    return lambda: run_job(next(jobs), threads=1)


PARTS: dict[str, tuple[int, Callable[[], Callable[[], object]]]] = {
    "steps": (20_000, steps),
    "optimizers": (1200, optimizers),
    "population tiles": (300, population_tiles),
    "map tiles": (150, map_tiles),
}


def main(arguments: list[str] | None = None) -> int:
    """Print a line a part; the status is 1 where something grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the rounds of each part")
    parser.add_argument("--parts", default=",".join(PARTS), help="names separated by commas")
    asked = parser.parse_args(arguments)
    names = asked.parts.split(",")
    if unknown := {*names} - {*PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    found = []
    for name in names:
        count, make = PARTS[name]
        found.append(soak(name, max(LOOKS, round(asked.share * count)), make()))
        print(found[-1].text(), flush=True)
    return 1 if any(one.grown for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
