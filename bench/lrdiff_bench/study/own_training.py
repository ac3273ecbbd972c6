"""A study around any training: a plain function ``train(rates, seed)``, with its groups and rates stated beside it."""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.workloads.common import check_trials
from lrdiff_bench.study.workloads.outcomes import mask_diverged
from lrdiff_bench.study.workloads.workload import FEWEST, Outcomes, Scheme, Trials, Workload, usual_schemes
from lrdiff_bench.system.factory import find, is_factory, make, their_fault
from lrdiff_core.errors import ConfigError, InputError
from lrdiff_core.text import nearest

__all__ = ["FunctionWorkload", "load_training", "training", "workload_named"]

SERIES = ("validation", "test", "train")
Train = Callable[[Mapping[str, float], int], Any]
Points = dict[str, list[tuple[float, float]]]  # of each series: steps and values


@dataclass(frozen=True, kw_only=True)
class FunctionWorkload(Workload):
    """A workload that a plain function trains; :func:`training` makes it, and it is still called like the function.

    Attributes:
        function: the training.
        evaluations: how many values of a training are kept, evenly over its steps.
    """

    report_seeds: int = FEWEST
    function: Train
    evaluations: int = 10

    def __call__(self, rates: Mapping[str, float], seed: int) -> Any:
        """What the function gives."""
        return self.function(rates, seed)

    @property
    def at_once(self) -> int:
        """One: trainings come one after the other, and each is kept as soon as it is there."""
        return 1

    def train(self, trials: Trials) -> Outcomes:
        """Call the function for each of them."""
        check_trials(self, trials)
        begin = time.perf_counter()
        curves = [
            self._curves(rates, int(seed), trials.judged_on)
            for rates, seed in zip(trials.rates, trials.seeds, strict=True)
        ]
        seconds = time.perf_counter() - begin
        return mask_diverged(
            np.array([metric for metric, _ in curves]),
            np.array([loss for _, loss in curves]),
            evaluated_after=np.array(self.evaluated_after()),
            seconds_a_step=seconds / (len(curves) * self.steps),
        )

    def train_one(self, trials: Trials, stop: Callable[[float, float], bool]) -> tuple[float, float]:
        """Train one; a function that yields its values can be ended early."""
        at = float(self.steps)

        def told(step: float, value: float) -> bool:
            nonlocal at
            ends = stop(step, value)
            at = step if ends else at
            return ends

        metric, _ = self._curves(trials.rates[0], int(trials.seeds[0]), trials.judged_on, told)
        diverged = not np.isfinite(metric).all()
        return math.nan if diverged else float(metric[-1]), at / self.steps

    def tiny(self) -> FunctionWorkload:
        """The same: only the function knows how to do less."""
        return self

    def fingerprint(self) -> str:
        """Of the function's code, and of all in its module that the function uses; comments do not count."""
        return _fingerprint(self.function)

    def evaluated_after(self) -> list[int]:
        """Numbers of steps at which values are kept."""
        return [round(self.steps * (i + 1) / self.evaluations) for i in range(self.evaluations)]

    def _curves(
        self, rates: NDArray[np.float64], seed: int, judged_on: str, stop: Callable[[float, float], bool] | None = None
    ) -> tuple[Any, Any]:
        """The metric on the split that is asked for, and the training loss, both [evaluations]."""
        given = dict(zip(self.groups, map(float, rates), strict=True))
        found: Points = {}
        with _seeded(seed):
            try:
                made = self.function(given, seed)
                for step, name, value in self._values(made):
                    found.setdefault(name, []).append((step, value))
                    if stop is None or name != "validation" or not isinstance(made, Iterator):
                        continue
                    if step >= self.evaluated_after()[0] and stop(step, value):
                        break
            except ArithmeticError:  # an overflow, a check for NaN: this training diverged
                lost = np.full(self.evaluations, math.nan)
                return lost, lost
            except InputError:
                raise
            except (Exception, SystemExit) as problem:
                raise their_fault(f"{self.name}, seed {seed}", problem) from problem
        if "validation" not in found:
            given_names = ", ".join(found) or "nothing"
            raise InputError(
                f'{self.name} gives {given_names}, and no series "validation"',
                help='give {"validation": {step: value, ...}}, or {step: value, ...}',
            )
        metric = found["validation" if judged_on == "validation" or "test" not in found else "test"]
        return self._on_grid(metric), self._on_grid(found.get("train", metric))

    def _values(self, found: Any) -> Iterator[tuple[float, str, float]]:
        """Step, series and value of all that a training gave."""
        if isinstance(found, Iterator):
            for one in found:
                if not (isinstance(one, tuple) and len(one) == 2):
                    raise self._not_a_series(one)
                step, value = one
                named = value if isinstance(value, Mapping) else {"validation": value}
                for name, number in named.items():
                    yield self._step(step), self._series(name), self._number(number)
        elif isinstance(found, Mapping) and any(isinstance(key, str) for key in found):
            for name, series in found.items():
                known = self._series(name)
                yield from ((step, known, value) for step, value in self._pairs(series))
        else:
            yield from ((step, "validation", value) for step, value in self._pairs(found))

    def _pairs(self, series: Any) -> list[tuple[float, float]]:
        if isinstance(series, Mapping):
            return [(self._step(step), self._number(value)) for step, value in series.items()]
        values = series.tolist() if hasattr(series, "tolist") else series  # an array or a tensor
        if isinstance(values, int | float):
            return [(float(self.steps), self._number(values))]
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise self._not_a_series(series)
        return [(self.steps * (i + 1) / len(values), self._number(value)) for i, value in enumerate(values)]

    def _step(self, step: Any) -> float:
        if not isinstance(step, int | float | np.number) or not 0 <= step <= self.steps:
            raise InputError(
                f"{self.name} gives a value after step {step!r}",
                help=f"a training has {self.steps} steps: give values after 1 to {self.steps}, or correct steps=",
            )
        return float(step)

    def _series(self, name: Any) -> str:
        if name not in SERIES:
            raise InputError(f"{self.name} gives the series {name!r}", help=nearest(str(name), SERIES, "series"))
        return str(name)

    def _number(self, value: Any) -> float:
        try:
            if isinstance(value, str | bool):
                raise TypeError
            return float(value)
        except (TypeError, ValueError):
            raise self._not_a_series(value) from None

    def _not_a_series(self, value: Any) -> InputError:
        return InputError(
            f"{self.name} gives {value!r:.60} of type {type(value).__name__}",
            help="give {step: value, ...}, a list of values, or {'validation': ..., 'test': ..., 'train': ...}",
        )

    def _on_grid(self, series: list[tuple[float, float]]) -> NDArray[np.float64]:
        """The last value at or before each step that is kept; a training that stopped early keeps its last value."""
        steps, values = (np.array(column) for column in zip(*sorted(series, key=lambda one: one[0]), strict=True))
        at = np.searchsorted(steps, np.array(self.evaluated_after()) + 1e-9, side="right") - 1
        if at[0] < 0:
            raise InputError(
                f"{self.name} gives its first value after step {steps[0]:g}",
                help=f"{self.evaluations} values are kept, the first after step {self.evaluated_after()[0]}: "
                f"give them more often, or write evaluations={max(1, int(self.steps // max(1.0, steps[0])))}",
            )
        return np.asarray(values[at])


def training(
    *,
    groups: Sequence[str],
    steps: int,
    base_rates: tuple[float, float] = (1e-5, 1.0),
    default_rate: float = 1e-3,
    smallest_difference: float = 0.01,
    metric: str = "loss",
    schemes: Sequence[Scheme] = (),
    report_seeds: int = FEWEST,
    evaluations: int = 10,
    name: str = "",
    title: str = "",
    question: str = "",
) -> Callable[[Train], FunctionWorkload]:
    """Return a decorator that makes a workload of a function ``train(rates, seed)``.

    The function is called with a mapping of group to rate (0: the group learns nothing) and a whole number that
    fixes rows, split, first weights and order; the generators of ``random``, ``numpy`` and ``torch`` are seeded with
    it. It gives values of the metric by step:

    - ``{step: value, ...}``, or a list of values that lie evenly over the steps;
    - ``{"validation": ..., "test": ..., "train": ...}`` with such series: validation values choose rates, test values
      judge them. Without test values, those of validation do both;
    - or it yields ``step, value`` pairs as it trains (a value, or such a mapping), and can be stopped early.

    A value that is NaN or infinite, or an ``ArithmeticError``, means that the training diverged. One that ends early
    keeps its last value.

    Args:
        groups: names of the groups of parameters, two or more.
        steps: of a training.
        base_rates: interval that the base rate is searched in.
        default_rate: that one would take without tuning.
        smallest_difference: in the metric; less does not matter.
        metric: ``"loss"`` (lower is better) or ``"accuracy"``.
        schemes: to compare with the single rate; empty: the last group at a tenth, at ten times, and free ratios.
        report_seeds: fresh seeds of each report.
        evaluations: how many values of a training are kept.
        name, title, question: of the study; made from the function's name where they are left out.

    Raises:
        ConfigError: fewer than two groups, or a number out of range.

    Example:
        >>> @training(groups=("body", "head"), steps=10, evaluations=2)
        ... def train(rates, seed):
        ...     return [1.0, 1.0 - rates["head"]]
        >>> train({"body": 0.1, "head": 0.1}, 0)
        [1.0, 0.9]
        >>> [scheme.name for scheme in train.schemes]
        ['single', 'last x 0.1', 'last x 10', 'free']
    """
    groups = tuple(groups)
    if len(groups) < 2 or len(set(groups)) < len(groups):
        raise ConfigError(f"groups are {', '.join(groups) or 'none'}", help="name two groups or more, each once")
    for what, number in (("steps", steps), ("evaluations", evaluations)):
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{what} is {number!r}", help="write a whole number from 1 up")
    if evaluations > steps:
        raise ConfigError(f"evaluations is {evaluations}, and steps {steps}", help="write at most one a step")

    def decorate(function: Train) -> FunctionWorkload:
        parts = [function.__module__.rpartition(".")[2], function.__name__]
        own = name or "-".join(part.strip("_") for part in parts if part != "__main__")
        single, *usual = usual_schemes(groups)
        return FunctionWorkload(
            name=own.replace("_", "-"),
            title=title or (inspect.getdoc(function) or "").partition("\n")[0] or f"The training {own}",
            question=question or f"Do different rates for {', '.join(groups)} help?",
            groups=groups,
            schemes=(single, *(schemes or usual)),
            metric=metric,
            base_rates=base_rates,
            default_rate=default_rate,
            smallest_difference=smallest_difference,
            steps=steps,
            report_seeds=report_seeds,
            function=function,
            evaluations=evaluations,
        )

    return decorate


def workload_named(name: str) -> Workload:
    """A workload that comes with the project, or the training that ``MODULE:NAME`` names.

    Raises:
        ConfigError, InputError: there is none.
    """
    if is_factory(name):
        return load_training(name)
    from lrdiff_bench.study.workloads.registry import make_workload

    return make_workload(name)


def load_training(source: str) -> Workload:
    """The workload that ``MODULE:NAME`` names: a function under :func:`training`, a workload, or what makes one.

    Raises:
        InputError: there is none, or it is something else.
    """
    found = find(source)
    if not isinstance(found, Workload):
        wanted = _arguments(found)
        if wanted[:2] == ["rates", "seed"]:
            raise InputError(
                f"{source} is a training whose groups are not stated",
                help='write @training(groups=("body", "head"), steps=...) above it, from lrdiff_bench.study',
            )
        found = make(source)
    if not isinstance(found, Workload):
        from torch import nn

        model = isinstance(found[0] if isinstance(found, tuple) and found else found, nn.Module)
        raise InputError(
            f"{source} gives {'a model' if model else f'a {type(found).__name__}'}, not a training",
            help=f"write lrdiff study --model {source} --data FILE" if model else "see docs/guide/own-training.md",
        )
    # the storage and the folder are called like the study
    return replace(found, name=found.name.replace("/", "-")) if "/" in found.name else found


def _arguments(found: Any) -> list[str]:
    try:
        return [] if isinstance(found, type) else list(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        return []


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """What is drawn inside without a seed of its own follows from ``seed``; outside, nothing changes."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _fingerprint(function: Train) -> str:
    """A digest of the statements of the module that the function needs, found by the names they use."""
    try:
        module = ast.parse(inspect.getsource(inspect.getmodule(function)))  # type: ignore[arg-type]
    except (OSError, TypeError, SyntaxError):  # typed in, or made by exec: there is no file
        code = getattr(function, "__code__", None)
        return hashlib.sha256(repr((code.co_code, code.co_consts) if code else function).encode()).hexdigest()[:16]
    defined: dict[str, list[ast.stmt]] = {}
    for statement in module.body:
        for name in _defines(statement):
            defined.setdefault(name, []).append(statement)
    wanted, needed = [function.__name__], dict[int, str]()
    while wanted:
        for statement in defined.pop(wanted.pop(), []):
            body = _bare(statement)
            needed[statement.lineno] = ast.dump(body)
            wanted += [node.id for node in ast.walk(body) if isinstance(node, ast.Name)]
    return hashlib.sha256("".join(needed[line] for line in sorted(needed)).encode()).hexdigest()[:16]


def _bare(statement: ast.stmt) -> ast.stmt:
    """A function without what stands above it: the study's own fields say that."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        statement.decorator_list = []
    return statement


def _defines(statement: ast.stmt) -> list[str]:
    """Names that a statement of a module gives a meaning."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(one.asname or one.name).partition(".")[0] for one in statement.names]
    return [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
