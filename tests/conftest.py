"""Fixtures and marks of all tests. It imports torch only where a test needs a device, and nothing that is optional."""

from __future__ import annotations

import gc
import os
import zlib

import pytest
from browser import browser, javascript, open_page  # noqa: F401  (fixtures)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What lrdiff keeps for its user, such as the factories that were named, is kept elsewhere for tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="K/N", help="only the files of the K-th of N parts, from 1 on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the files of one part: which those are follows from their names alone."""
    if (given := config.getoption("--part")) is None:
        return
    part, _, parts = given.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--part {given}: it is K/N, such as 1/8")
    left = [one for one in items if zlib.crc32(one.nodeid.partition("::")[0].encode()) % int(parts) == int(part) - 1]
    kept = set(left)
    config.hook.pytest_deselected(items=[one for one in items if one not in kept])
    items[:] = left


def pytest_collection_finish() -> None:
    """What all tests and their libraries are made of stays: a collection that walks it takes seconds each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a device that is not here, and say why not."""
    for mark in item.iter_markers("accelerator"):
        from lrdiff_core.devices import device_status

        for device in mark.args:  # without one, the test itself says what it needs
            if (reason := device_status(device).reason) is not None:
                pytest.skip(f"needs {device}: {reason}")
