"""The one registry of cases, from which the command line, asv and pytest-benchmark are all made.

The engine imports no case. The modules that hold them are named here and imported when a case is first asked for by
name; a measuring process is told the module of its one case and imports nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lrdiff_bench.measure.engine.case import Case, Metric, Workload
from lrdiff_core.errors import ConfigError, UnavailableError

__all__ = ["CASES", "CaseFamily", "CaseRegistry", "case_family", "find_case"]

# In the order in which a run measures them.
MODULES = (
    "lrdiff_bench.measure.cases.main_job",
    "lrdiff_bench.measure.cases.optimizer_step",
    "lrdiff_bench.measure.cases.training",
    "lrdiff_bench.measure.cases.short_training",
    "lrdiff_bench.measure.cases.shipping",
    "lrdiff_bench.measure.cases.around",
    "lrdiff_bench.study.cases",
    "lrdiff_bench.parity.cases",
)
# The commands of `lrdiff bench`: a case of that name could not be asked for.
RESERVED = frozenset(
    {"ab", "calibrate", "compare", "history", "ls", "pictures", "population", "regressions", "run", "show", "step"}
)

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
            module=self.build.__module__,
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


class CaseRegistry(Mapping[str, CaseFamily]):
    """Families by name.

    Args:
        modules: that register families; imported when the registry is first read.

    Example:
        >>> registry = CaseRegistry()
        >>> @registry.family(version="1", parameters={"size": (1, 2)})
        ... def addition(size: int) -> Workload:
        ...     "Sum of a range."
        ...     return Workload(step=lambda: sum(range(size)))
        >>> [case.label for case in registry["addition"].cases()]
        ['addition[size=1]', 'addition[size=2]']
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = tuple(modules)
        self._families: dict[str, CaseFamily] = {}

    def family(
        self,
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
            if name in self._families:
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
            self._families[name] = family
            return build

        return register

    def find(self, name: str, /, *, module: str | None = None, **parameters: Any) -> Case:
        """The case of that name and those parameters; those left out have their defaults.

        Args:
            name: of the family.
            module: that registers it, where it is known: no other is imported.
            parameters: of the case.

        Raises:
            ConfigError: there is no such case.

        Example:
            >>> find_case("main_step", rates=2).label
            'main_step[rates=2]'
        """
        if module is None:
            self._load()
        else:
            importlib.import_module(module)
        if name not in self._families:
            raise ConfigError(
                f"there is no case {name!r}" + (f" in {module}" if module else ""),
                help=f"cases: {', '.join(self._families)}"
                if module is None
                else "a measuring process imports the case's module: write the case into a file that can be imported",
            )
        return self._families[name].case(**parameters)

    def _load(self) -> None:
        for module in self._modules:
            importlib.import_module(module)
        self._modules = ()

    def __getitem__(self, name: str) -> CaseFamily:
        self._load()
        return self._families[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._families)

    def __len__(self) -> int:
        self._load()
        return len(self._families)


def _always(**parameters: Any) -> None:
    return None


CASES = CaseRegistry(MODULES)
case_family = CASES.family
find_case = CASES.find
