"""The guide's page in a real browser: onnxruntime-web (wasm) in headless Chromium answers the golden vectors."""

from __future__ import annotations

import functools
import http.server
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_export_golden import published, spoil  # noqa: F401  (fixtures)

from lrdiff_export.runtimes.javascript.workers import WORKER

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "export.md"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("published", ["main, binary"], indirect=True),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]


PATIENCE = 240  # seconds: how long a browser takes on a busy machine is no part of what is tested
REPORTS: queue.Queue[dict[str, object]] = queue.Queue()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Says nothing on stderr, and knows what a module script is."""

    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def do_POST(self) -> None:
        """Take the page's report."""
        REPORTS.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(published: Path, javascript: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:  # noqa: F811
    """A folder with everything the guide says to serve, and its address on the loopback."""
    folder = tmp_path / "site"
    shutil.copytree(published.parent, folder)
    for file in folder.iterdir():  # the guide calls the model model.onnx
        file.rename(folder / file.name.replace(published.stem, "model"))
    shutil.copy(WORKER, folder)
    (folder / "dist").symlink_to(javascript / "node_modules" / "onnxruntime-web" / "dist")
    page = re.search(r"```html\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert page is not None, "the guide has no page"
    # The console cannot be read from outside: the same report is sent to the server, and so is what goes wrong.
    shown = page[1].replace("console.log(", "window.done(")
    script = """<script>
      const send = (report) => fetch("report", { method: "POST", body: JSON.stringify(report) });
      window.done = (passed, verdicts) => send({ passed, verdicts });
      window.onerror = (text) => send({ error: String(text) });
      window.onunhandledrejection = (event) => send({ error: String(event.reason) });
    </script>"""
    (folder / "index.html").write_text(script + shown, encoding="utf-8")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    thread.join()
    server.server_close()


def report_of(address: str, profile: Path) -> dict[str, object]:
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", address]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return REPORTS.get(timeout=PATIENCE)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)  # its renderers, too
        browser.wait()


def test_the_page_of_the_guide_agrees_in_chromium(site: tuple[Path, str], tmp_path: Path) -> None:
    report = report_of(site[1], tmp_path / "profile")
    assert report.get("passed") is True, report
    assert report["verdicts"]


def test_the_page_sees_a_wrong_weight(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = site
    spoil(folder / "model.onnx")
    report = report_of(address, tmp_path / "profile")
    assert report.get("passed") is False, report
