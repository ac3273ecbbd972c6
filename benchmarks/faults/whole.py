"""Whether every file under a final name is whole, told by reading it."""

from __future__ import annotations

import json
import sqlite3
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["half_files", "left_beside"]

_KEPT = {".zgroup", ".zattrs", ".zarray", ".zmetadata", ".zmanifest"}  # hidden and meant to stay


def half_files(folder: Path) -> list[str]:
    """Files under final names that cannot be read as what they are."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not _is_beside(file, folder) and file.suffix in _READERS:
            try:
                _READERS[file.suffix](file)
            except Exception as problem:  # noqa: BLE001 - whatever a reader says of half a file
                found.append(f"{file.relative_to(folder)}: {type(problem).__name__} {problem}"[:200])
    return found


def left_beside(folder: Path) -> list[str]:
    """Hidden files that a command works on and takes away again."""
    return sorted(str(one.relative_to(folder)) for one in folder.rglob(".*") if one.name not in _KEPT)


def _is_beside(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _model(file: Path) -> None:
    import onnx

    from lrdiff_export.onnx_file.external_data import sha256_of
    from lrdiff_export.verify.golden import read_golden

    onnx.load(file)
    if read_golden(file).model_sha256 != sha256_of(file):
        raise ValueError("its golden vectors are another model's")


def _tensors(file: Path) -> None:
    import safetensors

    with safetensors.safe_open(file, framework="np") as opened:
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            opened.get_slice(name)


def _zip(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        if (name := archive.testzip()) is not None:
            raise ValueError(name)


def _database(file: Path) -> None:
    with sqlite3.connect(file) as opened:
        (said,) = opened.execute("PRAGMA integrity_check").fetchone()
    opened.close()
    if said != "ok":
        raise ValueError(said)


def _ends_with(end: bytes) -> Callable[[Path], None]:
    def check(file: Path) -> None:
        if not file.read_bytes().rstrip().endswith(end):
            raise ValueError("its end is missing")

    return check


def _lines(file: Path) -> None:
    for line in file.read_bytes().split(b"\n")[:-1]:  # a line without its end has never been a record
        json.loads(line)


_READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda file: json.loads(file.read_text()),
    ".jsonl": _lines,
    ".toml": lambda file: tomllib.loads(file.read_text()),
    ".safetensors": _tensors,
    ".npz": _zip,
    ".onnx": _model,
    ".db": _database,
    ".parquet": _ends_with(b"PAR1"),
    ".png": _ends_with(b"IEND\xaeB`\x82"),
    ".svg": _ends_with(b"</svg>"),
    ".html": _ends_with(b"</html>"),
}
