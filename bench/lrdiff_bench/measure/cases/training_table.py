"""``lrdiff bench step --training``: what a faster step gains where it matters, in the whole training step.

Pairs of ``training_step`` give the time of forward, backward and update; pairs of ``optimizer_step`` with cold caches
give the update's own time in that same loop. One over the other is the optimizer's share.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.optimizer_step import IMPLEMENTATIONS
from lrdiff_bench.measure.engine.compare import TimingComparison, compare_cases
from lrdiff_bench.measure.engine.registry import find_case
from lrdiff_bench.report.page import as_given, render, table_row
from lrdiff_bench.report.record import NO_FILES, PageFiles
from lrdiff_bench.report.tables import seconds
from lrdiff_bench.system.machine import provenance
from lrdiff_core.errors import ConfigError

__all__ = ["TRAINING", "TrainingRow", "measure_model", "run_training_table", "training_page"]

PEERS = ("default", "fused")
TRAINING: Mapping[str, Any] = {"format": "lrdiff.training_table", "version": 2}
BUILDS, ROUNDS, QUICK_ROUNDS = 8, 3, 6  # quick: of one build
TITLES = {
    "mlp": "MLP 10-5-1, 25 rows",
    "transformer": "transformer, 12 layers of width 64, 8 x 32 tokens",
    "transformer-short": "the same, 1 x 16 tokens",
    "encoder": "transformer, 4 layers of width 64, 16 x 32 tokens",
    "convolution": "convolution net, 16 images of 32 x 32",
    "lora": "LoRA on a frozen BERT of 2 layers, 4 x 32 tokens",
    "splats": "20 000 Gaussians with six attributes",
    "actor-critic": "actor-critic, 64 states",
}


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """One model.

    Args:
        model: its title.
        tensors, parameters: that are trained.
        threads: torch's intra-op threads.
        whole: median seconds of a training step, by implementation.
        update: median seconds of the update in it.
        share: the one over the other.
        gain: time of the whole step over that with ours, by peer, with the ends of its 95 % interval.
        faster: the same of the update alone, in the loop.
    """

    model: str
    tensors: int
    parameters: int
    threads: int
    whole: dict[str, float]
    update: dict[str, float]
    share: dict[str, float]
    gain: dict[str, tuple[float, float, float]]
    faster: dict[str, tuple[float, float, float]]


def measure_model(name: str, *, threads: int = 1, rounds: int = ROUNDS, builds: int = BUILDS) -> TrainingRow:
    """Measure one of :data:`~lrdiff_bench.measure.cases.models.MODELS`, with a rate a layer.

    Args:
        name: of the model.
        threads: torch's intra-op threads.
        rounds, builds: as for :func:`~lrdiff_bench.measure.engine.compare.compare_cases`.
    """
    sizes = [p.numel() for p in MODELS[name]().trainable().values()]
    whole, update = {}, {}
    for peer in PEERS:
        pair = [find_case("training_step", model=name, implementation=one) for one in ("ours", peer)]
        whole[peer] = compare_cases(*pair, rounds=rounds, builds=builds, threads=threads)
        cold = {"shapes": name, "rates": "layers", "caches": "cold"}
        pair = [find_case("optimizer_step", **cold, implementation=one) for one in ("ours", peer)]
        update[peer] = compare_cases(*pair, rounds=rounds, builds=builds, threads=threads)
        gc.collect()
    whole_seconds, update_seconds = _medians(whole), _medians(update)
    return TrainingRow(
        model=TITLES[name],
        tensors=len(sizes),
        parameters=sum(sizes),
        threads=threads,
        whole=whole_seconds,
        update=update_seconds,
        share={one: update_seconds[one] / whole_seconds[one] for one in ("ours", *PEERS)},
        gain={peer: _ratio(one) for peer, one in whole.items()},
        faster={peer: _ratio(one) for peer, one in update.items()},
    )


def _medians(compared: dict[str, TimingComparison]) -> dict[str, float]:
    ours = sum(one.a.median for one in compared.values()) / len(compared)
    return {"ours": ours, **{peer: one.b.median for peer, one in compared.items()}}


def _ratio(one: TimingComparison) -> tuple[float, float, float]:
    return one.ratio.estimate, one.ratio.low, one.ratio.high


def run_training_table(
    *,
    models: Sequence[str] | None = None,
    threads: int | None = None,
    quick: bool = False,
    files: PageFiles = NO_FILES,
    on_row: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> tuple[dict[str, Any], str]:
    """Measure the models one after the other and write the table.

    Args:
        models: some of :data:`~lrdiff_bench.measure.cases.models.MODELS`; None: all.
        threads: torch's; None: one.
        quick: with the fewest rounds, of models that are built once.
        files: a Markdown file to write too, a record to keep, or one to read instead of measuring.
        on_row: called with a line after each model.

    Returns:
        The document and its Markdown.

    Raises:
        ConfigError: an unknown model, or a thread count below 1.
    """
    for name in models or ():
        if name not in MODELS:
            raise ConfigError(f"there is no model called {name!r}", help=f"write one of: {', '.join(MODELS)}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}", help="write a whole number from 1 up")

    def measured() -> dict[str, Any]:
        before, rows = provenance(), []
        effort = {"rounds": QUICK_ROUNDS, "builds": 1} if quick else {"rounds": ROUNDS, "builds": BUILDS}
        for name in models or MODELS:
            rows.append(measure_model(name, threads=threads or 1, **effort))
            on_row(table_row(_cells(asdict(rows[-1]))))
        return {"command": as_given(), "quick": quick, **before, **effort, "rows": [asdict(row) for row in rows]}

    document = files.document(measured, **TRAINING)
    text = training_page(document)
    files.write(text)
    return document, text


def training_page(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    peers = [IMPLEMENTATIONS[peer].label for peer in PEERS]
    heads = ["model", "tensors", "parameters", "whole step, lrdiff", *(f"{peer} / lrdiff" for peer in peers)]
    heads += [f"optimizer's share: lrdiff, {', '.join(peers)}", *(f"update alone, {peer} / lrdiff" for peer in peers)]
    return render("training_step.md", **document, heads=heads, cells=[_cells(row) for row in document["rows"]])


def _cells(row: dict[str, Any]) -> list[str]:
    def ratios(of: dict[str, Sequence[float]]) -> list[str]:
        return [f"{of[peer][0]:.3g} [{of[peer][1]:.3g}, {of[peer][2]:.3g}]" for peer in PEERS]

    shares = ", ".join(f"{100 * row['share'][one]:.2g} %" for one in ("ours", *PEERS))
    parameters = f"{row['parameters']:,}".replace(",", " ")
    whole = seconds(row["whole"]["ours"])
    return [row["model"], str(row["tensors"]), parameters, whole, *ratios(row["gain"]), shares, *ratios(row["faster"])]
