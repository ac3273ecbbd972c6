"""The settings of a run: a flat TOML file with a ``[rates]`` and a ``[compare]`` table."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lrdiff_core.data.formats import STANDARD_INPUT, has_suffix
from lrdiff_core.errors import ConfigError
from lrdiff_core.optimizers import OptimizerName, check_momentum
from lrdiff_core.text import nearest

if TYPE_CHECKING:
    from lrdiff_core.data import Split, Table
    from lrdiff_core.schedules import Shape

__all__ = ["PRESETS", "CompareConfig", "Impute", "RunConfig", "load_config", "make_config"]

ScheduleName = Literal["constant", "linear", "cosine", "1-sqrt", "inverse_sqrt"]
Impute = Literal["auto", "none", "mean", "median", "drop"]

Fraction = Annotated[float, Field(gt=0.0, lt=0.5)]
PositiveInt = Annotated[int, Field(ge=1)]
Columns = Annotated[tuple[str, ...], Field(strict=False)]
ClassWeight = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

DEVICES = ("auto", "cpu", "cuda", "mps")
DEVICE = r"^(auto|cpu|cuda(:\d+)?|mps)$"

STEPS = 6000  # of a training whose epochs are left open: it stops by itself
MANY_ROWS = 1_000_000  # beyond them one epoch may be enough
EPOCHS = (10, 200)  # however few or many rows there are

TEST_SHARE = 0.15  # of the rows, where no share is given; unused where a file holds the test rows

PRESETS: dict[str, dict[str, Any]] = {
    # The example the project began with. The page it comes from states neither optimizer, generator nor
    # batch size; Adam and 25 rows a step bring its loss and accuracy about (tests/bench/test_seed_preset.py).
    "seed": {
        "name": "seed",
        "data": "seed",
        "hidden": [5],
        "rates": {"layer1": 0.01, "layer2": 0.001},
        "optimizer": "adam",
        "batch_size": 25,
        "epochs": 10,
        "tune": False,
        "patience": 0,  # the example trains all its epochs, at the rates that it is about
    },
}


class CompareConfig(BaseModel):
    """How the run is compared with single rates (table ``[compare]``)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    seeds: Annotated[int | None, Field(ge=10, le=1000)] = None
    """Fresh seeds that every scheme is reported on, shared out among the searches; left out: 200, or fewer."""
    searches: Annotated[int | None, Field(ge=2, le=1000)] = None
    """How often rates are chosen, each time on other seeds; left out: 8, fewer where a training is dear."""
    tuning_seeds: Annotated[int | None, Field(ge=1, le=1000)] = None
    """Seeds that every rate of the sweep is tried on in a search, never reported on; left out: 4, or fewer."""
    sweep: Annotated[tuple[float, ...], Field(min_length=2, strict=False)] = (
        0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3,
    )  # fmt: skip
    """Candidate base rates, the same for every tuned scheme."""
    minutes: Annotated[float | None, Field(gt=0.0, allow_inf_nan=False)] = None
    """Time that the comparison of a model of your own may take where its trainings come one by one; left out: 1."""


class RunConfig(BaseModel):
    """Everything a run depends on; what is left out takes the value shown here.

    Example:
        >>> config = RunConfig(data="digits", epochs=3)
        >>> config.optimizer, config.epochs
        ('adam', 3)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)] = "run"
    """Name of the run and of its folder in runs/: letters, digits, dots, dashes, underscores."""
    data: str = "seed"
    """A CSV, Parquet, Arrow, JSON lines or Excel file, or a built-in table: seed, breast_cancer, digits, wine."""
    target: str | None = None
    """The column to predict; only a file needs it."""
    task: Literal["auto", "binary", "multiclass", "regression"] = "auto"
    """auto (by the target), binary, multiclass or regression."""
    drop: Columns = ()
    """Columns to leave out."""
    categorical: Columns = ()
    """Columns whose values are names, also where they look like numbers."""
    id: Columns = ()
    """Columns that name a row: no features, repeated beside predictions."""
    numeric: Columns = ()
    """Columns of numbers; any text among them counts as missing."""
    date: Columns = ()
    """Columns of dates; "COLUMN=%d/%m/%Y" also says how they are written."""
    impute: Impute = "auto"
    """Missing values: auto (the median, and a column that says where), none (refuse them), mean, median or drop."""
    validation: Fraction = 0.15
    """Share of the rows that choices are made on."""
    test: Fraction | str = TEST_SHARE
    """Share of the rows that results are reported on, or a second file that holds these rows."""
    groups: str | None = None
    """A column whose equal values stay in one part of the split, such as a patient; it is no feature."""
    time: str | None = None
    """A column of dates or numbers: the earliest rows are trained on, the latest tested on; it is no feature."""
    cv: Annotated[int | None, Field(ge=2, le=50)] = None
    """Folds of a cross-validation beside the run; left out: none. The model that is kept is that of the one split."""
    model: Annotated[str, Field(pattern=r".:.")] | None = None
    """A model of your own, MODULE:FACTORY; left out: the project's network."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Train piece by piece from a CSV or Parquet file: auto (one of more than 20 million cells), always or never."""
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False)] | None = None
    """Hidden sizes; left out: one layer as wide as the number of features, at least 16, at most 64."""
    rates: dict[str, Any] | None = None
    """Rate of each layer by name; left out: 0.01, and 0.001 for the last layer. Own models take rules, too."""
    tune: bool = True
    """Compare rates first and train with those that did best; false keeps the rates as they are given."""
    optimizer: OptimizerName = "adam"
    """sgd, adam, adamw, rmsprop, nadam, radam, adagrad, adafactor, lamb, lion, schedule_free or muon (for matrices)."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Momentum of sgd and rmsprop; the others take none."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """Weight decay of all parameters: decoupled in adamw, lion, schedule_free, muon, else in the gradient."""
    batch_size: PositiveInt | None = None
    """Rows a step; left out: the training rows over 28, at least 16, at most 1024."""
    epochs: PositiveInt | None = None
    """Passes over the training rows, at most; left out: as make 6000 steps, 10 (1 of a million rows) to 200."""
    patience: Annotated[int, Field(ge=0)] | None = None
    """Epochs without a better validation loss that end training, the best weights kept; 0: none do; left out: 10 up."""
    schedule: ScheduleName = "constant"
    """How rates move over all epochs: constant, linear, cosine, 1-sqrt or inverse_sqrt; their ratios stay."""
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of all steps in which rates rise from 0."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of every hidden layer's outputs that is left out at random in training."""
    class_weight: Literal["balanced"] | dict[str, ClassWeight] | None = None
    """What a row counts in the loss, by its class: balanced (all classes count alike) or a table of weights."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the split, the first weights and the order of rows."""
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    """auto (the fastest that is here), cpu, cuda (or cuda:1, the GPU of that number) or mps."""
    compile: bool = False
    """Train with torch.compile."""
    threads: PositiveInt = 1
    """Threads of torch; more than one may change the last bits."""
    compare: CompareConfig = CompareConfig()
    """How the run is compared with single rates."""

    def load_table(self, *, seed: int | None = None) -> Table:
        """Return the rows that the settings name, from :func:`lrdiff_core.load_table`."""
        from lrdiff_core.data import load_table

        return load_table(
            self.data,
            target=self.target,
            task=self.task,
            impute=self.impute,
            seed=self.seed if seed is None else seed,
            test=self.test if isinstance(self.test, str) else None,
            groups=self.groups,
            time=self.time,
            drop=self.drop,
            categorical=self.categorical,
            id=self.id,
            numeric=self.numeric,
            date=self.date,
            stream=self.stream,
        )

    def split(self, table: Table, *, seed: int | None = None) -> Split:
        """Return the split of rows that the settings ask for, from :func:`lrdiff_core.split_table`."""
        from lrdiff_core.data import split_table

        seed = self.seed if seed is None else seed
        return split_table(table, validation=self.validation, test=self._test_share, seed=seed)

    @property
    def _test_share(self) -> float:
        return TEST_SHARE if isinstance(self.test, str) else self.test

    def edges(self) -> tuple[float, float]:
        """Return below which draws a streamed row is trained on, and validated on."""
        shares = (1 - self.validation - self._test_share, self.validation)
        return shares[0], shares[0] + shares[1]

    def hidden_sizes(self, features: int) -> tuple[int, ...]:
        """Return the hidden sizes for a table with so many features."""
        return self.hidden if self.hidden is not None else (min(64, max(16, features)),)

    def rows_per_step(self, training_rows: int) -> int:
        """Return the batch size for so many training rows."""
        return self.batch_size if self.batch_size is not None else min(1024, max(16, training_rows // 28))

    def shape(self) -> Shape | None:
        """Return how rates move; None where they stay."""
        if self.schedule == "constant" and not self.warmup:
            return None
        from lrdiff_core.schedules import Shape  # here: it brings torch, which no other setting needs

        return Shape(kind=self.schedule, warmup=self.warmup or 0)

    def most_epochs(self, training_rows: int) -> int:
        """Return after how many epochs a training with so many rows ends at the latest."""
        if self.epochs is not None:
            return self.epochs
        steps_an_epoch = -(-training_rows // self.rows_per_step(training_rows))
        fewest, most = EPOCHS if training_rows <= MANY_ROWS else (1, EPOCHS[1])
        return min(most, max(fewest, -(-STEPS // steps_an_epoch)))

    def epochs_of_patience(self, training_rows: int) -> int:
        """Return how many epochs without a better validation loss end a training with so many rows; 0: none do."""
        return self.patience if self.patience is not None else max(10, self.most_epochs(training_rows) // 5)


def make_config(settings: Mapping[str, Any], *, where: str = "settings") -> RunConfig:
    """Check ``settings`` and return a :class:`RunConfig`.

    Args:
        settings: keys and values as in the TOML file.
        where: what to call the source in an error.

    Raises:
        ConfigError: an unknown key, or a value that cannot be.
        RateError: a rate that is not a positive finite number.

    Example:
        >>> make_config({"epochs": 3, "rates": {"layer1": 0.01, "layer2": 0.001}}).epochs
        3
        >>> make_config({"epoch": 3})
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ConfigError: unknown key "epoch" in settings
        help: did you mean epochs? keys: ...
    """
    _check_rates(settings, where)
    try:
        config = RunConfig(**settings)
    except ValidationError as problem:
        raise _readable(problem, where) from problem
    if config.data == STANDARD_INPUT:
        raise ConfigError(
            f"data in {where} is standard input, and later commands read a run's rows again",
            help="write the rows to a file and name that; `lrdiff predict --data -` reads standard input",
        )
    if config.groups is not None and config.time is not None:
        raise ConfigError(
            f"groups and time are both set in {where}, and rows of one group happen at many times",
            help="set one of them: groups where rows of one source are alike, time where the future is predicted",
        )
    check_momentum(config.optimizer, config.momentum, where)
    return config


def load_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file of settings; :func:`make_config` checks them.

    A relative path in ``data`` or ``test`` is looked up from the folder of the TOML file first.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    file = Path(path)
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise ConfigError(f"no such file: {file}", help="name a TOML file, or leave it out for the preset") from problem
    except RecursionError as problem:
        raise ConfigError(f"{file} is not TOML: it nests too deeply", help="write lists of numbers") from problem
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        if has_suffix(file) and file.is_file():
            raise ConfigError(
                f"{file} holds rows, not settings", help=f"name it as data: --data {file} --target COLUMN"
            ) from problem
        if isinstance(problem, tomllib.TOMLDecodeError):
            raise ConfigError(
                f"{file} is not TOML: {problem}", help="lines look like: epochs = 10, or in [rates]: layer1 = 0.01"
            ) from problem
        said = problem.strerror if isinstance(problem, OSError) else "it is not text in UTF-8"
        raise ConfigError(f"cannot read {file}: {said}", help="name a TOML file in UTF-8") from problem
    for key in ("data", "test"):
        named = settings.get(key)
        if isinstance(named, str) and not Path(named).is_absolute() and (file.parent / named).is_file():
            settings[key] = str(file.parent / named)
    settings.setdefault("name", name_from(file.stem))
    return settings


def _check_rates(settings: Mapping[str, Any], where: str) -> None:
    """Check rates before the rest, so that one of the wrong type gets the same words as one out of range."""
    rates, compare = settings.get("rates"), settings.get("compare")
    sweep = compare.get("sweep") if isinstance(compare, Mapping) else None
    if rates is None and sweep is None:
        return
    if rates is not None and (not isinstance(rates, Mapping) or not rates):
        raise ConfigError(
            f"rates in {where} is not a table", help="write a [rates] table with lines like layer1 = 0.01"
        )
    from lrdiff_core.rates.values import check_rate  # here: it brings torch, which no other setting needs

    own = settings.get("model") is not None  # whose plan reads more than rates of layers
    layers = {} if own or rates is None else rates
    for layer, rate in layers.items():
        check_rate(rate, f'learning rate of layer "{layer}"')
    for rate in sweep if isinstance(sweep, list | tuple) else ():
        check_rate(rate, f"learning rate in compare.sweep of {where}")


def name_from(stem: str) -> str:
    """Make a run's name from a file's: letters, digits, dots, dashes and underscores, 80 at most."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem).lstrip("._-")
    return safe[:80] or "run"


def _readable(problem: ValidationError, where: str) -> ConfigError:
    first = problem.errors()[0]
    loc = first["loc"][:1] if first["loc"][0] == "test" else first["loc"]  # a share or a file: pydantic names which
    path = [str(part) for part in loc]
    place = f"entry {loc[-1] + 1} of " if isinstance(loc[-1], int) else ""
    key = place + ".".join(str(part) for part in loc if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        fields = CompareConfig.model_fields if path[0] == "compare" and len(path) > 1 else RunConfig.model_fields
        return ConfigError(f'unknown key "{key}" in {where}', help=nearest(path[-1], fields, "keys", most=len(fields)))
    value = first["input"]
    if path == ["device"]:
        return ConfigError(f"{key} in {where} is {value!r}", help=nearest(str(value), DEVICES, "one of"))
    field = RunConfig.model_fields.get(path[0])
    choices = get_args(field.annotation) if field is not None else ()
    if first["type"] == "literal_error" and choices:
        return ConfigError(f"{key} in {where} is {value!r}", help=nearest(str(value), map(str, choices), "one of"))
    return ConfigError(f"{key} in {where} is {value!r}", help=_way_out(first))


def _way_out(problem: Mapping[str, Any]) -> str:
    """What to write instead, for pydantic's kinds of problem."""
    kind, limits = problem["type"], problem.get("ctx", {})
    for limit, words in (("ge", "of at least"), ("gt", "above"), ("le", "of at most"), ("lt", "below")):
        if limit in limits:
            return f"write a number {words} {limits[limit]:g}"
    if kind in ("too_short", "too_long"):
        least, most = limits.get("min_length"), limits.get("max_length")
        return f"write a list of at {'least' if most is None else 'most'} {least if most is None else most} entries"
    words_by_kind = {
        "int": "write a whole number, such as 10",
        "float": "write a number, such as 0.1",
        "bool": "write true or false",
        "string": "write letters, digits, dots, dashes and underscores, 80 at most"
        if kind in ("string_pattern_mismatch", "string_too_long")
        else "write a text in quotes",
        "tuple": "write a list, such as [16, 8]",
        "model": "write a table of its own, such as [compare] with seeds = 20",
        "dict": "write a table of its own, such as [rates] with layer1 = 0.01",
    }
    message: str = problem["msg"]
    return words_by_kind.get(kind.partition("_")[0], message[0].lower() + message[1:])
