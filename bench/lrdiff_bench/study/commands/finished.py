"""Studies that are there: listed, shown, traced, and written as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.page import as_given
from lrdiff_bench.report.tables import line, make_console, plain_table
from lrdiff_bench.study import screen
from lrdiff_bench.study.analysis.document import suite_of
from lrdiff_bench.study.folder import DEFAULT_FOLDER, list_names, list_studies, read_study
from lrdiff_bench.study.records import keep_records, read_records
from lrdiff_bench.study.search.optuna_storage import default_url, hidden
from lrdiff_core.errors import ConfigError
from lrdiff_core.files import write_text
from lrdiff_core.text import nearest

__all__ = ["FORMAT", "export", "ls", "show", "verdict"]

FORMAT = "lrdiff studies 1"


def ls(*, storage: str | None, out: Path | None, json: bool) -> int:
    """List what can be studied, and the studies that are there."""
    from lrdiff_bench.study.workloads.registry import make_workload, workload_names

    workloads: list[dict[str, Any]] = [
        {
            "name": w.name,
            "title": w.title,
            "question": w.question,
            "label": w.label,
            "schemes": [s.name for s in w.schemes],
        }
        for w in map(make_workload, workload_names())
    ]
    folder = out or DEFAULT_FOLDER
    there = storage is not None or (folder / "studies.db").is_file()
    studies = list_studies(storage or default_url(folder)) if there else []
    if json:
        print_json({"format": FORMAT, "workloads": workloads, "studies": studies})
        return 0
    console = make_console()
    table = plain_table("workload", "why")
    table.columns[1].header = "question"
    for one in workloads:
        label = f" ({one['label']})" if one["label"] else ""
        table.add_row(f"{one['name']}{label}", Text(one["question"]))
    console.print(table)
    console.print()
    if studies:
        table = plain_table("study", "trials", "result")
        for one in studies:
            mode = "" if one["mode"] == "full" else f" {one['mode'].upper()}"
            table.add_row(one["name"], str(one["trials"]), f"{one['state']}{mode}")
        console.print(table)
    else:
        line(console, "no studies yet; begin with: lrdiff study NAME --quick")
    return 0


def show(names: Sequence[str], *, storage: str | None, out: Path | None, json: bool) -> int:
    """Show finished studies again, computed from their trials."""
    documents = _documents(names, storage, out)
    suite = suite_of(documents)
    if json:
        print_json({"format": FORMAT, "studies": documents, "suite": suite})
        return 0
    console = make_console()
    for document in documents:
        screen.draw_study(console, document)
    if suite is not None:
        screen.draw_suite(console, documents, suite)
    return 0


def verdict(name: str, *, storage: str | None, out: Path | None, json: bool) -> int:
    """Show where a verdict comes from, down to the trials in the storage."""
    url = storage or default_url(out or DEFAULT_FOLDER)
    document = read_study(url, name, curves=False)
    if json:
        print_json(document)
        return 0
    screen.draw_trace(make_console(), document, storage=hidden(url))
    return 0


def export(
    names: Sequence[str],
    *,
    to: Path,
    storage: str | None,
    source: Path | None,
    records: Path | None = None,
    against: Path | None = None,
    pictures: bool,
    title: str,
) -> int:
    """Write finished studies as one page with its pictures beside it, and those whose records are kept."""
    from lrdiff_bench.study.again import again
    from lrdiff_bench.study.page import studies_page
    from lrdiff_bench.study.pictures import draw_document, draw_suite_pictures

    if to.suffix != ".md":
        raise ConfigError(f"--out is {to}", help="name a Markdown file, such as docs/results/convergence.md")
    if not to.parent.is_dir():
        raise ConfigError(f"there is no folder {to.parent}", help="make it, or name another file")
    documents = (
        _documents(names, storage, source) if records is None else _with_records(names, storage, source, records)
    )
    repeated = None if against is None else again(documents, read_records(against))
    suite = suite_of(documents)
    files: list[Path] = []
    if pictures:
        prefix = f"{to.stem}-"
        files += draw_suite_pictures(documents, suite, to.parent, prefix)
        for document in documents:
            files += draw_document(document, to.parent, prefix)
    write_text(to, studies_page(documents, suite, files, as_given(), title=title, repeated=repeated))
    console = make_console()
    line(console, f"{to}: {len(documents)} {'study' if len(documents) == 1 else 'studies'}, {len(files)} pictures")
    return 0


def _with_records(
    names: Sequence[str], storage: str | None, source: Path | None, records: Path
) -> list[dict[str, Any]]:
    """Finished studies of the storage, which are kept as records now, and those that were kept before."""
    kept = read_records(records)
    url = storage or default_url(source or DEFAULT_FOLDER)
    there = list_names(url) if storage is not None or not kept or _has_storage(source) else []
    if unknown := [name for name in names if name not in there and name not in kept]:
        raise ConfigError(f'there is no study "{unknown[0]}"', help=nearest(unknown[0], [*there, *kept], "studies"))
    wanted = [name for name in names if name in there]
    fresh = _documents(wanted, storage, source) if wanted or (there and not names) else []
    if fresh:
        keep_records(fresh, records)
        kept = read_records(records)  # not what was just computed: a page written again must be the same
    return [kept[name] for name in dict.fromkeys(names or sorted(kept))]


def _has_storage(source: Path | None) -> bool:
    return ((source or DEFAULT_FOLDER) / "studies.db").is_file()


def _documents(names: Sequence[str], storage: str | None, out: Path | None) -> list[dict[str, Any]]:
    url = storage or default_url(out or DEFAULT_FOLDER)
    if not names:
        found = [one for one in list_studies(url) if one["state"] != "not finished"]
        # without names: the full studies, or all that there are where there is no full one
        full = [one["name"] for one in found if one["mode"] == "full"]
        names = full or [one["name"] for one in found]
        if not names:
            raise ConfigError("there is no finished study", help="run one: lrdiff study NAME --quick")
    return [read_study(url, name) for name in dict.fromkeys(names)]
