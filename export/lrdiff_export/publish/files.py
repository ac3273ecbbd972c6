"""Giving files their names: all or nothing, the model last."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lrdiff_core.errors import InputError
from lrdiff_core.files import atomic_path
from lrdiff_export.onnx_file import external_data
from lrdiff_export.onnx_file.convert import Converted
from lrdiff_export.onnx_file.external_data import old_weights
from lrdiff_export.onnx_file.load import load_onnx
from lrdiff_export.verify.golden import earlier_golden_kept

__all__ = ["write_files", "staged"]


@contextmanager
def staged(final: Path, size: int) -> Iterator[Path | None]:
    """Give a model of ``size`` bytes past 2 GiB its name in a folder beside, gone afterwards; None to any smaller one.

    It is in the same file system, so that the very files that were verified there can be renamed.

    Example:
        >>> with staged(Path("model.onnx"), size=16) as beside:
        ...     beside is None
        True
    """
    if size <= external_data.ONE_FILE:
        yield None
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent)
    except OSError as problem:
        raise InputError(
            f"cannot write {final}: {problem.strerror}", help="name a folder that exists and that you may write to"
        ) from problem
    with folder as name:
        yield Path(name, final.name)


def write_files(files: Mapping[Path, bytes], converted: Converted) -> None:
    """Give all files their names: weights in a file of their own first, the model last, nothing where one fails.

    The weights' name is new, or that of the same bytes, so that an existing model keeps what it points to until it is
    replaced itself. Weights of models that are gone then go, too.
    """
    final, weights = next(iter(files)), converted.weights
    placed: Path | None = None
    if weights is not None and converted.folder is not None:
        proof = converted.folder / final.name
        _write_bytes(proof, files[final])
        load_onnx(proof)  # what lies on the disk, hash and all, is what was run
        placed = final.with_name(weights.name)
        known = placed.exists()
        _rename(converted.folder / weights.name, placed)
    try:
        with earlier_golden_kept(final):
            _write(files)
    except BaseException:
        if placed is not None and not known:
            placed.unlink()
        raise
    for path in old_weights(final, None if weights is None else weights.name):
        with suppress(OSError):  # it is in use, on Windows; weights that nobody names harm nobody
            path.unlink()


def _write(files: Mapping[Path, bytes]) -> None:
    """Write all files beside, then rename them, the first one last: what lies beside a model is there before it."""
    first, *others = files
    with atomic_path(first) as beside:
        _write_bytes(beside, files[first], name=first)
        if others:
            _write({path: files[path] for path in others})


def _write_bytes(path: Path, data: bytes, name: Path | None = None) -> None:
    try:
        path.write_bytes(data)
    except OSError as problem:
        raise InputError(f"cannot write {name or path}: {problem.strerror}", help="free some space there") from problem


def _rename(path: Path, final: Path) -> None:
    try:
        with atomic_path(final) as beside:
            os.replace(path, beside)
    except OSError as problem:
        raise InputError(
            f"cannot write {final}: {problem.strerror}", help="check what exists under that name"
        ) from problem
