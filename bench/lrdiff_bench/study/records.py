"""Finished studies as small files that are kept: what a page needs, without the single points of the searches.

A storage of trials is large and lies where a study ran. A record is a few dozen kilobytes and can be committed, so that
a page grows study by study, on more than one machine, and can be written again without training anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrdiff_bench.report.json import json_ready
from lrdiff_bench.report.record import read_record, write_record
from lrdiff_bench.study.analysis.document import FORMAT
from lrdiff_core.errors import CheckpointError, ConfigError

__all__ = ["as_recorded", "keep_records", "read_records"]

ENDING = ".json.gz"
DIGITS = 7  # of a number in a record: float32 has no more
HELP = "remove it, and write it again from its study: lrdiff study export NAME --records FOLDER"


def keep_records(documents: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the record of every study, in place of an earlier one of the same name.

    Args:
        documents: of finished studies.
        folder: for the records; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents:
        schemes = [{key: value for key, value in one.items() if key != "points"} for one in document["schemes"]]
        write_record(folder / f"{document['name']}{ENDING}", as_recorded({**document, "schemes": schemes}))


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder, study by name; none where there is no such folder.

    Raises:
        ConfigError: ``folder`` is a file.
        CheckpointError: a file there is no record of a study by this protocol.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file", help="name a folder for the records")
    found = {}
    for file in sorted(folder.glob(f"*{ENDING}")):
        document = read_record(file, format=FORMAT, version=None, help=HELP)
        if file.name != f"{document.get('name')}{ENDING}":  # pictures are called by it
            raise CheckpointError(f"{file} is the record of another study: {document.get('name')}", help=HELP)
        found[document["name"]] = document
    return found


def as_recorded(part: Mapping[str, Any]) -> dict[str, Any]:
    """A document, or a part of one, as a record has it.

    Example:
        >>> as_recorded({"ratios": (1 / 2.6, 1.0)})
        {'ratios': [0.3846154, 1.0]}
    """
    ready: dict[str, Any] = _rounded(json_ready(part))
    return ready


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
