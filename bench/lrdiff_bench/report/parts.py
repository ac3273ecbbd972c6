"""The page that ``lrdiff report`` and ``lrdiff run`` write: a part for each folder, every finding at its head."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lrdiff_bench.report.html import fill_html, html_page
from lrdiff_core import __version__
from lrdiff_core.files import write_text

__all__ = ["Part", "fill_part", "report_html", "versions", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one folder adds to a page."""

    title: str
    finding: str
    body: Markup
    rates: str = ""  # to be copied: what a user pastes into code or a settings file
    scripts: Sequence[str] = field(default=())  # of the templates folder, beside report.js


def fill_part(template: str, /, **values: Any) -> Markup:
    """Fill the template of a part; values are escaped, and one that is named and not given is an error."""
    return Markup(fill_html(template, **values))


def report_html(parts: Sequence[Part], *, title: str, made_by: str) -> str:
    """The whole page.

    Args:
        parts: in the order in which they stand.
        title: of the page.
        made_by: the command that wrote it, and versions.

    Example:
        >>> text = report_html([Part(title="A <b>", finding="", body=Markup("<p>x</p>"))], title="T", made_by="")
        >>> "A &lt;b&gt;" in text, "default-src" in text
        (True, True)
    """
    scripts = dict.fromkeys(["report.js", *(name for part in parts for name in part.scripts)])
    return html_page(
        "report.html",
        styles=[_source("report.css")],
        scripts=list(map(_source, scripts)),
        parts=parts,
        title=title,
        made_by=made_by,
    )


def write_report(file: Path, parts: Sequence[Part], *, title: str, command: str) -> None:
    """Write the page, whole or not at all."""
    write_text(file, report_html(parts, title=title, made_by=f"Written by {command}; {versions()}."))


def versions() -> str:
    """What a page was made with."""
    import torch

    return f"lrdiff {__version__}, torch {torch.__version__}, Python {platform.python_version()}"


@cache
def _source(name: str) -> str:
    return files("lrdiff_bench.report").joinpath("templates", name).read_text("utf-8")
