"""Finished studies as small files that are kept: what a page needs, without the single points of the searches.

A storage of trials is large and lies where a study ran. A record is a few dozen kilobytes and can be committed, so that
a page grows study by study, on more than one machine, and can be written again without training anything.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrdiff_bench.report.json import json_ready
from lrdiff_core.errors import CheckpointError, ConfigError
from lrdiff_core.files import is_whole, sealed, unsealed, write_bytes

__all__ = ["keep_records", "read_records"]

ENDING = ".json.gz"
_DAMAGED = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError)
DIGITS = 7  # of a number in a record: float32 has no more


def keep_records(documents: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the record of every study, in place of an earlier one of the same name.

    Args:
        documents: of finished studies.
        folder: for the records; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents:
        schemes = [{key: value for key, value in one.items() if key != "points"} for one in document["schemes"]]
        record = sealed(_rounded(json_ready({**document, "schemes": schemes})))
        text = json.dumps(record, separators=(",", ":"))
        write_bytes(folder / f"{document['name']}{ENDING}", gzip.compress(text.encode(), mtime=0))


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder, study by name; none where there is no such folder.

    Raises:
        ConfigError: ``folder`` is a file.
        CheckpointError: a file there is no record.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file", help="name a folder for the records")
    found = {}
    for file in sorted(folder.glob(f"*{ENDING}")):
        try:
            document = json.loads(gzip.decompress(file.read_bytes()))
            if is_whole(document) is False:  # earlier ones have gzip's own checksum alone
                raise ValueError("it was changed after it was written")
            if file.name != f"{document['name']}{ENDING}":  # pictures are called by it
                raise ValueError("its name is another one")
            found[str(document["name"])] = unsealed(document)
        except _DAMAGED as problem:
            raise CheckpointError(
                f"{file} is no record of a study: {problem}",
                help="remove it, and write it again from its study: lrdiff study export NAME --records FOLDER",
            ) from problem
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
