"""The documentation as a site: ``make docs``. Fills ``build/docs`` and runs Zensical over it; a broken link fails.

Pages are the Markdown of ``docs/``. References are made from the code: every command and option from the parser, every
setting from its model, every public name from its docstring; one without a docstring fails the build.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "docs"
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PACKAGES = {
    "lrdiff_core": "Train: data, settings, models, rate plans, optimizers, checkpoints.",
    "lrdiff_core.rates": "Which parameter learns how fast.",
    "lrdiff_core.optim": "Optimizers that step all rates in one pass.",
    "lrdiff_core.schedules": "How rates move during a training.",
    "lrdiff_core.audit": "Is the rate that was asked for the rate that is applied?",
    "lrdiff_core.population": "Thousands of small models trained at once.",
    "lrdiff_core.integrations": "Callbacks for Lightning and the Hugging Face Trainer.",
    "lrdiff_core.errors": "The tree of exceptions.",
    "lrdiff_export": "Ship: verified ONNX, golden vectors, parity of predictions and of training.",
    "lrdiff_bench": "Measure: the main job and its comparison with single rates.",
    "lrdiff_bench.maps": "The loss over every pair of two rates.",
    "lrdiff_bench.study": "Does it help to train at different rates?",
    "lrdiff_bench.study.tune": "Rates for a model, with proof.",
}


def main() -> int:
    """Build the site and return the exit status."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    OUT.mkdir(parents=True)
    copy_pages()
    write("reference/commands.md", commands())
    write("reference/settings.md", settings())
    for package, text in api_pages().items():
        write(f"reference/api/{package}.md", text)
    live_pages()
    site = [Path(sys.executable).with_name("zensical"), "build", "--strict", "--config-file", ROOT / "mkdocs.yml"]
    return subprocess.run(site, cwd=ROOT, check=False).returncode


def write(name: str, text: str) -> None:
    """Write one page."""
    file = OUT / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def copy_pages() -> None:
    """The Markdown and pictures of the project; links that leave ``docs/`` lead to their copies, or become code."""
    for source in sorted((ROOT / "docs").rglob("*")):
        if source.suffix in (".png", ".svg", ".yml"):
            target = OUT / source.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        elif source.suffix == ".md":
            name = source.relative_to(ROOT / "docs")
            text = relinked(source, name)
            if name == Path("gallery.md"):  # in the repository there are no such files to link to
                text = text.replace("| the lesson:", "| [the lesson](lesson.html):").replace(
                    "| the report", "| [the report](report.html)"
                )
            write(str(name), text)
    for source in ("CONTRIBUTING.md", "CHANGELOG.md"):
        write(OUTSIDE[source], relinked(ROOT / source, Path(OUTSIDE[source])))


def relinked(source: Path, page: Path) -> str:
    """The text of a page with its links as they are in the site."""

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        if target.startswith("http") or not target:
            return match[0]
        file = (source.parent / target).resolve()
        if file.is_relative_to(ROOT / "docs") and file.is_file():
            return f"[{text}]({upwards(page)}{file.relative_to(ROOT / 'docs')}{anchor})"
        inside = str(file.relative_to(ROOT))
        return f"[{text}]({upwards(page)}{OUTSIDE[inside]}{anchor})" if inside in OUTSIDE else f"{text} (`{inside}`)"

    return re.sub(r"\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)", link_or(link), source.read_text(encoding="utf-8"))


def link_or(link: Any) -> Any:
    """A link without an anchor has None there."""
    return lambda match: link(match).replace("None)", ")") if match[3] is None else link(match)


def upwards(page: Path) -> str:
    """The way from a page to the root of the site."""
    return "../" * (len(page.parts) - 1)


def commands() -> str:
    """The reference of all commands, from the parser itself."""
    from lrdiff_bench.cli import app

    lines = ["# Commands", "", "Made from the parser; `lrdiff COMMAND --help` says the same.", ""]
    for path, command in leaves(typer.main.get_command(app), "lrdiff"):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
        usage = " ".join([path, *("[OPTIONS]" for _ in options[:1]), *(p.metavar or p.name.upper() for p in arguments)])
        lines += [f"## {path}", "", inspect.cleandoc(command.help or ""), "", "```text", usage, "```", ""]
        rows = [(p.metavar or p.name.upper(), "", p.help) for p in arguments]
        rows += [(", ".join(p.opts), "" if p.is_flag else p.metavar or "", p.help) for p in options]
        if rows:
            lines += ["| | value | |", "|---|---|---|"]
            lines += [f"| `{name}` | {f'`{value}`' if value else ''} | {cell(help)} |" for name, value, help in rows]
            lines.append("")
    lines += [
        "Exit status: 0 done and every check passed, 1 a check failed, 2 wrong input, 3 not available on this machine,"
    ]
    lines += ["130 interrupted. With `--json` an error is one JSON document, too.", ""]
    return (
        "\n".join(lines).replace("`[RUN|", "`[RUN\\|").replace("|CONFIG", "\\|CONFIG").replace("|MODULE", "\\|MODULE")
    )


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield path, command
    for name, one in inner.items():
        yield from leaves(one, f"{path} {name}")


def settings() -> str:
    """The reference of settings files, from the models that check them."""
    from lrdiff_bench.study.settings import SchemeTable, StudySettings
    from lrdiff_core.config import CompareConfig, RunConfig

    lines = ["# Settings files", "", "`lrdiff init` writes a file with every setting of a run explained.", ""]
    for title, model in (
        ("A run: `lrdiff run FILE.toml`", RunConfig),
        ("A run: the table `[compare]`", CompareConfig),
        ("A study: `lrdiff study FILE.toml`", StudySettings),
        ("A study: each table `[[schemes]]`", SchemeTable),
    ):
        lines += [f"## {title}", "", "| key | default | |", "|---|---|---|", *rows_of(model), ""]
    return "\n".join(lines)


def rows_of(model: type[BaseModel]) -> Iterator[str]:
    """A row for each field; one without a description fails the build."""
    for key, field in model.model_fields.items():
        if not field.description:
            raise SystemExit(f"{model.__name__}.{key} has no docstring")
        default = field.get_default(call_default_factory=True)
        missing = field.is_required() or default is None or isinstance(default, BaseModel)
        yield f"| `{key}` | {'' if missing else f'`{json.dumps(default)}`'} | {cell(field.description)} |"


def cell(text: str | None) -> str:
    """Text of one cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def api_pages() -> dict[str, str]:
    """A page for each public package; every name once, where it is first handed on."""
    pages, seen = {}, set()
    for package, what in PACKAGES.items():
        module = importlib.import_module(package)
        lines = [f"# {package}", "", what, ""]
        for name in sorted(module.__all__, key=str.lower):
            thing = getattr(module, name)
            described = inspect.isclass(thing) or callable(thing)
            if described and not inspect.getdoc(thing):
                raise SystemExit(f"{package}.{name} has no docstring")
            where = f"{thing.__module__}.{thing.__qualname__}" if described else f"{package}.{name}"
            if where in seen:
                continue
            seen.add(where)
            lines += (
                [f"::: {where}", ""]
                if described
                else [f"## {name}", "", f"`{package}.{name}`: a {type(thing).__name__}.", ""]
            )
        pages[package] = "\n".join(lines)
    index = ["# In Python", "", "| package | |", "|---|---|"]
    pages["index"] = "\n".join([*index, *(f"| [{name}]({name}.md) | {what} |" for name, what in PACKAGES.items()), ""])
    return pages


def live_pages() -> None:
    """The pages that the gallery shows, as the commands write them: the lesson, and the report of a training."""
    from lrdiff_bench.cli import main as lrdiff

    for command in (
        ["lesson", "--out", str(OUT / "lesson.html"), "--docs", "."],
        ["train", "--json", "--out", str(ROOT / "build" / "run")],
        ["report", str(ROOT / "build" / "run"), "--out", str(OUT / "report.html")],
    ):
        if status := lrdiff(command):
            raise SystemExit(status)
    lesson = OUT / "lesson.html"  # its links lead to Markdown, which is HTML here
    lesson.write_text(re.sub(r'(href="\./[^"]*)\.md"', r'\1.html"', lesson.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
