"""``lrdiff report``: whatever the folders hold, joined into one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lrdiff_bench.report import parts
from lrdiff_bench.report.page import as_given
from lrdiff_core.errors import CheckpointError, InputError

__all__ = ["KINDS", "parts_of", "write_report"]

HELP = "name folders of runs, maps, studies, benchmark records or parity results, or rates.json"


def write_report(folders: Sequence[Path], out: Path | None) -> Path:
    """Write one page of all folders.

    Args:
        folders: of any kind, in the order in which they stand on the page.
        out: the file; left out, ``report.html`` in the only folder, or here.

    Returns:
        The file.

    Raises:
        InputError: a folder that does not exist or holds nothing that can be shown.
        CheckpointError: one that is damaged, not finished or of another version.
    """
    found = [part for folder in folders for part in parts_of(folder)]
    if out is None:
        out = folders[0] / "report.html" if len(folders) == 1 and folders[0].is_dir() else Path("report.html")
    title = found[0].title if len(found) == 1 else "Report"
    from lrdiff_bench.system.manifest import rewriting

    with rewriting(out.parent, out.name):
        parts.write_report(out, found, title=title, command=as_given())
    return out


def parts_of(folder: Path) -> list[parts.Part]:
    """What a folder adds to a page.

    Raises:
        InputError: it does not exist, or holds nothing that can be shown.
        CheckpointError: it lacks something.
    """
    if not folder.exists():
        raise InputError(f"there is no {folder}", help=HELP)
    for holds, read in KINDS:
        if holds(folder):
            try:
                return read(folder)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
                raise CheckpointError(
                    f"{folder} lacks what a report shows: {type(problem).__name__}: {problem}", help="make it anew"
                ) from problem
    raise InputError(f"{folder} holds nothing that a report can show", help=HELP)


def _run(folder: Path) -> list[parts.Part]:
    from lrdiff_bench.rates.command import read_plan
    from lrdiff_bench.run.section import run_part
    from lrdiff_bench.system.run_folder import read_summary

    summary = read_summary(folder)
    if "metrics" in summary.get("missing", []):
        raise CheckpointError(
            f"the training of {folder} was interrupted", help=f"lrdiff run --resume {folder} goes on with it"
        )
    return [run_part(summary, read_plan(folder), str(folder))]


def _map(folder: Path) -> list[parts.Part]:
    from lrdiff_bench.maps.section import map_part
    from lrdiff_bench.maps.store import open_map

    return [map_part(open_map(folder), str(folder))]


def _studies(folder: Path) -> list[parts.Part]:
    from lrdiff_bench.study.analysis.document import FORMAT, suite_of
    from lrdiff_bench.study.section import study_part, suite_part

    files = [folder / "study.json"] if (folder / "study.json").is_file() else sorted(folder.glob("*/study.json"))
    documents = [_study(file, FORMAT) for file in files]
    suite = suite_of(documents)
    return [*([] if suite is None else [suite_part(documents, suite)]), *map(study_part, documents)]


def _study(file: Path, format: str) -> dict[str, Any]:
    from lrdiff_bench.system.manifest import check_seal

    help = "write it anew with the same `lrdiff study`"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}", help=help) from problem
    if not isinstance(document, dict) or document.get("format") != format:
        raise CheckpointError(f"{file} is not of this version", help=help)
    check_seal(document, file, help=help)
    return document


def _benchmarks(folder: Path) -> list[parts.Part]:
    from lrdiff_bench.measure.engine.store import read_run, run_files
    from lrdiff_bench.measure.section import bench_part

    files = [folder] if folder.is_file() else run_files(folder)
    return [bench_part([records for file in files if (records := read_run(file))], folder.name)]


def _parity(folder: Path) -> list[parts.Part]:
    from lrdiff_bench.parity.section import parity_part, training_parity_part
    from lrdiff_bench.system.manifest import check_seal
    from lrdiff_bench.system.run_folder import read_document

    found = []
    for name, format, version, part in (
        ("parity.json", "lrdiff.parity", 2, parity_part),
        ("training-parity.json", "lrdiff.training_parity", 1, training_parity_part),
    ):
        if (folder / name).is_file():
            document = read_document(folder / name, format=format, version=version, what="of lrdiff parity", help=HELP)
            check_seal(document, folder / name, help="write it anew with the same `lrdiff parity`")
            found.append(part(document, folder.name))
    return found


def _plan(file: Path) -> list[parts.Part]:
    from lrdiff_bench.rates.command import read_plan
    from lrdiff_bench.run.section import plan_part

    return [plan_part(read_plan(file), file.stem)]


KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path], list[parts.Part]]], ...] = (
    (lambda path: (path / "summary.json").is_file(), _run),
    (lambda path: (path / "map.json").is_file() or path.suffix == ".zarr", _map),
    (lambda path: (path / "study.json").is_file() or any(path.glob("*/study.json")), _studies),
    (lambda path: path.suffix == ".jsonl" or any(path.glob("*.jsonl")), _benchmarks),
    (lambda path: (path / "parity.json").is_file() or (path / "training-parity.json").is_file(), _parity),
    (lambda path: path.suffix == ".json" and path.is_file(), _plan),
)
