"""Where the best base rate of a workload's schemes lies, how far the metric moves, and what a trial costs.

For those who write a workload: ``python -m benchmarks.landscape NAME``. Nothing here is a verdict: one sweep of
base rates on a few seeds, judged on validation rows; schemes with free ratios are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lrdiff_bench.study.search.points import EDGE
from lrdiff_bench.study.workloads.workload import WORKLOADS, Scheme, Trials, Workload
from lrdiff_core.errors import ConfigError

__all__ = ["Landscape", "main", "sweep", "sweeps"]


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """One sweep of the base rate.

    Attributes:
        base_rates: [points], evenly over the interval on a log scale.
        metric: [points] median over seeds after the last step, worst where most seeds diverged.
        best: position in ``base_rates``.
        place: of the best in the interval, 0 to 1 on a log scale.
        diverged: share of the trials.
        milliseconds: of one trial, evaluations included, everything compiled.
    """

    scheme: str
    base_rates: np.ndarray
    metric: np.ndarray
    best: int
    place: float
    diverged: float
    milliseconds: float

    @property
    def at_edge(self) -> bool:
        """Whether the interval holds the best rate too near an end."""
        return not EDGE < self.place < 1 - EDGE


def sweep(workload: Workload, scheme: Scheme, *, points: int = 17, seeds: int = 4) -> Landscape:
    """Train ``points`` base rates on ``seeds`` seeds each.

    Raises:
        ConfigError: the scheme has free ratios.
    """
    if scheme.free:
        raise ConfigError(f'scheme "{scheme.name}" has free ratios', help="sweep a scheme of fixed ratios")
    rates = np.geomspace(*workload.base_rates, points)
    ratios = np.array([scheme.ratios[group] for group in workload.groups])
    trials = Trials(
        rates=np.repeat(rates[:, None] * ratios, seeds, axis=0),
        seeds=np.tile(np.arange(seeds), points),
        scheme=scheme,
        judged_on="validation",
    )
    warm = Trials(rates=trials.rates[:1], seeds=trials.seeds[:1], scheme=scheme, judged_on="validation")
    workload.train(warm)
    begin = time.perf_counter()
    last = workload.train(trials).metric[:, -1]
    milliseconds = 1e3 * (time.perf_counter() - begin) / len(last)
    better = -1.0 if workload.metric == "accuracy" else 1.0
    signed = np.where(np.isnan(last), np.inf, better * last).reshape(points, seeds)
    medians = np.median(signed, axis=1)
    best = int(np.argmin(medians))
    return Landscape(
        scheme=scheme.name,
        base_rates=rates,
        metric=better * medians,
        best=best,
        place=best / (points - 1),
        diverged=float(np.isnan(last).mean()),
        milliseconds=milliseconds,
    )


def sweeps(workload: Workload, *, points: int = 17, seeds: int = 4) -> Iterator[Landscape]:
    """Sweep every scheme of fixed ratios."""
    for scheme in workload.schemes:
        if not scheme.free:
            yield sweep(workload, scheme, points=points, seeds=seeds)


HEAD = f"{'scheme':18} {'best':>8} {'at rate':>8} {'place':>5} {'range':>18} {'NaN':>4} {'a trial':>8}"


def line(workload: Workload, found: Landscape) -> str:
    """A row of the table; the range is the metric from worst to best, over rates at which most seeds stayed finite."""
    finite = found.metric[np.isfinite(found.metric)]
    best = found.metric[found.best]
    worst = finite.min() if workload.metric == "accuracy" else finite.max()
    spread = f"{worst:.3g} to {best:.3g}"
    row = f"{found.scheme:18} {best:8.4f} {found.base_rates[found.best]:8.2g} {found.place:5.2f} {spread:>18}"
    row = f"{row} {found.diverged:4.0%} {found.milliseconds:5.3g} ms"
    return row + ("  EDGE" if found.at_edge else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the named workloads, or of all.

    Raises:
        ConfigError: no such workload.
    """
    import torch

    from lrdiff_bench.study import workloads as _registers_them  # noqa: F401

    parser = argparse.ArgumentParser(prog="python -m benchmarks.landscape", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the workload; all where left out")
    parser.add_argument("--points", type=int, default=17, help="base rates a scheme")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in WORKLOADS:
            raise ConfigError(f'there is no workload "{name}"', help=f"workloads: {', '.join(WORKLOADS)}")
    torch.set_num_threads(1)  # milliseconds are those of one core
    every = [name for name, make in WORKLOADS.items() if not make().fetched]
    for number, name in enumerate(options.names or every):
        workload = WORKLOADS[name]()
        low, high = workload.base_rates
        print(("\n" if number else "") + f"{name}: {workload.metric}, base rates {low:g} to {high:g}")
        print(HEAD)
        for found in sweeps(workload, points=options.points, seeds=options.seeds):
            print(line(workload, found), flush=True)


if __name__ == "__main__":
    main()
