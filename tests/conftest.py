"""Fixtures and marks of all tests. It imports torch only where a test needs a device, and nothing that is optional."""

from __future__ import annotations

import gc

import pytest
from browser import browser, javascript, open_page  # noqa: F401  (fixtures)


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
