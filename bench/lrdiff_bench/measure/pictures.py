"""Pictures of records, PNG and SVG: cost against the number of rates, against size, and over runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lrdiff_bench.measure.cases.state import BYTES_STEP, model_shapes
from lrdiff_bench.measure.cases.step_table import beside_fused
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.screen import short_label
from lrdiff_core.files import atomic_path

__all__ = [
    "LOOKS",
    "draw_all",
    "draw_history",
    "draw_rates",
    "draw_roofline",
    "draw_sizes",
    "history_lines",
    "steps_by_rates",
    "steps_by_size",
]

# Okabe and Ito's colours, told apart with any colour vision; every line also has its own mark and dashes.
LOOKS: dict[str, tuple[str, Any, str, str]] = {
    "ours": ("#0072B2", "-", "o", "lrdiff"),
    "fused": ("#D55E00", "--", "s", "torch fused"),
    "foreach": ("#009E73", "-.", "^", "torch foreach"),
    "default": ("#666666", (0, (1, 1.5)), "D", "torch default (loop)"),
    "compiled": ("#CC79A7", (0, (5, 1.5)), "v", "torch compiled"),
}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666", "#E69F00", "#56B4E9", "#000000")
INK = "#333333"


def draw_all(records: Sequence[Record], runs: Sequence[Sequence[Record]], folder: Path) -> list[Path]:
    """Draw what the records allow.

    Args:
        records: of one run.
        runs: of all runs, oldest first, for the history.
        folder: where to; it is made.

    Returns:
        The files written: ``cost-by-rates``, ``cost-by-size`` and ``history``, .png and .svg each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [*draw_rates(records, folder), *draw_sizes(records, folder)]
    machine = records[0].machine.id if records else None
    return [*drawn, *draw_history([[r for r in run if r.machine.id == machine] for run in runs], folder)]


def draw_rates(records: Iterable[Record], folder: Path) -> list[Path]:
    """Draw the cost of an optimizer step against the number of distinct rates; a line an implementation.

    Args:
        records: those of ``optimizer_step`` with AdamW on one thread of the CPU over ``thousand`` are drawn.
        folder: where to.

    Nothing is drawn with fewer than three counts of rates.
    """
    lines = steps_by_rates(records)
    if not lines:
        return []
    chosen = [r for line in lines.values() for r in line]
    panel = _panel("number of distinct rates", "time of a step (ms)")
    for name, line in lines.items():
        x = [int(r.parameters["rates"] or 0) for r in line]
        low, high = np.array([r.quartiles for r in line]).T * 1e3
        color, dashes, mark, label = LOOKS[name]
        middle = [r.median * 1e3 for r in line]
        panel.plot(x, middle, color=color, linestyle=dashes, marker=mark, markersize=5, linewidth=1.6, label=label)
        panel.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    panel.set_xscale("log")
    panel.set_yscale("log")
    counts = sorted({int(r.parameters["rates"] or 0) for r in chosen})
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.xaxis.minorticks_off()
    _decimal(panel.yaxis)
    tensors = len(model_shapes("thousand"))
    return _finish(
        panel, f"AdamW step over {tensors} tensors of 1024 numbers, {_where(chosen[0])}", folder, "cost-by-rates"
    )


def steps_by_rates(records: Iterable[Record]) -> dict[str, list[Record]]:
    """What :func:`draw_rates` draws: for each implementation its records by number of rates; empty where too few."""
    # "each" is the same as 1000.
    chosen = [
        r for r in _plain_steps(records) if r.parameters["shapes"] == "thousand" and r.parameters["rates"] != "each"
    ]
    if len({r.parameters["rates"] for r in chosen}) < 3:
        return {}
    lines = _by(chosen, "implementation")
    return {name: sorted(line, key=lambda r: int(r.parameters["rates"] or 0)) for name, line in lines.items()}


def draw_sizes(records: Iterable[Record], folder: Path) -> list[Path]:
    """Draw the cost of an optimizer step against the number of parameters, and what moving its bytes alone takes.

    Args:
        records: those of ``optimizer_step`` with AdamW on one thread of the CPU are drawn; the limit is drawn where
            ``memory_copy`` was measured in the same run.
        folder: where to.

    Nothing is drawn with fewer than three sizes.
    """
    records = list(records)
    lines = steps_by_size(records)
    if not lines:
        return []
    chosen = [r for line in lines.values() for r in line]
    panel = _panel("parameters", "time of a step (ms)")
    sizes = {str(r.parameters["shapes"]): int(r.facts["parameters"] or 0) for r in chosen}
    for (name, rates), line in lines.items():
        color, _, mark, label = LOOKS[name]
        panel.plot(
            [int(r.facts["parameters"] or 0) for r in line], [r.median * 1e3 for r in line],
            color=color, marker=mark, markersize=6, linewidth=1.4,
            linestyle="-" if rates == "1" else "--", markerfacecolor="white" if rates == "each" else color,
            label=f"{label}, {'one rate' if rates == '1' else 'a rate each'}",
        )  # fmt: skip
    for copy in [r for r in records if r.name == "memory_copy" and r.parameters["threads"] == 1][:1]:
        rate = int(copy.facts["bytes"] or 0) / copy.median
        ends = np.array([min(sizes.values()), max(sizes.values())])
        label = f"copy limit: {BYTES_STEP['adamw']} bytes a parameter at {rate / 1e9:.1f} GB/s"
        panel.plot(
            ends,
            ends * BYTES_STEP["adamw"] / rate * 1e3,
            color=INK,
            linewidth=1.2,
            linestyle=(0, (1, 1.5)),
            label=label,
        )
    panel.set_xscale("log")
    panel.set_yscale("log")
    _decimal(panel.yaxis)
    # Names stand upright at the bottom, below every line: some sizes lie close together.
    lowest = min(r.median for r in chosen) * 1e3
    panel.set_ylim(bottom=lowest / 8)
    for name, size in sizes.items():
        panel.axvline(size, color=INK, linewidth=0.5, alpha=0.25)
        panel.annotate(
            name, (size, 0), xycoords=("data", "axes fraction"), xytext=(-2, 4), textcoords="offset points",
            rotation=90, ha="right", va="bottom", fontsize=8, color=INK,
        )  # fmt: skip
    return _finish(panel, f"AdamW step over the shapes of real models, {_where(chosen[0])}", folder, "cost-by-size")


def steps_by_size(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """What :func:`draw_sizes` draws: for each implementation and number of rates its records by size."""
    chosen = [
        r
        for r in _plain_steps(records)
        if r.parameters["shapes"] != "thousand"
        and r.parameters["rates"] in (1, "each")
        and r.parameters["implementation"] in ("ours", "fused")
    ]
    if len({r.parameters["shapes"] for r in chosen}) < 3:
        return {}
    return {
        (name, rates): sorted(line, key=lambda r: int(r.facts["parameters"] or 0))
        for name, several in _by(chosen, "implementation").items()
        for rates, line in _by(several, "rates").items()
    }


def draw_roofline(folder: Path, document: Mapping[str, Any]) -> list[Path]:
    """Draw how fast a step moves its bytes, against how many there are, and what memory gives to copying alone.

    Above that line the caches help; a step that reaches it waits for memory, and one below it for something else.

    Args:
        folder: where to; the files are ``step-roofline.png`` and ``.svg``, or as its ``picture`` says.
        document: of the table of steps.

    Nothing is drawn where no row compares us with torch's fused step.
    """
    rows = beside_fused(document)
    if not rows:
        return []
    threads = rows[0]["threads"]
    panel = _panel("bytes that a step moves (MiB)", "bytes a second (GB/s)")
    for side, look in (("ours", "ours"), ("theirs", "fused")):
        color, _, mark, name = LOOKS[look]
        for caches in ("hot", "cold"):
            points = sorted((row["bytes"], row["bytes"] / row[side] / 1e9) for row in rows if row["caches"] == caches)
            panel.plot(
                [moved / 2**20 for moved, _ in points], [rate for _, rate in points], color=color, linestyle="",
                marker=mark, markersize=7, markerfacecolor=color if caches == "hot" else "white",
                label=f"{name}, {caches} caches",
            )  # fmt: skip
    memory = document["bandwidth"][str(threads)] / 1e9
    panel.axhline(memory, color=INK, linewidth=1.2, linestyle=(0, (1, 1.5)), label=f"memory: {memory:.3g} GB/s")
    panel.set_xscale("log")
    panel.set_yscale("log")
    _decimal(panel.yaxis)
    cpu = document["machine"]["cpu"]
    title = f"AdamW step, {threads} thread{'s' if threads > 1 else ''}, {cpu}"
    return _finish(panel, title, folder, document.get("picture", "step-roofline"))


def draw_history(runs: Sequence[Sequence[Record]], folder: Path) -> list[Path]:
    """Draw how each case went over runs, as a multiple of its first time; medians with quartiles.

    Args:
        runs: oldest first, of one machine.
        folder: where to.

    Nothing is drawn where no case was measured three times. The eight cases measured most often are drawn.
    """
    long, names = history_lines(runs)
    if not long:
        return []
    panel = _panel("run", "time of a step, first run = 1")
    for color, line in zip(CYCLE, long, strict=False):
        first = line[0][1]
        low, high = np.array([record.quartiles for _, record in line]).T / first.median
        x = [place for place, _ in line]
        middle = [record.median / first.median for _, record in line]
        label = f"{first.name} {short_label(first, ('device', 'threads'))}".strip()
        panel.plot(x, middle, color=color, marker="o", markersize=4, linewidth=1.4, label=label)
        panel.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    panel.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    panel.axhline(1.0, color=INK, linewidth=0.6)
    return _finish(panel, f"Speed over runs, {_where(long[0][0][1])}", folder, "history")


def history_lines(runs: Sequence[Sequence[Record]]) -> tuple[list[list[tuple[int, Record]]], list[str]]:
    """What :func:`draw_history` draws: for each case its places and records, and the commit at each place."""
    lines: dict[tuple[str, str], list[tuple[int, Record]]] = {}
    for i, run in enumerate(runs):
        labels = [record.case for record in run]
        for record in run:
            if record.samples and labels.count(record.case) == 1:  # two are the sides of `lrdiff bench ab`
                lines.setdefault((record.case, record.version), []).append((i, record))
    long = sorted((line for line in lines.values() if len(line) >= 3), key=len, reverse=True)[: len(CYCLE)]
    used = sorted({i for line in long for i, _ in line})
    place = {run: at for at, run in enumerate(used)}
    commits = [next(r for r in runs[run] if r.samples).code for run in used]
    names = [f"{(code.commit or 'none')[:7]}{'+' if code.dirty else ''}" for code in commits]
    return [[(place[i], record) for i, record in line] for line in long], names


def _plain_steps(records: Iterable[Record]) -> list[Record]:
    """What the pictures' titles say: AdamW, one thread, the CPU."""
    plain = {"optimizer": "adamw", "threads": 1, "device": "cpu", "caches": "hot"}
    return [r for r in records if r.name == "optimizer_step" and plain.items() <= r.parameters.items()]


def _by(records: Iterable[Record], key: str) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(record.parameters[key]), []).append(record)
    return groups


def _where(record: Record) -> str:
    device = record.machine.cpu if record.machine.device == "cpu" else record.machine.device
    return f"{device}, torch {record.code.torch.split('+')[0]}"


def _panel(x: str, y: str) -> Any:
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    panel = figure.subplots()
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, which="major")
    return panel


def _decimal(axis: Any) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    between = mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axis.set_minor_formatter(between)


def _finish(panel: Any, title: str, folder: Path, name: str) -> list[Path]:
    panel.set_title(title, fontsize=10)
    panel.legend(frameon=False, fontsize=8)
    written = []
    # A fixed salt and no date: the same records draw the same bytes.
    with mpl.rc_context({"svg.hashsalt": "lrdiff", "svg.fonttype": "none"}):
        for kind in ("png", "svg"):
            path = folder / f"{name}.{kind}"
            with atomic_path(path) as beside:
                metadata = {"Date": None} if kind == "svg" else None
                panel.figure.savefig(beside, format=kind, dpi=150, metadata=metadata)
            written.append(path)
    return written
