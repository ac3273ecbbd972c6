"""Pictures of studies, PNG and SVG: best of k, paired differences, the metric by step, profile, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lrdiff_bench.report.figures import save_figure
from lrdiff_bench.stats.gain import CLIP
from lrdiff_bench.study import describe

__all__ = ["draw_document", "draw_suite_pictures"]

# Okabe and Ito's colours, told apart with any colour vision; every line has its own dashes too.
LOOKS: tuple[tuple[str, Any], ...] = (
    ("#333333", "-"),
    ("#0072B2", "--"),
    ("#D55E00", "-."),
    ("#009E73", (0, (5, 1.5))),
    ("#CC79A7", (0, (1, 1.2))),
    ("#E69F00", (0, (3, 1, 1, 1))),
    ("#56B4E9", (0, (8, 2))),
    ("#7F7F7F", (0, (2, 2))),
)
VERDICTS = {
    "HELPS": "#009E73",
    "HELPS ON AVERAGE": "#009E73",
    "HELPS BUT DIVERGES": "#E69F00",
    "NO DIFFERENCE": "#0072B2",
    "NO DIFFERENCE BUT DIVERGES": "#E69F00",
    "NO DIFFERENCE BUT STEADIER": "#0072B2",
    "HURTS ON AVERAGE": "#D55E00",
    "HURTS": "#D55E00",
    "INCONCLUSIVE": "#7F7F7F",
}
Document = Mapping[str, Any]


def draw_document(document: Document, folder: Path, prefix: str = "") -> list[Path]:
    """Draw one study.

    Args:
        document: of it.
        folder: where to; it exists.
        prefix: of the file names.

    Returns:
        The files: ``NAME-best-of``, ``NAME-pairs`` and ``NAME-steps``, .png and .svg each.
    """
    stem = f"{prefix}{document['name']}"
    written = []
    if document["best_of"] is not None:
        written += _save(_best_of(document), folder / f"{stem}-best-of")
    written += _save(_pairs(document), folder / f"{stem}-pairs")
    return written + _save(_steps(document), folder / f"{stem}-steps")


def draw_suite_pictures(
    documents: Sequence[Document], suite: Mapping[str, Any] | None, folder: Path, prefix: str = ""
) -> list[Path]:
    """Draw the table of verdicts, and with several studies the performance profile."""
    written = _save(_verdicts(documents, suite), folder / f"{prefix}verdicts")
    if suite is not None:
        written += _save(_profile(suite, documents), folder / f"{prefix}profile")
    return written


def _best_of(document: Document) -> Figure:
    figure, panel = _panel(document, "expected best of k trials on validation data, 95 % bands")
    k = document["best_of"]["k"]
    for scheme, (color, dashes) in zip(document["best_of"]["schemes"], LOOKS, strict=False):
        panel.plot(k, scheme["expected"], color=color, linestyle=dashes, linewidth=1.7, label=scheme["name"])
        panel.fill_between(k, scheme["low"], scheme["high"], color=color, alpha=0.10, linewidth=0)
        for crossing in scheme["crossings"]:
            if crossing["clear"]:
                at = crossing["k"]
                panel.plot(at, scheme["expected"][k.index(at)], marker="x", markersize=9, color=color, linewidth=0)
    panel.set_xscale("log", base=2)
    ticks = [one for one in (1, 2, 4, 8, 16, 32, 64) if one <= k[-1]]
    panel.set_xticks(ticks, [str(one) for one in ticks])
    panel.set_xlabel("k, number of trials (a cross: where a curve clearly crosses the single rate's)")
    panel.set_ylabel(_metric(document))
    # the first trials of many schemes diverge: their height must not flatten what is of interest
    ends = np.array([[scheme["expected"][0], scheme["expected"][-1]] for scheme in document["best_of"]["schemes"]])
    lower = document["workload"]["metric"] == "loss"
    best, worst = (ends[:, 1].min(), ends[:, 0].max()) if lower else (ends[:, 1].max(), ends[:, 0].min())
    if lower and best > 0 and worst > 4 * best:
        panel.set_yscale("log")
        for axis in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            axis(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else ""))
        panel.set_ylim(0.9 * best, 1.1 * worst)
    else:
        panel.set_ylim(*sorted((best - 0.05 * (worst - best), best + 1.08 * (worst - best))))
    panel.legend(frameon=False, fontsize=9)
    return figure


def _pairs(document: Document) -> Figure:
    """Every pair's gain as a dot, the estimate with its interval, and the band that does not matter."""
    sign = 1.0 if document["workload"]["metric"] == "accuracy" else -1.0
    schemes = document["schemes"][1:]
    figure, panel = _panel(document, "gain over the tuned single rate on fresh seeds", height=1.6 + 0.75 * len(schemes))
    smallest = document["workload"]["smallest_difference"]
    panel.axvspan(-smallest, smallest, color="#999999", alpha=0.18, linewidth=0)
    panel.axvline(0.0, color="#333333", linewidth=0.7)
    generator = np.random.default_rng(0)
    single = document["schemes"][0]["winners"]
    extent = [-2.0 * smallest, 2.0 * smallest]
    for at, (scheme, (color, _)) in enumerate(zip(schemes, LOOKS[1:], strict=False)):
        gaps = sign * np.concatenate(
            [_gap(winner, base) for winner, base in zip(scheme["winners"], single, strict=True)]
        )
        gaps = gaps[np.isfinite(gaps)]
        if len(gaps):
            panel.plot(
                gaps, at + generator.uniform(0.08, 0.36, len(gaps)), ".", color=color, markersize=2.5, alpha=0.35
            )
            extent += list(np.quantile(gaps, (0.01, 0.99)))
        one = scheme["gain"]
        low, high = one["low"], one["high"]
        panel.plot([low, high], [at, at], color=color, linewidth=2.4, solid_capstyle="butt")
        panel.plot(one["estimate"], at, "o", color=color, markersize=6)
        extent += [low, high]
    panel.set_yticks(
        range(len(schemes)),
        [f"{s['name']}{' *' if s['name'] == document['chosen'] else ''}\n{s['gain']['verdict']}" for s in schemes],
    )
    panel.set_ylim(-0.5, len(schemes) - 0.4)
    widest = min(max(map(abs, extent)), 40.0 * smallest)
    panel.set_xlim(-1.06 * widest, 1.06 * widest)
    panel.set_xlabel(f"gain in {document['workload']['metric']} over single (grey: does not matter; 95 %)")
    panel.grid(visible=False, axis="y")
    return figure


def _gap(winner: Mapping[str, Any], base: Mapping[str, Any]) -> Any:
    if winner["trial"] is None or base["trial"] is None:
        return np.empty(0)
    ours, theirs = (np.array(one["report"], dtype=np.float64) for one in (winner, base))
    return ours - theirs


def _steps(document: Document) -> Figure:
    """Training loss, and the metric on test data, by step."""
    figure = Figure(figsize=(12.0, 4.4), layout="constrained")
    metric = _metric(document)
    for panel, (curve, low, high), label in zip(
        figure.subplots(1, 2),
        (("train_curve", "train_low", "train_high"), ("curve", "low", "high")),
        ("training loss", f"{metric} on test data"),
        strict=True,
    ):
        _dress(panel)
        for column, (color, dashes) in zip(document["columns"], [LOOKS[-1], *LOOKS], strict=False):
            middle, under, over = (np.array(column[part], dtype=np.float64) for part in (curve, low, high))
            steps = document["evaluated_after"]
            if len(middle) == len(steps):
                name = column["name"] if column["name"] == "untuned default" else f"tuned {column['name']}"
                panel.plot(steps, middle, color=color, linestyle=dashes, linewidth=1.7, label=name)
                panel.fill_between(steps, under, over, color=color, alpha=0.12, linewidth=0)
        if curve == "curve" and document["target"] is not None:
            panel.axhline(document["target"], color="#333333", linewidth=0.7, linestyle=(0, (1, 3)))
            panel.text(steps[-1], document["target"], "target", fontsize=8, ha="right", va="bottom", color="#333333")
        panel.set_xlabel("steps")
        panel.set_ylabel(label)
    figure.legend(*panel.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside right center")
    mode = f" - {describe.MODES[document['mode']]}" if document["mode"] != "full" else ""
    figure.suptitle(f"{document['name']}: median over searches with 95 % bands{mode}", fontsize=10)
    return figure


def _profile(suite: Mapping[str, Any], documents: Sequence[Document]) -> Figure:
    figure, panel = _plain_panel()
    for (name, one), (color, dashes) in zip(suite["profiles"].items(), (LOOKS[1], LOOKS[-1]), strict=True):
        at = one["thresholds"]
        panel.plot(at, one["share"], color=color, linestyle=dashes, linewidth=1.8, label=name)
        panel.fill_between(at, one["low"], one["high"], color=color, alpha=0.15, linewidth=0)
    panel.axvspan(-1, 1, color="#999999", alpha=0.18, linewidth=0)
    panel.axvline(0.0, color="#333333", linewidth=0.7)
    panel.set_ylim(0, 1)
    panel.set_xlabel("gain over the tuned single rate, in smallest differences (grey: does not matter)")
    panel.set_ylabel("share of searches that gain more")
    panel.legend(frameon=False, fontsize=9)
    panel.set_title(f"Performance profile over {len(documents)} workloads, 95 % bands{_mode(documents)}", fontsize=10)
    return figure


def _verdicts(documents: Sequence[Document], suite: Mapping[str, Any] | None) -> Figure:
    """Each workload's interval in its own smallest difference, better to the right."""
    figure, panel = _plain_panel(height=1.7 + 0.55 * len(documents), width=9.5)
    names, widest = [], 2.0
    for at, document in enumerate(reversed(documents)):
        one = document["gain"] if suite is None else suite["gains"][document["name"]]
        gain, low, high = (one[key] / one["smallest"] for key in ("estimate", "low", "high"))
        widest = max(widest, abs(low), abs(high))
        color = VERDICTS[one["verdict"]]
        panel.plot([low, high], [at, at], color=color, linewidth=3, solid_capstyle="butt")
        panel.plot(gain, at, "o", color=color, markersize=7)
        panel.text(
            1.02, at, one["verdict"], color=color, fontsize=9, va="center", transform=panel.get_yaxis_transform()
        )
        names.append(f"{document['workload']['name']}\n{document['chosen']}")
    panel.axvspan(-1, 1, color="#999999", alpha=0.18, linewidth=0)
    panel.axvline(0.0, color="#333333", linewidth=0.7)
    panel.set_xscale("symlog", linthresh=2.0, linscale=1.0)  # straight where it matters, so that nothing is cut off
    widest = 1.15 * min(widest, CLIP)
    panel.set_xlim(-widest, widest)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= widest]
    panel.set_xticks(
        [*(-t for t in reversed(ticks)), 0, *ticks], [*(f"-{t}" for t in reversed(ticks)), "0", *map(str, ticks)]
    )
    panel.xaxis.minorticks_off()
    panel.set_ylim(-0.6, len(documents) - 0.4)
    panel.set_yticks(range(len(documents)), names, fontsize=8)
    panel.set_xlabel(
        "gain over the tuned single rate with 95 % interval, in smallest differences (grey: does not matter)"
    )
    panel.grid(visible=False, axis="y")
    holm = "" if suite is None else f", verdicts after Holm over {len(documents)}"
    panel.set_title(f"Tuned differential against tuned single{holm}{_mode(documents)}", fontsize=10)
    return figure


def _mode(documents: Sequence[Document]) -> str:
    modes = sorted({document["mode"].upper() for document in documents} - {"FULL"})
    return f" - {' and '.join(modes)}, not the protocol" if modes else ""


def _metric(document: Document) -> str:
    return str(document["workload"]["metric"])


def _panel(document: Document, what: str, *, height: float = 4.4) -> tuple[Figure, Any]:
    figure, panel = _plain_panel(height=height)
    mode = f" - {describe.MODES[document['mode']]}" if document["mode"] != "full" else ""
    panel.set_title(f"{document['name']}: {what}{mode}", fontsize=10, wrap=True)
    return figure, panel


def _plain_panel(*, height: float = 4.4, width: float = 8.0) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    panel = figure.subplots()
    _dress(panel)
    return figure, panel


def _dress(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)


def _save(figure: Figure, stem: Path) -> list[Path]:
    save_figure(figure, stem)
    return [stem.with_suffix(kind) for kind in (".png", ".svg")]
