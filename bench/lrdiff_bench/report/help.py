"""Help texts of the command line: commands in groups, no sentence cut short. It imports typer alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

__all__ = ["HELP_NAMES", "OWN_MODEL", "JsonOption", "OfRecordOption", "RecordOption", "WholeHelpGroup"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
RecordOption = Annotated[
    Path | None, typer.Option("--record", metavar="FILE.json", help="Keep in this file what the page is written from.")
]
OfRecordOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE.json", help="Measure nothing: write the page of this record."),
]
# One sentence in every command, since it is one contract: docs/guide/your-model.md.
OWN_MODEL = "your own model as MODULE:FACTORY, a function without arguments that can be imported from this folder"
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class WholeHelpGroup(TyperGroup):
    """A group of commands whose help shows the whole first sentence of each, under headings where there are some."""

    headings: ClassVar[Mapping[str, Sequence[str]]] = {}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands."""
        named = [name for names in self.headings.values() for name in names]
        groups = {**self.headings, "Commands": [name for name in self.list_commands(ctx) if name not in named]}
        for heading, names in groups.items():
            commands = {name: self.get_command(ctx, name) for name in names}
            rows = [(name, _first(command)) for name, command in commands.items() if command and not command.hidden]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def _first(command: Any) -> str:
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())
