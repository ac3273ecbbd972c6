"""``lrdiff lr-find``: the range test of the main model, from its first weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrdiff_bench.run.files.training_files import read_settings
from lrdiff_bench.system.factory import is_factory, load_model, training_job, user_code
from lrdiff_bench.system.run_folder import make_folder, read_summary
from lrdiff_bench.system.settings import gather
from lrdiff_core.config import RunConfig, name_from
from lrdiff_core.devices import repeatable
from lrdiff_core.errors import ConfigError, RateError
from lrdiff_core.files import write_json
from lrdiff_core.loop import loss_function
from lrdiff_core.lr_find import RateCurve, lr_find, lr_find_each
from lrdiff_core.seeds import make_generator
from lrdiff_core.setup import make_optimizer, set_up

__all__ = ["Found", "as_text", "find_model_rates", "find_rates", "range_test", "write_found"]


WATCHED_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Found:
    """A range test of the main model.

    Args:
        name: of the run.
        groups: what each group of the optimizer holds: layers, or parameters where they do not fill a layer.
        curves: one for all rates together, or one a group.
    """

    name: str
    groups: tuple[str, ...]
    curves: tuple[RateCurve, ...]

    def names(self) -> list[str]:
        """What each curve is called."""
        return ["all rates" if curve.group is None else self.groups[curve.group] for curve in self.curves]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready document; a suggestion is null where the loss never fell."""
        now = dict(zip(self.groups, self.curves[0].base_rates, strict=True))
        return {
            "format": "lrdiff.lr_find",
            "version": 1,
            "name": self.name,
            "rates": now,
            "suggested": self.suggested(),
            "curves": [
                {"name": name, "suggested": _suggestion(curve), **curve.to_dict()}
                for name, curve in zip(self.names(), self.curves, strict=True)
            ],
        }

    def suggested(self) -> dict[str, float | None]:
        """The rate that each group should have: from the one curve with ratios kept, or each from its own."""
        found: dict[str, float | None] = dict.fromkeys(self.groups)
        for curve in self.curves:
            if _suggestion(curve) is None:
                continue
            for i in range(len(self.groups)) if curve.group is None else [curve.group]:
                found[self.groups[i]] = curve.suggested_rates()[i]
        return found


def range_test(
    target: str | None, *, each: bool = False, out: Path | None = None, rows: Mapping[str, Any] | None = None
) -> tuple[Found, list[Path]]:
    """What ``lrdiff lr-find`` does: sweep, and write what was found.

    Args:
        target: a run folder, a TOML file, a preset or ``MODULE:FACTORY``; None is the preset ``seed``.
        each: sweep each group by itself.
        out: the folder; a run's own, or ``runs/NAME-lr-find``.
        rows: ``data`` and ``target`` of a table, in place of the target's own rows.

    Returns:
        The curves, and the files.

    Raises:
        LrdiffError: the target, the data or the rates cannot be used.
    """
    table = {key: value for key, value in (rows or {}).items() if value is not None}
    if target is not None and is_factory(target) and not table:
        found, folder = find_model_rates(target, each=each), None
    elif target is not None and Path(target).is_dir():
        if table:
            raise ConfigError(
                f"{target} is a run, with its own rows", help="leave --data out, or name a model or settings"
            )
        folder = Path(target)
        read_summary(folder)
        found = find_rates(read_settings(folder), each=each)
    else:
        found, folder = find_rates(gather(target, table), each=each), None
    folder = out or folder or Path("runs") / f"{found.name}-lr-find"  # runs/NAME is kept for the run itself
    return found, write_found(found, folder)


def find_rates(config: RunConfig, *, each: bool = False, steps: int = 100) -> Found:
    """Sweep the rates of the main model from its first weights, over its training batches in their seeded order.

    Args:
        config: the settings; its rates give the ratios.
        each: sweep each group by itself.
        steps: points on a curve.

    Raises:
        LrdiffError: the settings, the data or the rates cannot be used.

    Example:
        >>> from lrdiff_core import PRESETS, make_config
        >>> found = find_rates(make_config(PRESETS["seed"]))
        >>> found.groups
        ('layer1', 'layer2')
        >>> 0.001 < found.suggested()["layer1"] < 1
        True
    """
    if config.model is not None:
        return _find_own_rates(config, each=each, steps=steps)
    table = config.load_table()
    setup = set_up(table, config)
    optimizer = make_optimizer(config.optimizer, setup.plan.groups(), momentum=config.momentum)
    loss_of = loss_function(table.task)
    inputs, targets = setup.rows.inputs["train"], setup.rows.targets["train"]
    order = torch.randperm(len(inputs), generator=make_generator(setup.seed, "order")).to(inputs.device)
    batches = [(inputs[batch], targets[batch]) for batch in order.split(setup.batch_size)]
    watched = (inputs[order[:WATCHED_ROWS]], targets[order[:WATCHED_ROWS]])
    closure = _closure(lambda rows, wanted: loss_of(setup.net.network(rows), wanted), optimizer, batches, watched)
    with repeatable(setup.device, threads=config.threads):
        return _sweep(config.name, setup.net, optimizer, closure, each=each, steps=steps)


def _find_own_rates(config: RunConfig, *, each: bool, steps: int) -> Found:
    """The same for a model of one's own, on a table or on what its factory gives."""
    from lrdiff_bench.run.own_model.setup import set_up_own
    from lrdiff_bench.system.batches import stacked

    with user_code(), repeatable(torch.device("cpu"), threads=config.threads):
        setup = set_up_own(config.model_copy(update={"device": "cpu"}))
        optimizer = make_optimizer(setup.config.optimizer, setup.groups(), momentum=config.momentum)
        part, order = setup.parts["train"], make_generator(setup.config.seed, "order")
        batches = [(one,) for one in itertools.islice(part.batches(setup.batch_size, order), steps)]
        watched = (stacked(part, WATCHED_ROWS),)
        closure = _closure(
            lambda one: setup.task.loss(one.answer(setup.module), one.targets), optimizer, batches, watched
        )
        return _sweep(config.name, setup.module, optimizer, closure, each=each, steps=steps)


def find_model_rates(target: str, *, each: bool = False, steps: int = 100) -> Found:
    """Sweep the rates of a user's model over its rows; its plan, or its optimizer's usual rates, give the ratios.

    Args:
        target: ``MODULE:FACTORY`` (:mod:`lrdiff_bench.system.factory`); it must give targets.
        each, steps: as for :func:`find_rates`.

    Raises:
        LrdiffError: the model or its rows cannot be used.
    """
    model = load_model(target, needs=("example", "targets"))
    with user_code(), repeatable(torch.device("cpu"), threads=1):
        job = training_job(model)
        groups = [
            {"params": [job.module.get_parameter(name) for name in group.names], "param_names": list(group.names)}
            | dict(group.options)
            for group in job.groups
        ]
        optimizer = make_optimizer(job.optimizer, groups)
        watched = tuple(one[:WATCHED_ROWS] for one in (*model.rows(), model.options["targets"]))
        closure = _closure(lambda *batch: job.loss(job.module, *batch), optimizer, job.batches, watched)
        name = name_from(target.replace(":", "-").replace(".", "-"))
        return _sweep(name, job.module, optimizer, closure, each=each, steps=steps)


def write_found(found: Found, folder: Path) -> list[Path]:
    """Write ``lr_find.json``, ``lr_find.png`` and ``lr_find.svg`` into a folder, which is made if it is not there.

    Raises:
        InputError: the folder cannot be written.
    """
    from lrdiff_bench.rates.lr_find_picture import draw_lr_find  # here: matplotlib takes a second

    make_folder(folder)
    picture = draw_lr_find(folder, found.curves, names=found.names(), title=f"{found.name}: range test")
    write_json(folder / "lr_find.json", found.to_dict())
    return [folder / "lr_find.json", picture, picture.with_suffix(".svg")]


def as_text(found: Found, files: Sequence[Path]) -> str:
    """What the command prints: the rates now and suggested, and what was written."""
    suggested = found.suggested()
    rows = [("group", "now", "suggested")]
    for name, now in zip(found.groups, found.curves[0].base_rates, strict=True):
        rate = suggested[name]
        rows.append((name, f"{now:.3g}", "-" if rate is None else f"{rate:.2g}"))
    wide = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows]
    lines.append(
        "suggested: a tenth of the rate with the lowest loss"
        + (", ratios kept" if found.curves[0].group is None else "")
    )
    if None in suggested.values():
        lines.append("-: the loss never fell in the range test; look at the picture")
    return "\n".join([*lines, *(f"wrote {file}" for file in files)])


def _sweep(
    name: str,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    closure: Callable[[], Tensor],
    *,
    each: bool,
    steps: int,
) -> Found:
    if each:
        curves = lr_find_each(net, optimizer, closure, steps=steps)
    else:
        curves = [lr_find(net, optimizer, closure, steps=steps)]
    groups = tuple(_group_name(group["param_names"]) for group in optimizer.param_groups)
    # Taken on the same rows, the losses need no smoothing, and a running mean would lag behind the rate: on preset
    # seed it puts the lowest loss at three times the rate where it is.
    return Found(name=name, groups=groups, curves=tuple(replace(curve, smooth=curve.losses) for curve in curves))


def _closure(
    loss: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Any, ...]],
    watched: tuple[Any, ...],
) -> Callable[[], Tensor]:
    turns = itertools.cycle(batches)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss(*next(turns)).backward()
        # Updates come from batches as in training; the loss is taken on the same rows every time, so that what moves
        # it is the rate: from batch to batch it would jump more than low rates change it.
        with torch.no_grad():
            return loss(*watched)

    return closure


def _group_name(names: Sequence[str]) -> str:
    """The layers of a group, shortly."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    return ", ".join(layers) if len(layers) <= 3 else f"{layers[0]} .. {layers[-1]}"


def _suggestion(curve: RateCurve) -> float | None:
    try:
        return curve.suggest()
    except RateError:
        return None
