"""The commands that train: typer alone is imported before one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrdiff_bench.report.errors import Interrupted, print_error, write_out
from lrdiff_bench.report.help import OWN_MODEL, JsonOption
from lrdiff_bench.report.json import print_json
from lrdiff_core.optimizers import either

if TYPE_CHECKING:
    from lrdiff_core.config import RunConfig

__all__ = ["add_run_commands"]

# Enum-like choices are checked by the configuration, so that every wrong value gets the same kind of message.
ConfigFile = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG.toml|MODULE:FACTORY]",
        help=f"A file of settings, the name of a preset, or {OWN_MODEL}. Default: the preset seed.",
    ),
]
DataOption = Annotated[str | None, typer.Option("--data", metavar="FILE_OR_NAME", help="A CSV, Parquet, Arrow, JSON lines or Excel file, compressed or not, or a built-in table: seed, breast_cancer, digits, wine.")]  # fmt: skip
TargetOption = Annotated[str | None, typer.Option("--target", metavar="COLUMN", help="The column to predict.")]
TaskOption = Annotated[str | None, typer.Option("--task", metavar="TASK", help="auto, binary, multiclass or regression.")]  # fmt: skip
ImputeOption = Annotated[str | None, typer.Option("--impute", metavar="HOW", help="Missing values: auto (the median, and a column that says where), none (refuse them), mean, median or drop.")]  # fmt: skip
DropOption = Annotated[list[str] | None, typer.Option("--drop", metavar="COLUMN", help="A column to leave out; may be repeated, as the next four.")]  # fmt: skip
CategoricalOption = Annotated[list[str] | None, typer.Option("--categorical", metavar="COLUMN", help="A column whose values are names, also where they look like numbers.")]  # fmt: skip
IdOption = Annotated[list[str] | None, typer.Option("--id", metavar="COLUMN", help="A column that names a row: no feature, repeated beside predictions.")]  # fmt: skip
NumericOption = Annotated[list[str] | None, typer.Option("--numeric", metavar="COLUMN", help="A column of numbers; any text among them counts as missing.")]  # fmt: skip
DateOption = Annotated[list[str] | None, typer.Option("--date", metavar="COLUMN[=FORMAT]", help="A column of dates, and how they are written, such as %d/%m/%Y.")]  # fmt: skip
TestOption = Annotated[str | None, typer.Option("--test", metavar="FILE", help="A second file: its rows, and no others, are the test rows. Or their share, such as 0.2.")]  # fmt: skip
GroupsOption = Annotated[str | None, typer.Option("--groups", metavar="COLUMN", help="Rows of one group stay in one part of the split.")]  # fmt: skip
TimeOption = Annotated[str | None, typer.Option("--time", metavar="COLUMN", help="Train on the earliest rows, test on the latest.")]  # fmt: skip
StreamOption = Annotated[str | None, typer.Option("--stream", metavar="HOW", help="Train piece by piece from a CSV or Parquet file: auto (one of more than 20 million cells), always or never.")]  # fmt: skip
FoldsOption = Annotated[int | None, typer.Option("--cv", metavar="K", help="Also cross-validate in so many folds.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="The run folder. Default: runs/NAME, or runs/NAME-2 and so on where there are runs already.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")]
CompileOption = Annotated[bool, typer.Option("--compile", help="Train with torch.compile.")]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="The seed of the split, the first weights and the order of rows."),
]
RatesOption = Annotated[
    str | None,
    typer.Option("--rates", metavar="HOW", help="tuned (compare first, train with what did best) or as-given."),
]
OptimizerOption = Annotated[str | None, typer.Option("--optimizer", metavar="NAME", help=f"{either()}.")]
EpochsOption = Annotated[int | None, typer.Option("--epochs", metavar="N", help="Train so many epochs at most.")]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        "--patience", metavar="N", help="Stop after so many epochs without a better validation loss; 0: never."
    ),
]
ScheduleOption = Annotated[
    str | None,
    typer.Option(
        "--schedule", metavar="NAME", help="How rates move: constant, linear, cosine, 1-sqrt or inverse_sqrt."
    ),
]
DropoutOption = Annotated[
    float | None, typer.Option("--dropout", metavar="SHARE", help="Share of hidden outputs left out in training.")
]
ClassWeightOption = Annotated[
    str | None, typer.Option("--class-weight", metavar="balanced", help="Let all classes count alike in the loss.")
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with an interrupted run: its folder in place of CONFIG.toml, or the last one in runs/.",
    ),
]
LogOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="csv|tensorboard|mlflow",
        help="Write losses, scores and the rate of every group after every epoch there, too; may be repeated.",
    ),
]
ParallelOption = Annotated[
    str,
    typer.Option(
        "--parallel",
        metavar="ddp|fsdp2",
        help="How the processes of torchrun share a training: each with the whole model, or divided over them.",
    ),
]


def add_run_commands(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(run)
    app.command()(init)
    app.command()(train)


def run(
    config: ConfigFile = None,
    data: DataOption = None,
    target: TargetOption = None,
    task: TaskOption = None,
    impute: ImputeOption = None,
    drop: DropOption = None,
    categorical: CategoricalOption = None,
    id: IdOption = None,
    numeric: NumericOption = None,
    date: DateOption = None,
    test: TestOption = None,
    groups: GroupsOption = None,
    time: TimeOption = None,
    cv: FoldsOption = None,
    stream: StreamOption = None,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    device: DeviceOption = None,
    compile: CompileOption = False,
    seed: SeedOption = None,
    rates: RatesOption = None,
    optimizer: OptimizerOption = None,
    epochs: EpochsOption = None,
    patience: PatienceOption = None,
    schedule: ScheduleOption = None,
    dropout: DropoutOption = None,
    class_weight: ClassWeightOption = None,
    log: LogOption = None,
    parallel: ParallelOption = "ddp",
    json: JsonOption = False,
) -> int:
    """Do the whole job: train, compare with single rates, time, export and verify."""
    wishes = {
        "drop": drop or None, "categorical": categorical or None, "id": id or None, "numeric": numeric or None,
        "date": date or None,
    }  # fmt: skip
    split = {"test": test, "groups": groups, "time": time, "cv": cv, "stream": stream}
    training = {
        "optimizer": optimizer, "epochs": epochs, "patience": patience, "schedule": schedule, "dropout": dropout,
        "class_weight": class_weight, "tune": _tunes(rates),
    }  # fmt: skip
    place, config = _place(config, out) if resume else (out, config)
    settings = _settings(config, data, target, task, impute, device, compile, seed, split | wishes, resume, **training)
    return _job(
        settings, place, json, overwrite=overwrite, stages=None, resume=resume, log=log or (), parallel=parallel
    )


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE.toml]", help="The file to write.")] = Path("lrdiff.toml"),
    data: DataOption = None,
    target: TargetOption = None,
    task: TaskOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write a settings file with every setting explained, for `lrdiff run FILE.toml`."""
    from lrdiff_bench.system.settings import write_settings

    write_settings(file, {"data": data, "target": target, "task": task}, overwrite=overwrite)
    write_out(f"wrote {file}; now: lrdiff run {file}\n")


def train(
    config: ConfigFile = None,
    data: DataOption = None,
    target: TargetOption = None,
    task: TaskOption = None,
    impute: ImputeOption = None,
    drop: DropOption = None,
    categorical: CategoricalOption = None,
    id: IdOption = None,
    numeric: NumericOption = None,
    date: DateOption = None,
    test: TestOption = None,
    groups: GroupsOption = None,
    time: TimeOption = None,
    cv: FoldsOption = None,
    stream: StreamOption = None,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    device: DeviceOption = None,
    compile: CompileOption = False,
    seed: SeedOption = None,
    optimizer: OptimizerOption = None,
    epochs: EpochsOption = None,
    patience: PatienceOption = None,
    schedule: ScheduleOption = None,
    dropout: DropoutOption = None,
    class_weight: ClassWeightOption = None,
    log: LogOption = None,
    parallel: ParallelOption = "ddp",
    json: JsonOption = False,
) -> int:
    """Train and save the checkpoint, without comparison and export."""
    wishes = {
        "drop": drop or None, "categorical": categorical or None, "id": id or None, "numeric": numeric or None,
        "date": date or None,
    }  # fmt: skip
    split = {"test": test, "groups": groups, "time": time, "cv": cv, "stream": stream}
    training = {
        "optimizer": optimizer, "epochs": epochs, "patience": patience, "schedule": schedule, "dropout": dropout,
        "class_weight": class_weight,
    }  # fmt: skip
    place, config = _place(config, out) if resume else (out, config)
    settings = _settings(config, data, target, task, impute, device, compile, seed, split | wishes, resume, **training)
    return _job(settings, place, json, overwrite=overwrite, stages=(), resume=resume, log=log or (), parallel=parallel)


def _settings(
    config: str | None,
    data: str | None,
    target: str | None,
    task: str | None,
    impute: str | None,
    device: str | None,
    compile: bool,
    seed: int | None,
    split: dict[str, Any],
    resume: bool,
    **more: Any,
) -> RunConfig:
    from lrdiff_bench.system.settings import gather
    from lrdiff_core.config import make_config

    options = {"data": data, "target": target, "task": task, "impute": impute, "device": device, "seed": seed}
    options |= split | {"test": _share_or_file(split["test"])} | more
    given = {key: value for key, value in options.items() if value is not None}
    given |= {"compile": True} if compile else {}
    if resume and config is None:  # what was not said is the interrupted run's, and no preset's
        return make_config(given, where="the command line")
    return gather(config, given)


def _share_or_file(test: str | None) -> str | float | None:
    """A number is a share of the rows, all else names a file."""
    try:
        return None if test is None else float(test)
    except ValueError:
        return test


def _tunes(rates: str | None) -> bool | None:
    from lrdiff_core.errors import ConfigError
    from lrdiff_core.text import nearest

    if rates is not None and rates not in (words := ("tuned", "as-given")):
        raise ConfigError(f"--rates is {rates!r}", help=nearest(rates, words, "one of"))
    return None if rates is None else rates == "tuned"


def _place(config: str | None, out: Path | None) -> tuple[Path | None, str | None]:
    """With --resume the argument may be a run's folder in place of settings."""
    if config is not None and Path(config).is_dir():
        return Path(config), None
    return out, config


def _job(
    config: RunConfig,
    out: Path | None,
    json: bool,
    *,
    overwrite: bool,
    stages: tuple[str, ...] | None,
    resume: bool = False,
    log: Sequence[str] = (),
    parallel: str = "ddp",
) -> int:
    from lrdiff_bench.report.tables import make_console
    from lrdiff_bench.run.job import STAGES
    from lrdiff_bench.run.screen import Screen
    from lrdiff_bench.run.together import run_together

    # With --json the stages still show, but on stderr.
    screen = Screen(make_console(stderr=json))
    stages = STAGES if stages is None else stages
    try:
        result = run_together(
            config, out, overwrite=overwrite, stages=stages, resume=resume, log=log, watcher=screen, parallel=parallel
        )  # fmt: skip
    except KeyboardInterrupt as stop:
        raise Interrupted(stop) from stop
    finally:
        screen.close()
    if result is None:  # a process that took part in the training of another one's run
        return 0
    if json:
        print_json(result.summary)
    if result.passed:
        return 0
    failed = ", ".join(name for name, held in result.summary["checks"].items() if not held)
    return print_error(f"a check failed: {failed}", f"see verification.json and parity.json in {result.folder}", 1)
