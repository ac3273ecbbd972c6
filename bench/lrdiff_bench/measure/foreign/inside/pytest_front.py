"""pytest-benchmark's suites: pytest runs the one test, and where it calls ``benchmark``, blocks are measured instead.

The fixture is pytest-benchmark's own; its two ways of measuring, ``benchmark(...)`` and ``benchmark.pedantic(...)``,
are replaced. The test waits there while the other side's blocks are taken, and then goes on to its assertions.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrdiff_bench.measure.foreign.inside.blocks import Work
from lrdiff_bench.measure.foreign.inside.refusal import Refused

__all__ = ["find_all", "run_test"]

Serve = Callable[[Work], None]


def find_all(suite: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every test that asks for the fixture ``benchmark``; and files that cannot be read, with the reason."""
    pytest: Any = _pytest()
    found: list[dict[str, Any]] = []
    broken: dict[str, str] = {}

    class Collect:
        @pytest.hookimpl(tryfirst=True)  # type: ignore[untyped-decorator]
        def pytest_configure(self, config: Any) -> None:
            _let_all_through(config)

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                broken[report.nodeid] = _last_line(report.longrepr)

        def pytest_collection_finish(self, session: Any) -> None:
            for item in session.items:
                if "benchmark" in getattr(item, "fixturenames", ()):
                    _, _, rest = item.nodeid.partition("::")
                    _name, bracket, _ = rest.partition("[")
                    parameters = getattr(getattr(item, "callspec", None), "params", {})
                    found.append(
                        {
                            "id": item.nodeid,
                            "name": f"{os.path.relpath(item.path)}::{rest}",
                            "parameters": {key: _plain(value) for key, value in parameters.items()} if bracket else {},
                            "index": None,
                            "cache": None,
                            **_limit(item),
                        }
                    )

    options = [*_options(), "--collect-only", "--continue-on-collection-errors"]
    status = pytest.main([str(suite), "-q", *options], plugins=[Collect()])
    if int(status) not in (0, 5) and not broken:
        raise Refused(
            f"pytest could not collect {suite.name}, it ended with status {int(status)}",
            "run `pytest --collect-only` there",
        )
    return found, broken


def run_test(name: str, serve: Serve) -> str | None:
    """Run one test; ``serve`` is called with its work when it measures.

    Args:
        name: file and test, as pytest takes them.
        serve: returns when no more blocks are wanted.

    Returns:
        Why it was skipped or failed, or None.
    """
    pytest = _pytest()
    from pytest_benchmark.fixture import BenchmarkFixture

    served: list[bool] = []
    said: list[str] = []

    def measure(work: Work) -> None:
        if served:
            raise RuntimeError("the fixture benchmark can be used once in a test")
        served.append(True)
        serve(work)

    def call(self: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._mode = "benchmark(...)"
        measure(Work(lambda: function(*args, **kwargs), collect=True))
        return function(*args, **kwargs)

    def pedantic(
        self: Any, target: Callable[..., Any], args: Any = (), kwargs: Any = None, setup: Any = None,
        teardown: Any = None, rounds: int = 1, warmup_rounds: int = 0, iterations: int = 1,
    ) -> Any:  # fmt: skip
        self._mode = "benchmark.pedantic(...)"
        if setup is not None and iterations > 1:
            raise ValueError("Can't use more than 1 `iterations` with a `setup` function.")
        given: list[Any] = [args, kwargs or {}]
        taken: list[bool] = []

        def finish() -> None:
            if taken and teardown is not None:
                teardown(*given[0], **given[1])
            taken.clear()

        def before() -> None:
            finish()
            made = None if setup is None else setup()
            if made:
                if args or kwargs:
                    raise TypeError("Can't use `args` or `kwargs` if `setup` returns the arguments.")
                given[:] = made
            taken.append(True)

        def run() -> Any:
            return target(*given[0], **given[1])

        measure(Work(run, before, iterations, collect=True))
        before()
        result = run()
        finish()
        return result

    for name_, function in (("__call__", call), ("pedantic", pedantic)):
        setattr(BenchmarkFixture, name_, function)

    class Watch:
        @pytest.hookimpl(tryfirst=True)  # type: ignore[untyped-decorator]
        def pytest_configure(self, config: Any) -> None:
            _let_all_through(config)

        def pytest_collection_finish(self, session: Any) -> None:
            # Nobody reads a summary here, and plugins load their whole library for theirs.
            session.config.hook.pytest_terminal_summary = lambda **_: []

        def pytest_itemcollected(self, item: Any) -> None:
            # Here the test waits while the other side is measured, which pytest-timeout would end: our limit holds.
            for node in item.listchain():
                node.own_markers[:] = [mark for mark in node.own_markers if mark.name != "timeout"]

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.skipped:
                said.append(f"skipped: {report.longrepr[-1] if report.longrepr else ''}")
            elif report.failed:
                crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", None)
                said.append(str(crash or report.longrepr).strip().splitlines()[0])

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                said.append(_last_line(report.longrepr))

    status = int(pytest.main([name, "-q", *_options()], plugins=[Watch()]))
    if not said and status not in (0, 5):
        said.append(f"pytest itself ended with status {status}")
    return said[0] if said else None


def _options() -> list[str]:
    """One process, nothing written into the checkout, output to where it is kept."""
    options = ["-p", "no:cacheprovider", "--capture=no"]
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        return options
    if importlib.util.find_spec("xdist"):
        options.append("-n0")
    if importlib.util.find_spec("pytest_cov"):
        options.append("--no-cov")
    if importlib.util.find_spec("pytest_timeout"):
        options.append("--timeout=0")
    return options


def _limit(item: Any) -> dict[str, float]:
    """Seconds that a test may take by pytest-timeout's mark, else by its option, where either is there."""
    mark = item.get_closest_marker("timeout")
    given = None if mark is None else (mark.args or (mark.kwargs.get("timeout"),))[0]
    if given is None:
        with suppress(ValueError):  # pytest-timeout is not here
            given = item.config.getini("timeout")
    try:
        seconds = float(given or 0.0)
    except (TypeError, ValueError):
        return {}
    return {"timeout": seconds} if seconds > 0 else {}


def _last_line(longrepr: Any) -> str:
    """What an error is about: pytest marks those lines with E."""
    lines = [line.strip() for line in str(longrepr).splitlines() if line.strip()]
    told = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    return (told or lines or ["unknown"])[-1]


def _let_all_through(config: Any) -> None:
    """Undo what a project's addopts say about when benchmarks run: now they are asked for."""
    for option in ("benchmark_skip", "benchmark_only", "benchmark_disable"):
        if hasattr(config.option, option):
            setattr(config.option, option, False)


def _pytest() -> Any:
    for name in ("pytest", "pytest_benchmark"):
        if importlib.util.find_spec(name) is None:
            raise Refused(f"{name} is not installed beside the suite", f"pip install {name.replace('_', '-')}", 3)
    import pytest

    return pytest


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
