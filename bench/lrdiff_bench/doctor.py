"""``lrdiff doctor``: what can be used here, and why not."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from rich.text import Text

from lrdiff_bench.report.tables import make_console, plain_table
from lrdiff_core import __version__
from lrdiff_core.errors import UnavailableError

__all__ = ["diagnose", "draw"]

LIBRARIES = (
    "numpy", "safetensors", "scikit-learn", "polars", "pydantic", "typer", "rich", "matplotlib",
)  # fmt: skip


def diagnose() -> dict[str, Any]:
    """Return versions, devices, threads, compiler and runtimes as a JSON-ready document.

    Example:
        >>> report = diagnose()
        >>> [row["name"] for row in report["entries"]][:2]
        ['lrdiff', 'python']
    """
    from lrdiff_bench.measure.asv_config import asv_config_entry
    from lrdiff_export import describe_runtimes

    entries = [{"name": "lrdiff", "version": __version__, "detail": "", "reason": None, "available": True}]
    entries += [entry.to_dict() for entry in describe_runtimes()]
    entries += _step_entries()
    entries.append(asv_config_entry())
    for name in LIBRARIES:
        entries.append(
            {"name": name, "version": metadata.version(name), "detail": "", "reason": None, "available": True}
        )
    entries += [_maps_entry(), _pretrained_entry()]
    return {"format": "lrdiff.doctor", "version": 1, "entries": entries}


def _step_entries() -> list[dict[str, Any]]:
    """How our optimizers step on a CPU, and check before a step that all is as it was."""
    from lrdiff_core.optim import guard, kernel

    no_kernel, no_check = kernel.missing_reason(), guard.missing_reason()
    if no_check and not no_kernel:
        no_check += "; it is made in Python, slower"
    rows = (
        ("optimizer kernel", no_kernel, f"one pass over all rates; {kernel.origin()}"),
        ("check of a step", no_check, "compiled against this torch"),
    )
    return [
        {"name": name, "version": None, "detail": "" if reason else detail, "reason": reason, "available": not reason}
        for name, reason, detail in rows
    ]


def _maps_entry() -> dict[str, Any]:
    """What `lrdiff map` needs beside the rest."""
    from lrdiff_bench.maps.pool import LIBRARIES as NEEDED, unavailable_reason

    reason = unavailable_reason()
    detail = "" if reason else ", ".join(f"{name} {metadata.version(name)}" for name in NEEDED)
    return {"name": "maps", "version": None, "detail": detail, "reason": reason, "available": reason is None}


def _pretrained_entry() -> dict[str, Any]:
    """What `lrdiff study minilm` needs beside the rest."""
    from lrdiff_bench.study.workloads.parts.minilm_files import find_pretrained
    from lrdiff_bench.study.workloads.parts.minilm_material import tokenizers_module

    reason, detail = None, ""
    try:
        tokenizers_module()
        detail = str(find_pretrained())
    except UnavailableError as problem:
        reason = f"{problem.message}: {problem.help}"
    return {"name": "pretrained", "version": None, "detail": detail, "reason": reason, "available": reason is None}


def draw(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    table = plain_table("what", "result", "version", "why")
    for entry in report["entries"]:
        mark = Text("ok", style="green") if entry["available"] else Text("no", style="yellow")
        table.add_row(entry["name"], mark, entry["version"] or "", entry["reason"] or entry["detail"])
    make_console().print(table)
