"""The arguments of ``lrdiff boost``. Only typer is imported here."""

from __future__ import annotations

from typing import Annotated

import typer

from lrdiff_bench.report.help import JsonOption

__all__ = ["add_boost_command"]


def add_boost_command(app: typer.Typer) -> None:
    """Add ``boost`` to the command line."""
    app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(boost)


def boost(
    script: Annotated[list[str], typer.Argument(metavar="SCRIPT.py|-m MODULE [ARGS]", help="The training script with its own arguments; it runs as with `python`.")],
    check: Annotated[int, typer.Option("--check", metavar="N", min=0, help="Also take the first N steps by torch's own, on copies, and compare every bit.")] = 0,
    estimate: Annotated[bool, typer.Option("--estimate/--no-estimate", help="Time torch's own step afterwards, on copies, to tell what was gained; takes a few seconds.")] = True,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Run your training script unchanged with torch's SGD, Adam, AdamW and Adagrad stepped by ours where the result is the same."""
    from lrdiff_bench.boost.command import boost_script

    return boost_script(script, check=check, estimate=estimate, json=json)
