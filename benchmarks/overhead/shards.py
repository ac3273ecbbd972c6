"""The step over sharded parameters (DTensor) beside the same numbers as plain tensors, and torch's step over shards.

One process, gloo: nothing is sent. ``python benchmarks/overhead/shards.py`` prints processor time and the ratio to
plain tensors: the goal is at most 1.3.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from lrdiff_bench.stats.intervals import bootstrap_interval
from lrdiff_bench.system.machine import pinned
from lrdiff_core.optim import AdamW

LINE = "{:<24} {:>10} {:>12}  {}"
WARM = 3


def groups(count: int, rates: int, size: int, wrap: Callable[[torch.Tensor], torch.Tensor]) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    params = []
    for _ in range(count):
        param = torch.nn.Parameter(wrap(torch.randn(size, size, generator=generator)))
        param.grad = wrap(torch.randn(size, size, generator=generator))
        if hasattr(param, "_spec"):
            param.grad._spec = param._spec  # as FSDP does
        params.append(param)
    return [{"params": params[i::rates], "lr": 1e-3 / (i + 1)} for i in range(rates)]


def seconds(optimizer: torch.optim.Optimizer) -> float:
    began = time.process_time()
    optimizer.step()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=120)
    parser.add_argument("--rates", type=int, default=60)
    parser.add_argument("--size", type=int, default=128, help="rows and columns of each [128]")
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    mesh = init_device_mesh("cpu", (1,))
    shape = (given.tensors, given.rates, given.size)

    def sharded(tensor: torch.Tensor) -> torch.Tensor:
        return distribute_tensor(tensor, mesh, [Shard(0)])

    with pinned(1):
        plain = AdamW(groups(*shape, lambda tensor: tensor))
        print(LINE.format("over shards", "plain", "shards", "shards / plain"))
        for name, kind in (("lrdiff", AdamW), ("torch default", torch.optim.AdamW)):
            other = kind(groups(*shape, sharded))
            for _ in range(WARM):
                seconds(plain), seconds(other)
            rounds = given.rounds if kind is AdamW else 3
            times = np.array([(seconds(plain), seconds(other)) for _ in range(rounds)])  # [rounds, 2]
            found = bootstrap_interval((times[:, 1] / times[:, 0]).tolist())
            ours, theirs = (f"{1e3 * value:.2f} ms" for value in np.median(times, axis=0))
            print(
                LINE.format(name, ours, theirs, f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"), flush=True
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
