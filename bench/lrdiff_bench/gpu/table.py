"""The table of ``make gpu``, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["markdown"]

WORDS = {"held": "held", "failed": "**failed**", "told": "", "missing": "not here"}


def markdown(document: Mapping[str, Any]) -> str:
    """Return the document as Markdown: where the numbers come from, then a table a part.

    Args:
        document: as in ``gpu.json``.
    """
    machine, versions = document["machine"], document["versions"]
    lines = [
        "# What an accelerator was seen to do",
        "",
        f"`{document['command']}`" + (", quick: the smallest sizes, no figures to quote" if document["quick"] else ""),
        "",
        f"- device: {machine['device']} ({machine['name']})",
        f"- machine: {machine['cpu']}, {machine['cpus']} CPUs, {machine['system']}",
        f"- versions: {', '.join(f'{name} {text}' for name, text in versions.items())}",
        f"- commit: {document['commit']}",
        f"- took {document['seconds']:.0f} s; {'everything held' if document['passed'] else 'something failed'}",
    ]
    if document["missing"]:
        lines.append(f"- not installed, so left out: {'; '.join(document['missing'])}")
    for part in document["parts"]:
        rows = part["rows"]
        counts = {word: sum(row["result"] == word for row in rows) for word in WORDS}
        lines += ["", f"## {part['title']}", ""]
        summary = f"{counts['held']} held, {counts['failed']} failed, {counts['missing']} not here"
        lines.append(f"{summary}; {part['seconds']:.0f} s of {part['allowed_seconds']:.0f}")
        if part["reason"]:
            lines += ["", f"**failed**: {_cell(part['reason'])}"]
        if rows:
            lines += ["", "| what | | measured | |", "|---|---|---|---|"]
            for row in rows:
                cells = [row["what"], WORDS[row["result"]], row["value"], row["note"]]
                lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
