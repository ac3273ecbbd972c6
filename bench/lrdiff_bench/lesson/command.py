"""``lrdiff lesson``: typer alone is imported before the command is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_lesson_command"]


def lesson(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The HTML file to write.")] = Path("lesson.html"),
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="The number of seeds on the page; fewer than 12 give no verdicts.")] = 20,
    with_runtime: Annotated[bool, typer.Option("--with-runtime", help="Put ONNX Runtime Web into the page (19 MB), to predict with it there.")] = False,
    docs: Annotated[str, typer.Option("--docs", metavar="WHERE", help="The documentation that the page links to: a folder beside it, or an address.")] = "docs",
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:  # fmt: skip
    """Write a page that trains the seed example in the browser: two sliders, the map, the path of a row."""
    from lrdiff_bench.lesson.data import LessonOptions, lesson_data
    from lrdiff_bench.lesson.page import lesson_page, runtime_parts
    from lrdiff_bench.report.page import as_given
    from lrdiff_core.files import write_text

    options = LessonOptions(seeds=seeds)
    runtime = runtime_parts() if with_runtime else None  # before the training: it may be missing
    write_text(out, lesson_page(lesson_data(options), command=as_given(), docs=docs, runtime=runtime))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB); open it in a browser, it needs no network")
    if open_:
        import webbrowser

        webbrowser.open(out.resolve().as_uri())


def add_lesson_command(app: typer.Typer) -> None:
    """Add ``lrdiff lesson``."""
    app.command("lesson")(lesson)
