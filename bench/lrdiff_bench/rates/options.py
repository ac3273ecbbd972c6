"""The commands about rates: what they are, which suit, what a script really applies. Only typer is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrdiff_bench.report.errors import write_out
from lrdiff_bench.report.help import OWN_MODEL, JsonOption
from lrdiff_bench.report.json import print_json

__all__ = ["add_rates_commands"]


def add_rates_commands(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(rates)
    app.command("lr-find")(lr_find)
    app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(audit)


def rates(
    target: Annotated[str, typer.Argument(metavar="RUN_OR_MODULE:FACTORY", help=f"A run folder, or {OWN_MODEL}.")],
    lr: Annotated[float | None, typer.Option("--lr", metavar="R", help="The base learning rate. Default: 0.001.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", metavar="W", help="The weight decay of all parameters. Default: 0.")] = None,
    rule: Annotated[list[str] | None, typer.Option("--rule", metavar="RULE", help='A rule such as "head.* lr=0.01". Give several; for each setting, the first that matches wins.')] = None,
    layer_decay: Annotated[float | None, typer.Option("--layer-decay", metavar="D", help="How fast each layer learns relative to the layer above it, such as 0.9.")] = None,
    slices: Annotated[str | None, typer.Option("--slices", metavar="LO:HI", help="The fractions of the base rate for the first and the last layer.")] = None,
    head_multiplier: Annotated[float | None, typer.Option("--head-multiplier", metavar="M", help="The factor for the rate of the head.")] = None,
    head: Annotated[str | None, typer.Option("--head", metavar="PATTERN", help="The parameters of the head, where it is not the last layer.")] = None,
    layers: Annotated[list[str] | None, typer.Option("--layers", metavar="NAME", help="The module that holds the blocks, or each layer by repeating the option.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="block|stage", help="What counts as a layer: a block or a stage, numbered as timm does.")] = None,
    no_weight_decay: Annotated[list[str] | None, typer.Option("--no-weight-decay", metavar="PATTERN", help="Parameters without weight decay: 1d (biases and norms) or a pattern. Give several.")] = None,
    freeze: Annotated[list[str] | None, typer.Option("--freeze", metavar="PATTERN", help="Parameters that do not learn. Give several.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List parameter names, shapes, modules and depths instead of rates.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Show every parameter, including those of equal blocks.")] = False,
    json: JsonOption = False,
    diff: Annotated[Path | None, typer.Option("--diff", metavar="OTHER", help="Show what changed compared with this run or rates.json.")] = None,
) -> None:  # fmt: skip
    """Show the learning rate of every parameter of a run or of your own model."""
    from lrdiff_bench.rates.command import list_table, load_model, parameter_rows, plan_of, plan_text, read_plan

    if list_:
        rows, reason = parameter_rows(load_model(target), layers or ())
        if json:
            print_json({"parameters": rows, "no_depths": reason})
        else:
            write_out(list_table(rows, reason) + "\n")
        return
    given = {
        "lr": lr, "weight_decay": weight_decay, "rules": rule, "layer_decay": layer_decay, "slices": slices,
        "head_multiplier": head_multiplier, "head": head, "layers": layers, "by": by,
        "no_weight_decay": no_weight_decay, "freeze": freeze,
    }  # fmt: skip
    plan = plan_of(target, {name: value for name, value in given.items() if value is not None and value != []})
    shown = plan if diff is None else read_plan(diff).diff(plan)
    if json:
        print_json(shown.to_dict())
    else:
        write_out(f"{shown if diff is not None else plan_text(plan, full=full)}\n")


def lr_find(
    target: Annotated[str | None, typer.Argument(metavar="[RUN|CONFIG.toml|MODULE:FACTORY]", help=f"A run folder, a file of settings, or {OWN_MODEL}. Default: the preset seed.")] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="FILE_OR_NAME", help="A table to train on: CSV, Parquet or Arrow, or a built-in one.")] = None,
    column: Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="The column to predict.")] = None,
    each: Annotated[bool, typer.Option("--each", help="Sweep the rate of each group separately, with the other groups fixed.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder for the results. Default: the run, or runs/NAME-lr-find.")] = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Run a learning-rate range test, suggest rates and draw the loss against the rate."""
    from lrdiff_bench.rates.lr_find import as_text, range_test

    found, files = range_test(target, each=each, out=out, rows={"data": data, "target": column})
    if json:
        print_json(found.to_dict() | {"files": list(map(str, files))})
    else:
        write_out(as_text(found, files) + "\n")


def audit(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT.py", help="The training script; it runs as with `python SCRIPT.py`.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="Arguments of the script.")] = None,
    every: Annotated[int, typer.Option("--every", metavar="N", min=1, help="Inspect the weights at the first three steps, then at every N-th.")] = 50,
    json: JsonOption = False,
) -> int:  # fmt: skip
    """Run your training script unchanged and report which rate, decay and update rule each parameter really got."""
    from lrdiff_bench.rates.audit import audit_script

    report = audit_script(script, arguments or (), every=every, quiet=json)
    if json:
        print_json(report.to_dict())
    else:
        write_out(f"{report}\n")
    return 0 if report.passed else 1
