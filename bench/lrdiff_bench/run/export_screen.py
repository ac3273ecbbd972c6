"""What a file looks like in a terminal: exported, verified, in other precisions, timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from lrdiff_bench.report.parity_table import eps
from lrdiff_bench.report.tables import label, line, plain_table

__all__ = ["draw_export", "draw_golden", "draw_latency", "draw_targets", "draw_verification"]

ROWS = {
    "held out": "held-out rows",
    "drawn": "rows (the example's, and others drawn around it)",
    "given": "rows of the factory",
}
MOST_INPUTS = 8  # named; wide tables have hundreds of columns of words


def draw_export(console: Console, s: dict[str, Any]) -> None:
    """Write what was exported and how it was verified, or why there is no file."""
    if "not_exported" in s:
        line(console, f"no file was written: {s['not_exported']}", "bold red")
        line(console, s["help"])
        return
    if s["passed"]:
        line(
            console,
            f"{s['path']}: {s['size']} bytes, opset {s['opset']}, IR {s['ir_version']}, "
            f"{'preprocessing inside, ' if s.get('preprocessing', True) else ''}"
            f"any batch size, sha256 {s['sha256'][:12]}",
        )
        if any(port["dtype"] == "string" for port in s["inputs"]):
            taken = [f"{label(port['name'])} ({port['dtype']})" for port in s["inputs"]]
            more = f" and {len(taken) - MOST_INPUTS} more" if len(taken) > MOST_INPUTS else ""
            line(console, f"inputs: {', '.join(taken[:MOST_INPUTS])}{more}")
        if words := s["verification"].get("words"):
            line(console, words["sentence"])
        if data := s.get("data"):
            line(console, f"its weights: {data['name']}, {data['size']} bytes, sha256 {data['sha256'][:12]}")
    else:
        line(console, "no file was written: it did not pass verification", "bold red")
    draw_verification(console, s["verification"], ROWS.get(s.get("rows_are", "held out"), "rows"))
    if s.get("golden"):
        line(console, f"golden vectors: {', '.join(s['golden'])}")
    if bundle := s.get("bundle"):
        signed = "signed" if bundle["signed"] else "unsigned"
        line(console, f"bundle: {bundle['path']}, {bundle['files']} files, {signed}; check it with verify.py inside")
    if s.get("variants"):
        draw_variants(console, s["variants"])


def draw_variants(console: Console, variants: Sequence[dict[str, Any]]) -> None:
    """Write what each smaller file is and loses."""
    table = plain_table("variant", "bytes", "of fp32", "SNR dB", "flips", "metric", "median µs", "fp32 µs")
    for v in variants:
        flipped = "" if v["flipped"] is None else f"{v['flipped']} of {v['rows']}"
        metric = "" if v["score"] is None else f"{v['score']:.3f} {v['score'] - v['score_fp64']:+.3f}"
        times = (f"{v['median_us']:.1f}", f"{v['median_us_fp32']:.1f}")
        size = (str(v["size"]), f"{v['size_ratio']:.2f}", f"{v['snr_db']:.0f}")
        table.add_row(v["name"], *size, flipped, metric, *times)
    console.print(table)
    line(
        console,
        "SNR: signal-to-noise ratio of the outputs; flips: decisions that change; metric: on the held-out rows, and "
        "its change; median: time for one row on one thread",
    )


def draw_golden(console: Console, s: dict[str, Any]) -> None:
    """Write how a runtime answered to the golden vectors."""
    line(console, f"{s['file']} in {s['runtime']} compared with its golden vectors, {s['rows']} rows")
    draw_verdicts(console, s["verdicts"], s["problems"])


def draw_verdicts(console: Console, verdicts: Sequence[dict[str, Any]], problems: Sequence[str]) -> None:
    for worst in verdicts:
        result, style = ("DIFFERS", "bold red") if worst["reason"] else ("agrees", "green")
        error = f"max error {eps(worst['error'])} eps, tolerance {eps(worst['allowed'])} eps"
        line(console, f"{worst['output']}: {result}, {error}", style)
    for problem in problems[:3]:
        line(console, problem, "bold red")


def draw_latency(console: Console, s: dict[str, Any]) -> None:
    """Write the time of single calls."""
    table = plain_table("call", "batch", "threads", "median µs", "p95", "p99")
    for t in s["times"]:
        microseconds = (f"{t[key]:.1f}" for key in ("median_us", "p95_us", "p99_us"))
        table.add_row(t["way"], str(t["batch"]), str(t["threads"]), *microseconds)
    console.print(table)
    line(console, f"{s['runtime']}; all {len(s['nodes'])} nodes ran on {s['provider']}")


def draw_targets(console: Console, s: dict[str, Any]) -> None:
    """Write the table of runtimes."""
    table = plain_table("target", "newest opset", "newest IR version")
    for row in s["targets"]:
        table.add_row(row["target"], str(row["opset"]), str(row["ir_version"]))
    console.print(table)


def draw_verification(console: Console, s: dict[str, Any], rows: str = "held-out rows") -> None:
    """Write how a file answered beside its model."""
    # Runs of older versions have batches alone and no names.
    sizes = [case["batch"] for case in s["cases"] if case.get("name", "batch").startswith("batch")]
    batches = ", ".join(str(size) for size in dict.fromkeys(sizes))
    line(
        console,
        f"ONNX Runtime {s['onnxruntime']} compared with the model on {s['rows']} {rows}, "
        f"in batches of {batches}, with graph optimisations off and on:",
    )
    draw_verdicts(console, s["worst"], s["problems"])
