"""Shared by the tests of runtimes that are not Python's: where their packages are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrdiff_core.errors import UnavailableError
from lrdiff_export.runtimes import BACKENDS, register_backend
from lrdiff_export.runtimes.javascript.install import NODE_MODULES, PACKAGES, install_javascript


@pytest.fixture(scope="session")
def javascript() -> Iterator[Path]:
    """The folder where ONNX Runtime's JavaScript packages are: installed once, kept between runs, named for all."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node or npm is not installed")
    versions = "-".join(dict.fromkeys(PACKAGES.values()))
    folder = Path(os.environ.get(NODE_MODULES) or Path(tempfile.gettempdir(), f"lrdiff-node-{os.getuid()}-{versions}"))
    try:
        install_javascript(folder)
    except UnavailableError as problem:
        pytest.skip(problem.message)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NODE_MODULES, str(folder))
        yield folder


@pytest.fixture
def plant() -> Iterator[object]:
    """Register backends for one test."""
    before = dict(BACKENDS)
    yield register_backend
    BACKENDS.clear()
    BACKENDS.update(before)
