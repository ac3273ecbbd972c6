"""Records of pages: the document that a page is written from, kept, so that it can be written again by itself.

``--record FILE`` keeps it, ``--from FILE`` reads it in place of measuring; :class:`PageFiles` is both, for all that
writes a page of ``docs/results``. A record is sealed: one that was edited is refused.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrdiff_bench.report.json import json_ready
from lrdiff_bench.system.manifest import check_seal
from lrdiff_bench.system.run_folder import read_document
from lrdiff_core.errors import InputError
from lrdiff_core.files import sealed, unsealed, write_bytes, write_text

__all__ = ["NO_FILES", "PageFiles", "add_page_options", "read_record", "write_record"]

HELP = "write it again with --record, by the command that measures"


@dataclass(frozen=True, kw_only=True)
class PageFiles:
    """Where a page comes from and where it goes.

    Args:
        out: the page.
        record: to keep the document in.
        source: a record to read in place of measuring.

    Raises:
        InputError: a folder to write into is not there; said before the hours that measuring may take.
    """

    out: Path | None = None
    record: Path | None = None
    source: Path | None = None

    def __post_init__(self) -> None:
        for file in (self.out, self.record):
            if file is not None and not file.parent.is_dir():
                raise InputError(f"cannot write {file}: no folder {file.parent}", help="make the folder first")

    @classmethod
    def of(cls, given: argparse.Namespace) -> PageFiles:
        """Of the options of :func:`add_page_options`."""
        return cls(out=given.out, record=given.record, source=given.source)

    def document(self, measure: Callable[[], Mapping[str, Any]], *, format: str, version: int) -> dict[str, Any]:
        """The document: read, or measured and kept.

        Args:
            measure: gives what the page tells, its ``command`` and :func:`~lrdiff_bench.system.machine.provenance`.
            format, version: of the document.
        """
        if self.source is not None:
            return read_record(self.source, format=format, version=version)
        return self.keep({"format": format, "version": version, **measure()})

    def keep(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a document where a record is asked for; returns it as it is read again."""
        ready: dict[str, Any] = json_ready(document)
        if self.record is not None:
            write_record(self.record, ready)
        return ready

    def write(self, text: str) -> None:
        """Write the page, where a file is named for it, and say so."""
        if self.out is not None:
            write_text(self.out, text)
            print(f"wrote {self.out}", file=sys.stderr)


NO_FILES = PageFiles()


def write_record(file: Path, document: Mapping[str, Any]) -> None:
    """Write a record, a row of its tables on a line; compressed where the name ends with ``.gz``."""
    data = _text(sealed(document)).encode()
    write_bytes(file, gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)


def read_record(file: Path, *, format: str, version: int | None, help: str = HELP) -> dict[str, Any]:
    """Read a record.

    Args:
        file: as :func:`write_record` wrote it.
        format, version: that it must have; no version where the format's name holds it.
        help: what to do where it is not that.

    Raises:
        CheckpointError: it is missing, damaged, changed, or of something else.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "speed.json")
        >>> write_record(file, {"format": "speed", "version": 1, "rows": [{"seconds": 0.5}]})
        >>> read_record(file, format="speed", version=1)["rows"]
        [{'seconds': 0.5}]
    """
    document = read_document(file, format=format, version=version, what=f"a record of {format}", help=help)
    check_seal(document, file, help=help)
    return unsealed(document)


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """Give a tool the options ``--out``, ``--record`` and ``--from``, for :meth:`PageFiles.of`."""
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the page here")
    parser.add_argument("--record", type=Path, metavar="FILE.json", help="keep what was measured here")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE.json", help="measure nothing: the page of this record"
    )


def _text(document: Mapping[str, Any]) -> str:
    r"""JSON that a difference can be read in.

    Example:
        >>> print(_text({"commit": "abc", "rows": [{"a": 1}, {"a": 2}]}), end="")
        {
        "commit": "abc",
        "rows": [
         {"a": 1},
         {"a": 2}
        ]
        }
    """
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            told = "[\n " + ",\n ".join(json.dumps(one, allow_nan=False) for one in value) + "\n]"
        else:
            told = json.dumps(value, allow_nan=False)
        parts.append(f"{json.dumps(key)}: {told}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
