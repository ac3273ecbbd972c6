"""How a split, and what folds have, are written: on the screen and on a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrdiff_bench.report.tables import label

__all__ = ["split_text", "spread_text"]

PARTS = ("train", "validation", "test")


def split_text(split: dict[str, Any], task: str) -> list[str]:
    """What a split is, a paragraph each: how rows were drawn, how many each part has, where time is cut.

    Example:
        >>> split_text({"train": 7, "validation": 1, "test": 2, "kind": "random"}, "regression")
        ['split: 7 train, 1 validation, 2 test']
    """
    kind = split.get("kind", "random" if task == "regression" else "stratified")  # older runs have none
    column = label(split["column"]) if "column" in split else ""
    ways = {
        "random": "",
        "stratified": ", stratified",
        "groups": f" by groups of {column}, none in two parts",
        "drawn": " of the sample, by the place of each row",
        "time": f" by time {column}, the same for every seed",
    }
    groups = split.get("groups")
    sizes = [
        f"{split[part]} {part}" + (f" ({groups[part]} group{'' if groups[part] == 1 else 's'})" if groups else "")
        for part in PARTS
    ]
    said = [f"split{ways[kind]}: {', '.join(sizes)}"]
    if times := split.get("times"):
        said.append("; ".join(f"{part} {times[part][0]} to {times[part][1]}" for part in PARTS))
    if "test_file" in split:
        said.append(f"the test rows, and no others, are those of {split['test_file']}")
    return said


def spread_text(spread: Mapping[str, float]) -> str:
    """Mean and standard deviation.

    Example:
        >>> spread_text({"mean": 0.98765, "sd": 0.0123})
        '0.988 ± 0.01'
    """
    return f"{spread['mean']:.3g} ± {spread['sd']:.1g}"
