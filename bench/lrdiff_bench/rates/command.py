"""``lrdiff rates``: the plan of a run, or of a user's own model, before anything is trained."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lrdiff_bench.system import factory
from lrdiff_bench.system.manifest import MANIFEST, check_files
from lrdiff_bench.system.rate_settings import make_plan
from lrdiff_core.errors import CheckpointError, InputError, RateError
from lrdiff_core.rates import RatePlan, layer_depths, list_parameters
from lrdiff_core.rates.plan.table import WIDTH

__all__ = [
    "list_table",
    "load_model",
    "parameter_rows",
    "plan_of",
    "plan_text",
    "read_plan",
]

HOW_TO_NAME = f"name a run folder, or a model as {factory.GRAMMAR}"


def plan_of(target: str, options: Mapping[str, Any]) -> RatePlan:
    """The plan that a target has, or gets by the options.

    Args:
        target: a run folder, a stored plan (``rates.json``) or ``package.module:factory``.
        options: the arguments of :func:`lrdiff_bench.system.rate_settings.make_plan`; empty, a run shows the plan that
            it was trained with.

    Raises:
        InputError: the target cannot be read or built.
        RateError: the options make no plan.
    """
    if not options and not factory.is_factory(target):
        return read_plan(Path(target))
    try:
        return make_plan(load_model(target), **options)
    except RateError as problem:
        raise RateError(problem.message, help=_for_the_command_line(problem, target)) from problem


def plan_text(plan: RatePlan, *, full: bool = False) -> str:
    """The plan as wide as the terminal (or ``COLUMNS``), or as Python prints it where there is none."""
    text = plan.table(shutil.get_terminal_size((WIDTH, 24)).columns, full=full)
    return text.replace("plan.table(full=True)", "--full")


def read_plan(path: Path) -> RatePlan:
    """The plan stored in a run folder, or in a file.

    Raises:
        CheckpointError: no plan there, or a damaged one.
        RateError: a plan of a format that this program does not read.
    """
    file = path / "rates.json" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"no rate plan at {path}", help=HOW_TO_NAME)
    if (path / MANIFEST).is_file():
        check_files(path, file.name)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}", help="run again with `lrdiff run`") from problem
    return RatePlan.from_dict(data)


def load_model(target: str) -> nn.Module:
    """The model of a run folder, or what ``package.module:factory`` makes.

    Raises:
        CheckpointError: no run there.
        InputError: as :func:`lrdiff_bench.system.factory.load_model`.
    """
    if not factory.is_factory(target):
        if Path(target).is_file():
            raise InputError(f"{target} holds no model", help=HOW_TO_NAME)
        if not Path(target).is_dir():
            raise InputError(f"no run and no model at {target}", help=HOW_TO_NAME)
        from lrdiff_bench.run.own_model.files import is_own, open_own
        from lrdiff_bench.run.use.open_run import open_run  # here: it brings polars and scikit-learn

        return open_own(Path(target)).module if is_own(Path(target)) else open_run(Path(target))[0]
    return factory.load_model(target).module


def parameter_rows(model: nn.Module, layers: Sequence[str] = ()) -> tuple[list[dict[str, Any]], str | None]:
    """Name, shape, module class, depth and other names of every parameter, for writing rules.

    Args:
        model: any module.
        layers: as for :func:`lrdiff_bench.system.rate_settings.make_scales`.

    Returns:
        The rows, and why there are no depths (None where there are).

    Example:
        >>> rows, _ = parameter_rows(nn.Sequential(nn.Linear(2, 3)))
        >>> rows[0]
        {'name': '0.weight', 'shape': [3, 2], 'module': 'Linear', 'depth': 1, 'tied': []}
    """
    infos = list_parameters(model)
    depths: dict[str, int] = {}
    reason = None
    try:
        depths = layer_depths(infos, None if not layers else layers[0] if len(layers) == 1 else list(layers))
    except RateError as problem:  # the list is what helps to mend it, so it must not fail on it
        reason = f"{problem.message}; {problem.help}"
    rows = [
        {
            "name": info.name,
            "shape": list(info.parameter.shape),
            "module": type(info.occurrences[0].owner).__name__,
            "depth": depths.get(info.name),
            "tied": list(info.tied),
        }
        for info in infos
    ]
    return rows, reason


def list_table(rows: Sequence[Mapping[str, Any]], reason: str | None) -> str:
    """The rows of :func:`parameter_rows` as aligned plain text.

    Example:
        >>> print(list_table(*parameter_rows(nn.Sequential(nn.Linear(2, 3)))))
        parameter  shape  module  depth
        0.weight   3x2    Linear      1
        0.bias     3      Linear      1
        2 parameters, 9 numbers
    """
    cells = [("parameter", "shape", "module", "depth")]
    numbers = 0
    for row in rows:
        count = 1
        for size in row["shape"]:
            count *= size
        numbers += count
        shape = "x".join(map(str, row["shape"])) or "scalar"
        names = " = ".join([row["name"], *row["tied"]])
        cells.append((names, shape, row["module"], "-" if row["depth"] is None else str(row["depth"])))
    wide = [max(len(cell[i]) for cell in cells) for i in range(4)]
    lines = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:<{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in cells]
    lines.append(f"{len(rows)} parameters, {numbers} numbers")
    return "\n".join([*lines, f"no depths: {reason}"] if reason else lines)


def _for_the_command_line(problem: RateError, target: str) -> str:
    """The help of an error in the words of the command instead of Python's."""
    help = re.sub(r'(layers|head|by)="([^"]+)"', r"--\1 \2", problem.help)
    return f"{help} (see `lrdiff rates {target} --list`)" if "matches no parameter" in problem.message else help
