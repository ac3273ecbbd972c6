"""The pages of docs/results written again from their records, which `make measure` keeps: nothing is measured.

::

    python -m benchmarks.results               # every page that has a record
    python -m benchmarks.results step parity   # these
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lrdiff_bench.report.record import read_record
from lrdiff_core.files import write_bytes, write_text

__all__ = ["PAGES", "RESULTS", "Page", "page_of", "record_of"]

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Page:
    """How a page follows from its record.

    Args:
        module: that writes it.
        spec: name there of the record's format and version.
        text: name there of the function from document to Markdown.
        pictures: module and function that draw into a folder, from its name and the document.
        beside: what the page is told of its place.
    """

    module: str
    spec: str
    text: str
    pictures: tuple[str, str] | None = None
    beside: Mapping[str, Any] | None = None

    def write(self, document: Document) -> str:
        """The page as Markdown."""
        found = _named(self.module, self.text)({**document, **(self.beside or {})})
        return str(found[0] if isinstance(found, tuple) else found)  # some say as well whether their bar is held


CASES = "lrdiff_bench.measure.cases"
PARITY = "lrdiff_bench.parity"
GUIDE = {"guide": True}
PAGES: Mapping[str, Page] = {
    "benchmarks": Page(module="lrdiff_bench.measure.page", spec="BENCHMARKS", text="records_page"),
    "boost": Page(module="benchmarks.boost.__main__", spec="BOOST", text="boost_page"),
    "clip": Page(module="benchmarks.overhead.clip", spec="CLIP", text="page"),
    "export-compare": Page(module="benchmarks.compare_exporters", spec="COMPARED", text="page"),
    "export-models": Page(module="benchmarks.export_models", spec="MODELS", text="page"),
    "export-mutations": Page(module="benchmarks.mutate_exports", spec="MUTATIONS", text="page"),
    "large": Page(module="benchmarks.overhead.large", spec="LARGE", text="page"),
    "optimizers": Page(module="benchmarks.optimizers_table", spec="OPTIMIZERS", text="page"),
    "parity": Page(module=f"{PARITY}.command", spec="PARITY", text="parity_page",
                   pictures=(f"{PARITY}.command", "write_parity"), beside=GUIDE),
    "population": Page(module=f"{CASES}.population_table", spec="POPULATION", text="population_page"),
    "shards": Page(module="benchmarks.overhead.shards", spec="SHARDS", text="page"),
    "state-formats": Page(module="benchmarks.state_formats.cost", spec="FORMATS", text="page"),
    "step": Page(module=f"{CASES}.step_table", spec="STEP", text="step_page",
                 pictures=("lrdiff_bench.measure.pictures", "draw_roofline")),
    "step-busy": Page(module=f"{CASES}.step_table", spec="STEP", text="step_page",
                      pictures=("lrdiff_bench.measure.pictures", "draw_roofline"),
                      beside={"picture": "step-busy-roofline"}),
    "step-check": Page(module="benchmarks.overhead.step_check", spec="CHECK", text="page"),
    "tables": Page(module="benchmarks.tables.__main__", spec="TWENTY", text="tables_page"),
    "training": Page(module=f"{CASES}.training_table", spec="TRAINING", text="training_page"),
    "training-busy": Page(module=f"{CASES}.training_table", spec="TRAINING", text="training_page"),
    "training-parity": Page(module=f"{PARITY}.training_command", spec="TRAINING_PARITY", text="training_parity_page",
                            pictures=(f"{PARITY}.training_command", "write_training_parity"), beside=GUIDE),
    "tune": Page(module="benchmarks.tune_rates", spec="TUNE", text="tune_page"),
}  # fmt: skip
"""By name: ``docs/results/NAME.md`` from ``docs/results/records/NAME.json`` (or ``.json.gz``)."""


def record_of(name: str) -> Path | None:
    """The record of a page; None where it has none."""
    files = [RESULTS / "records" / f"{name}{ending}" for ending in (".json", ".json.gz")]
    return next((file for file in files if file.is_file()), None)


def page_of(name: str, file: Path) -> tuple[Document, str]:
    """A record and the page that follows from it.

    Raises:
        CheckpointError: it is damaged, or of another version.
    """
    page = PAGES[name]
    document = read_record(file, **_named(page.module, page.spec))
    return document, page.write(document)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, and their pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PAGE", help=f"some of: {', '.join(PAGES)}")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in PAGES]
    if unknown:
        parser.error(f"no page {unknown[0]}; there are: {', '.join(PAGES)}")
    for name in given.names or PAGES:
        file = record_of(name)
        if file is None:
            print(f"{name}: no record, left as it is (make measure)")
            continue
        document, text = page_of(name, file)
        write_text(RESULTS / f"{name}.md", text)
        drawn = PAGES[name].pictures
        if drawn is not None:
            _draw(partial(_named(*drawn), document={**document, **(PAGES[name].beside or {})}))
        print(f"{name}: written from {file.name}")
    return 0


def _draw(write: Callable[[Path], object]) -> None:
    """Put the pictures of a page beside it, of those kinds that the repository keeps."""
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch))
        for file in Path(scratch).glob("*.png"):
            write_bytes(RESULTS / file.name, file.read_bytes())


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    sys.exit(main())
