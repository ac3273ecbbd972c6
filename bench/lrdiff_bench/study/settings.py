"""A study in one TOML file: a claim about rates, put to the test."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lrdiff_bench.study.workloads.workload import Scheme, Workload, decayed, usual_schemes
from lrdiff_core.config import DEVICE, DEVICES
from lrdiff_core.errors import ConfigError, RateError
from lrdiff_core.optimizers import OPTIMIZERS, check_momentum
from lrdiff_core.text import nearest

__all__ = [
    "COMMAND_LINE",
    "DESCRIBES_TRAINING",
    "StudySettings",
    "SchemeTable",
    "load_study_settings",
    "check_study_settings",
    "workload_of",
]

COMMAND_LINE = "the command line"  # where settings come from that stand in no file

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
Pair = Annotated[tuple[Positive, Positive], Field(strict=False)]


if TYPE_CHECKING:
    Unrouted = str
else:
    Unrouted = Literal[tuple(name for name, entry in OPTIMIZERS.items() if not entry.routed)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class SchemeTable(_Part):
    """One ``[[schemes]]`` table."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    """Name of the scheme."""
    ratios: dict[str, Ratio] = {}
    """Ratio of each group to the base rate; what is left out has 1, and 0 freezes."""
    free: dict[str, Pair] = {}
    """Groups whose ratio is searched, and between what."""
    layer_decay: Positive | Pair | None = None
    """Layer-wise decay: the factor from a layer to the one below it, or two numbers between which it is searched."""


class StudySettings(_Part):
    """Everything a study's file can say; what is left out takes the value shown here.

    Example:
        >>> StudySettings(name="mine", data="digits").optimizer
        'adam'
    """

    name: Name
    """Name of the study."""
    title: str = ""
    """What is trained, in a few words."""
    question: str = ""
    """What the study is to answer."""
    source: str = ""
    """Where the claim comes from; shown with the verdict."""
    workload: str | None = None
    """One that comes with the project, or MODULE:NAME of your own; below, only schemes and numbers go with it."""
    data: str | None = None
    """A file or a built-in table, as in the settings of a run."""
    target: str | None = None
    """The column to predict."""
    task: Literal["auto", "binary", "multiclass", "regression"] = "auto"
    """auto, binary, multiclass or regression."""
    model: str | None = None
    """``module:factory``; left out, the project's own network with ``hidden``."""
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False)] | None = None
    """Hidden sizes of the project's own network."""
    optimizer: Unrouted = "adam"
    """sgd, adam, adamw, rmsprop, nadam, radam, adagrad, adafactor, lamb, lion or schedule_free."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Momentum of sgd and rmsprop."""
    weight_decay: Ratio = 0.0
    """Weight decay of all parameters."""
    batch_size: PositiveInt = 32
    """Rows a step."""
    steps: PositiveInt = 300
    """Steps of every training."""
    evaluations: PositiveInt = 10
    """How often a training is evaluated."""
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    """auto, cpu, cuda (or cuda:1) or mps."""
    metric: Literal["loss", "accuracy"] = "loss"
    """What is compared: loss or accuracy."""
    smallest_difference: Positive | None = None
    """Left out: 0.01, nats or share of right answers; or the workload's own."""
    base_rates: Pair | None = None
    """Between what the base rate is searched; left out: by the optimizer."""
    default_rate: Positive | None = None
    """The rate of the untuned column; left out: the optimizer's own default."""
    report_seeds: Annotated[int, Field(ge=3, le=10_000)] | None = None
    """Fresh seeds that results are reported on; left out: 200."""
    groups: dict[str, str | list[str]] = {}
    """Patterns of each group's parameters; left out, each layer is a group."""
    schemes: list[SchemeTable] = []
    """Besides the single rate, which is always there; left out, ratios 0.1, 10 and free for the last group."""


DESCRIBES_TRAINING = (
    "data", "target", "task", "model", "hidden", "optimizer", "momentum", "weight_decay", "batch_size", "steps",
    "evaluations", "device", "metric", "groups",
)  # fmt: skip


def load_study_settings(path: Path) -> StudySettings:
    """Read a study's file.

    Raises:
        ConfigError: no such file, no TOML, an unknown key or a wrong value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise ConfigError(
            f"no such file: {path}", help="name a TOML file, or a workload of `lrdiff study ls`"
        ) from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}", help="name a TOML file in UTF-8") from problem
    try:
        settings = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise ConfigError(
            f"{path} is not TOML: {problem}", help='lines look like: data = "digits", or in [groups]: head = "layer3.*"'
        ) from problem
    from lrdiff_core.config import name_from

    settings.setdefault("name", name_from(path.stem).replace(".", "-")[:60])
    data = settings.get("data")
    if isinstance(data, str) and not Path(data).is_absolute() and (path.parent / data).is_file():
        settings["data"] = str(path.parent / data)
    return check_study_settings(settings, where=str(path))


def check_study_settings(settings: Mapping[str, Any], *, where: str) -> StudySettings:
    """Check settings.

    Args:
        settings: as in the TOML file.
        where: what an error calls their source.

    Raises:
        ConfigError: an unknown key, or a value that cannot be.

    Example:
        >>> check_study_settings({"name": "mine", "dta": "digits"}, where="mine.toml")
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ConfigError: unknown key "dta" in mine.toml
        help: did you mean data? keys: ...
    """
    try:
        checked = StudySettings(**settings)
    except ValidationError as problem:
        raise _readable(problem, where) from problem
    given = [key for key in DESCRIBES_TRAINING if key in settings]
    if checked.workload is not None and given:
        raise ConfigError(
            f"{where} names a workload and sets {given[0]}",
            help=f"the workload says how it trains: leave out {', '.join(given)}",
        )
    if checked.workload is None and checked.data is None:
        if where == COMMAND_LINE:
            raise ConfigError(
                "no rows are named to train on",
                help="add --data FILE; a model that brings its own rows is compared by `lrdiff run MODULE:FACTORY` and "
                "studied as a function of yours: docs/guide/own-training.md",
            )
        raise ConfigError(f"{where} has no rows", help='add data = "FILE" (or digits, wine, ...), or workload = "NAME"')
    check_momentum(checked.optimizer, checked.momentum, where)
    return checked


def workload_of(settings: StudySettings) -> Workload:
    """The workload that the settings describe, with its schemes.

    Raises:
        ConfigError: an unknown workload or group, or a scheme that is none.
    """
    if settings.workload is not None:
        from lrdiff_bench.study.own_training import workload_named

        base: Any = workload_named(settings.workload)
        changes: dict[str, Any] = {"name": settings.name}
        for key in ("smallest_difference", "base_rates", "default_rate", "report_seeds", "title", "question"):
            value = getattr(settings, key)
            if value:
                changes[key] = value
        if settings.schemes:
            changes["schemes"] = _schemes(settings, base.groups)
        return replace(base, **changes)
    from lrdiff_bench.study.user_model import UserModelWorkload

    optimizer, groups = settings.optimizer, _groups(settings)
    what = settings.model or "its own network"
    own = UserModelWorkload(
        name=settings.name,
        title=settings.title or f"{what} on {settings.data}, {optimizer}",
        question=settings.question or f"Do different rates for {', '.join(groups)} help?",
        schemes=_schemes(settings, groups),
        groups=groups,
        metric=settings.metric,
        base_rates=settings.base_rates or OPTIMIZERS[optimizer].rates,
        default_rate=settings.default_rate or OPTIMIZERS[optimizer].rate,
        smallest_difference=settings.smallest_difference or 0.01,
        steps=settings.steps,
        report_seeds=settings.report_seeds or 30,
        data=str(settings.data),
        target=settings.target,
        task=settings.task,
        model=settings.model,
        hidden=settings.hidden,
        patterns={name: [one] if isinstance(one, str) else one for name, one in settings.groups.items()},
        optimizer=optimizer,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        batch_size=settings.batch_size,
        evaluations=settings.evaluations,
        device=settings.device,
    )
    own.check()
    return own


def _groups(settings: StudySettings) -> tuple[str, ...]:
    if settings.groups:
        return tuple(settings.groups)
    if settings.model is None:
        hidden = settings.hidden
        if hidden is None:
            from lrdiff_core import load_table, make_config

            table = load_table(str(settings.data), target=settings.target, task=settings.task, seed=0)
            hidden = make_config({}).hidden_sizes(table.features.shape[1])
        return tuple(f"layer{i + 1}" for i in range(len(hidden) + 1))
    from lrdiff_bench.system.factory import load_model

    names = [
        name for name, parameter in load_model(settings.model).module.named_parameters() if parameter.requires_grad
    ]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _schemes(settings: StudySettings, groups: tuple[str, ...]) -> tuple[Scheme, ...]:
    """The single rate, then what the file says."""
    ones = dict.fromkeys(groups, 1.0)
    single = Scheme(name="single", ratios=ones)
    if len(groups) < 2:
        raise ConfigError(
            f"there is one group, {', '.join(groups)}", help="give two groups or more under [groups], or with --groups"
        )
    if not settings.schemes:
        return usual_schemes(groups)
    found = [single]
    for one in settings.schemes:
        for group in (*one.ratios, *one.free):
            if group not in groups:
                raise ConfigError(
                    f'scheme "{one.name}" names the group "{group}"', help=nearest(group, groups, "groups", most=40)
                )
            if group in one.ratios and group in one.free:
                raise ConfigError(f'scheme "{one.name}" both fixes and frees {group}', help="keep one of the two")
        if one.layer_decay is not None:
            if one.ratios or one.free:
                raise ConfigError(
                    f'scheme "{one.name}" has layer_decay, and ratios beside it', help="write two schemes"
                )
            found.append(decayed(one.name, one.layer_decay, _depths(settings, groups)))
            continue
        ratios = {group: ratio for group, ratio in {**ones, **one.ratios}.items() if group not in one.free}
        found.append(Scheme(name=one.name, ratios=ratios, free=dict(one.free)))
    return tuple(found)


def _depths(settings: StudySettings, groups: tuple[str, ...]) -> dict[str, int]:
    """How far each group stands from the input: as LayerDecay finds it in one's own model, else in the order given."""
    in_order = {group: i for i, group in enumerate(groups)}
    if settings.model is None:
        return in_order
    from lrdiff_bench.study.one_model import group_columns
    from lrdiff_bench.system.factory import load_model
    from lrdiff_core.rates import layer_depths, list_parameters

    module = load_model(settings.model).module
    patterns = {name: [one] if isinstance(one, str) else one for name, one in settings.groups.items()}
    try:
        depths = layer_depths(list_parameters(module))
    except RateError:
        return in_order
    columns = group_columns(module, patterns, groups)
    return {group: max(depths[name] for name, at in columns.items() if at == i) for i, group in enumerate(groups)}


def _readable(problem: ValidationError, where: str) -> ConfigError:
    first = problem.errors()[0]
    path = [str(part) for part in first["loc"] if part not in ("str", "list[str]")]
    key = ".".join(path)
    in_scheme = path[0] == "schemes" and len(path) > 2
    fields = list(SchemeTable.model_fields if in_scheme else StudySettings.model_fields)
    if first["type"] == "extra_forbidden":
        return ConfigError(f'unknown key "{key}" in {where}', help=nearest(path[-1], fields, "keys", most=40))
    if first["type"] == "missing":
        return ConfigError(f"{key} is missing in {where}", help=f"keys: {', '.join(fields)}")
    if path == ["device"]:
        return ConfigError(
            f"{key} in {where} is {first['input']!r}", help=nearest(str(first["input"]), DEVICES, "one of")
        )
    reason = first["msg"][0].lower() + first["msg"][1:]
    return ConfigError(f"{key} in {where} is {first['input']!r:.80}", help=reason)
