"""Shared by the tests of runtimes: backends that are registered for one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lrdiff_export.runtimes import BACKENDS, register_backend


@pytest.fixture
def plant() -> Iterator[object]:
    """Register backends for one test."""
    before = dict(BACKENDS)
    yield register_backend
    BACKENDS.clear()
    BACKENDS.update(before)
