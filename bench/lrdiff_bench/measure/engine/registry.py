"""The one registry of cases, from which the command line, asv and pytest-benchmark are all made."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lrdiff_bench.measure.engine.case import Case, Metric, Workload
from lrdiff_core.errors import ConfigError, UnavailableError

__all__ = ["CASES", "CaseFamily", "case_family", "find_case"]

CASES: dict[str, CaseFamily] = {}
# The commands of `lrdiff bench`: a case of that name could not be asked for.
RESERVED = frozenset({"ab", "calibrate", "compare", "history", "ls", "pictures", "population", "run", "show", "step"})

View = Mapping[str, tuple[Any, ...]]
Build = Callable[..., Workload]


@dataclass(frozen=True, kw_only=True)
class CaseFamily:
    """One case over all its parameters.

    Args:
        name: of the family, and of its cases.
        version: see :class:`~lrdiff_bench.measure.engine.case.Case`.
        parameters: every value that each parameter may have, its default first.
        views: by name, the sub-products that a whole run measures; a parameter that a view leaves out has its default.
        quick: the sub-product that a quick run measures.
        metric: "time", or "memory" for the peak of the whole process, which needs a process of its own.
        build: makes the workload of one choice of parameters.
        unavailable: says why one choice cannot be measured here, or None; cheap, because all fronts ask first.
        summary: one line that says what is measured.
        parity: whether its workloads tell how far they are from float64; asv then follows that as it follows times.
    """

    name: str
    version: str
    parameters: View
    views: Mapping[str, View]
    quick: View
    metric: Metric
    build: Build
    unavailable: Callable[..., str | None]
    summary: str
    parity: bool = True

    def cases(self, *, quick: bool = False) -> list[Case]:
        """What a run measures: the cases of all views, each once, or of the quick one."""
        views = [self.quick] if quick else list(self.views.values())
        found = {case.label: case for view in views for case in self.view(view)}
        return list(found.values())

    def view(self, view: View) -> list[Case]:
        """The cases of a sub-product, in its order."""
        product = itertools.product(*self.full(view).values())
        return [self.case(**dict(zip(self.parameters, choice, strict=True))) for choice in product]

    def full(self, view: View) -> dict[str, tuple[Any, ...]]:
        """The view with every parameter named."""
        return {key: tuple(view.get(key, values[:1])) for key, values in self.parameters.items()}

    def case(self, **parameters: Any) -> Case:
        """The case of one choice of parameters; those left out have their defaults.

        Raises:
            ConfigError: a parameter is unknown, or has a value the family does not have.
        """
        if not parameters.keys() <= self.parameters.keys():
            raise ConfigError(
                f"case {self.name!r} was given the parameters {sorted(parameters)}",
                help=f"its parameters are: {', '.join(self.parameters) or 'none'}",
            )
        for key, value in parameters.items():
            if value not in self.parameters[key]:
                raise ConfigError(
                    f"case {self.name!r} has no {key}={value!r}",
                    help=f"values of {key}: {', '.join(map(repr, self.parameters[key]))}",
                )
        chosen: dict[str, Any] = {key: parameters.get(key, values[0]) for key, values in self.parameters.items()}
        return Case(
            name=self.name,
            parameters=chosen,
            version=self.version,
            factory=partial(self._build_available, **chosen),
            metric=self.metric,
            threads=int(chosen.get("threads", 1)),
        )

    def _build_available(self, **parameters: Any) -> Workload:
        reason = self.unavailable(**parameters)
        if reason is not None:
            raise UnavailableError(f"case {self.name!r} cannot run here: {reason}", help="choose other parameters")
        return self.build(**parameters)

    def parse(self, key: str, text: str) -> Any:
        """The value of a parameter from the command line.

        Raises:
            ConfigError: no such parameter or value.
        """
        if key not in self.parameters:
            raise ConfigError(
                f"case {self.name!r} has no parameter {key!r}",
                help=f"its parameters are: {', '.join(self.parameters) or 'none'}",
            )
        for value in self.parameters[key]:
            if str(value) == text:
                return value
        raise ConfigError(
            f"case {self.name!r} has no {key}={text}",
            help=f"values of {key}: {', '.join(map(str, self.parameters[key]))}",
        )


def case_family(
    *,
    version: str,
    parameters: View | None = None,
    views: Mapping[str, View] | None = None,
    quick: View | None = None,
    metric: Metric = "time",
    unavailable: Callable[..., str | None] | None = None,
    parity: bool = True,
) -> Callable[[Build], Build]:
    """Register the decorated function, which builds a workload from keyword parameters, under its own name.

    Args:
        version: raise it when numbers taken before can no longer be compared with those taken after.
        parameters: the values of each, the default first.
        views: sub-products by name; left out, one view of everything.
        quick: left out, the defaults alone. A parameter called ``threads`` sets torch's.
        metric: "time" or "memory".
        unavailable: called like the function; returns why this choice cannot be measured here.
        parity: False for workloads that compute nothing that could be wrong.

    Raises:
        ConfigError: the name is taken or reserved, or a view names a value that the parameter does not have.
    """

    def register(build: Build) -> Build:
        name = build.__name__
        if name in CASES:
            raise ConfigError(f"two cases are called {name!r}", help="give the function another name")
        if name in RESERVED:
            raise ConfigError(f"{name!r} is a command of `lrdiff bench`", help="give the function another name")
        family = CaseFamily(
            name=name,
            version=version,
            parameters=dict(parameters or {}),
            views=dict(views or {"": dict(parameters or {})}),
            quick=dict(quick or {}),
            metric=metric,
            build=build,
            unavailable=unavailable or _always,
            parity=parity,
            summary=inspect.cleandoc(build.__doc__ or "").split("\n")[0],
        )
        for view in (*family.views.values(), family.quick):
            family.case(**{key: values[0] for key, values in view.items()})
            family.view(view)  # a misspelt value shows here, not in the middle of a run
        CASES[name] = family
        return build

    return register


def find_case(name: str, **parameters: Any) -> Case:
    """The case of that name and those parameters; those left out have their defaults.

    Raises:
        ConfigError: there is no such case.

    Example:
        >>> from lrdiff_bench.measure.cases.main_cases import find_case
        >>> find_case("main_step", rates=2).label
        'main_step[rates=2]'
    """
    if name not in CASES:
        raise ConfigError(f"there is no case {name!r}", help=f"cases: {', '.join(CASES)}")
    return CASES[name].case(**parameters)


def _always(**parameters: Any) -> None:
    return None
