"""What makes pytest's and pytest-benchmark's options work on registered cases, or refuses those that cannot."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NO_EFFECT = {
    "--benchmark-timer": "the engine has its own clocks",
    "--benchmark-calibration-precision": "the engine makes blocks long enough for its clock",
    "--benchmark-max-time": "a case takes about two seconds; LRDIFF_BENCH_QUICK=1 makes it half a second",
    "--benchmark-warmup": "the engine warms up until the times settle",
}
_PAIR = re.compile(r"(\w+)=([^\s()]+)")


def other_code(root: Path) -> Path | None:
    """Where the code would be imported from, if that is not this checkout: pytest-benchmark names this one's commit."""
    spec = find_spec("lrdiff_core")
    place = Path(spec.origin).resolve() if spec is not None and spec.origin else None
    return None if place is None or place.is_relative_to(root.resolve()) else place.parent


def pytest_configure(config: pytest.Config) -> None:
    if other := other_code(Path(__file__).parents[1]):
        raise pytest.UsageError(
            f"this checkout's benchmarks would measure {other}: install the checkout itself, "
            "or set PYTHONPATH=.:export:bench"
        )
    # pytest's -k knows no "=": a pair becomes a word that only the items with this very value have.
    config.option.keyword = _PAIR.sub(r":\1:\2:", config.option.keyword)
    for option, why in NO_EFFECT.items():
        if any(str(word).partition("=")[0] == option for word in config.invocation_params.args):
            raise pytest.UsageError(f"{option} has no effect here: {why}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for key, value in getattr(getattr(item, "callspec", None), "params", {}).items():
            item.extra_keyword_matches.add(f":{key}:{value}:")


def pytest_benchmark_group_stats(config: pytest.Config, benchmarks: list[Any], group_by: str) -> None:
    """Let ``--benchmark-group-by=param:rates`` pass the cases that have no such parameter."""
    for name in re.findall(r"param:(\w+)", group_by):
        for one in benchmarks:
            one["params"] = {name: "-", **(one["params"] or {})}
