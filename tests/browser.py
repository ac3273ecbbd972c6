"""A real browser for tests of pages: the system's Chromium, driven by Playwright.

``conftest.py`` hands the fixtures to all tests. A page that logs an error, throws, or asks for anything outside its own
file fails its test, whatever else the test looks at.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["accessibility_faults", "browser", "javascript", "open_page"]

OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
OWN = ("file:", "blob:", "data:", "about:")
PATIENCE = 60_000  # milliseconds, on a busy machine


@pytest.fixture(scope="module")  # not longer: while Playwright runs, no other test can start an event loop
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    from lrdiff_core.errors import UnavailableError
    from lrdiff_export.runtimes.javascript.install import find_chromium

    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    try:
        chromium = find_chromium()
    except UnavailableError as problem:
        pytest.skip(problem.message)
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def javascript() -> Iterator[Path]:
    """The folder where ONNX Runtime's JavaScript packages are: installed once, kept between runs, named for all."""
    from lrdiff_core.errors import UnavailableError
    from lrdiff_export.runtimes.javascript.install import NODE_MODULES, PACKAGES, install_javascript

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
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file as a page, ``open_page(path, width=800, scheme="dark")``; at the end of the test it must be clean."""
    pages, faults = [], []

    def open_it(file: Path, *, width: int = 1400, height: int = 900, scheme: str = "light", **options: Any) -> Any:
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda asked: asked.url.startswith(OWN) or faults.append(f"asked for {asked.url[:100]}"))
        page.goto(Path(file).resolve().as_uri())
        pages.append(page)
        return page

    yield open_it
    for page in pages:
        page.close()
    assert not faults, faults


def accessibility_faults(page: Any) -> list[str]:
    """What axe-core finds serious or critical: rule, help and the first element it concerns."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page.evaluate(Path(package.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [
        f"{fault['id']}: {fault['help']}: {fault['nodes'][0]['html'][:120]} {fault['nodes'][0]['failureSummary'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
