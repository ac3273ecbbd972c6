"""Processes that run ONNX models in JavaScript until they are closed: node, and headless Chromium."""

from __future__ import annotations

import atexit
import functools
import http.server
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lrdiff_core.errors import ModelFileError, UnavailableError
from lrdiff_export.runtimes.javascript.install import find_chromium, find_node, find_package
from lrdiff_export.runtimes.process import JobProcess, ProcessEndedError

__all__ = ["ChromiumWorker", "NodeWorker", "Worker"]

WORKER = Path(__file__).with_name("onnx_worker.mjs")
START_SECONDS = 60.0  # a browser on a busy machine
JOB_SECONDS = 60.0
POLL_SECONDS = 5.0  # the browser asks again after so long without a job
LOOK_SECONDS = 0.5  # between two looks at whether the browser still runs
# One profile, no network of its own, no first-run pages; a sandbox needs what containers do not give.
CHROMIUM_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-dev-shm-usage",
)  # fmt: skip
PAGE = """<!doctype html><script type="module">
import * as ort from "/dist/ort.wasm.min.mjs";
import {serve} from "/onnx_worker.mjs";
await serve(ort);
</script>"""


class Worker(Protocol):
    """A process that answers jobs; a protocol, because node and a browser are spoken to so differently."""

    runs: str  # what runs the JavaScript, with its version
    pid: int

    def offer(self, file: bytes | Path) -> str:
        """Put a file where the process can read it, and return the place."""

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Send one job and return its answer."""

    def close(self) -> None:
        """End the process."""


class NodeWorker:
    """A package of ONNX Runtime under node.

    Args:
        package: ``onnxruntime-web`` or ``onnxruntime-node``.
        memory: bytes of data that the process may hold, on Linux; None for no limit.

    Raises:
        UnavailableError: node or the package is not here, or does not start.
    """

    def __init__(self, package: str, memory: int | None = None) -> None:
        command = [find_node(), str(WORKER), "--serve", str(find_package(package)), package]
        self._scratch = tempfile.TemporaryDirectory(prefix="lrdiff-node-")
        try:
            self._process = JobProcess(command, seconds=START_SECONDS)
        except ProcessEndedError as problem:
            self._scratch.cleanup()
            raise UnavailableError(f"{package} does not start: {problem}", help="see lrdiff doctor") from problem
        self.pid, self.runs = self._process.pid, str(self._process.ready["runs"])
        if memory is not None and sys.platform == "linux":
            import resource  # not on Windows

            # Not of address space: JavaScript reserves far more than it uses.
            resource.prlimit(self.pid, resource.RLIMIT_DATA, (memory, memory))
        self._offered = 0

    def offer(self, file: bytes | Path) -> str:
        """Return the path of a file, written where there are only bytes."""
        if isinstance(file, bytes):
            self._offered += 1
            path = Path(self._scratch.name, f"{self._offered}.onnx")
            path.write_bytes(file)
            file = path
        return str(file.resolve())

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Send one job and return its answer.

        Raises:
            ModelFileError: node ended, or takes too long.
        """
        try:
            return self._process.ask(job, seconds=JOB_SECONDS)
        except ProcessEndedError as problem:
            raise ModelFileError(f"node: {problem}", help="try a smaller model, and see lrdiff doctor") from problem

    def close(self) -> None:
        """End the process."""
        self._process.close()
        self._scratch.cleanup()


class ChromiumWorker:
    """onnxruntime-web (WebAssembly) in headless Chromium, on a page served on the loopback.

    Raises:
        UnavailableError: Chromium or onnxruntime-web is not here, or the page does not start.
    """

    def __init__(self) -> None:
        chromium, dist = find_chromium(), find_package("onnxruntime-web") / "onnxruntime-web" / "dist"
        self._jobs: queue.Queue[Mapping[str, Any]] = queue.Queue()
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._files: list[bytes | Path] = []
        handler = functools.partial(_Handler, self._jobs, self._answers, dist, self._files)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self._profile = tempfile.TemporaryDirectory(prefix="lrdiff-chromium-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [chromium, *CHROMIUM_OPTIONS, f"--user-data-dir={self._profile.name}", self.address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self._process.pid
        atexit.register(self.close)  # a browser does not end with the program that started it
        try:
            agent = str(self._next(START_SECONDS)["runs"])
            self.runs = f"Chromium {agent.partition('Chrome/')[2].split(' ')[0]}"
        except ModelFileError as problem:
            self.close()
            raise UnavailableError(f"Chromium does not start: {problem.message}", help="see lrdiff doctor") from problem

    @property
    def address(self) -> str:
        """Of the page, on the loopback."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def _next(self, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                return self._answers.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if self._process.poll() is not None:
                    raise ModelFileError(
                        f"Chromium ended ({self._process.returncode})", help="see lrdiff doctor"
                    ) from None
        raise ModelFileError(f"no answer from Chromium in {seconds:g} s", help="try a smaller model")

    def offer(self, file: bytes | Path) -> str:
        """Return the address of a file on the page's server."""
        self._files.append(file)
        return f"/offered/{len(self._files) - 1}"

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Send one job and return its answer.

        Raises:
            ModelFileError: it takes too long.
        """
        self._jobs.put(job)
        return self._next(JOB_SECONDS)

    def close(self) -> None:
        """End the browser, the server and the profile."""
        atexit.unregister(self.close)
        self._jobs.put({"job": "stop"})
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._profile.cleanup()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page, the worker, onnxruntime-web's own files and models; hands out jobs and takes answers."""

    def __init__(
        self, jobs: queue.Queue[Mapping[str, Any]], answers: queue.Queue[dict[str, Any]], dist: Path,
        files: Sequence[bytes | Path], *rest: Any,
    ) -> None:  # fmt: skip
        self.jobs, self.answers, self.dist, self.files = jobs, answers, dist, files
        super().__init__(*rest)

    def do_GET(self) -> None:
        """Serve a file."""
        kinds = {".mjs": "text/javascript", ".wasm": "application/wasm"}
        path = self.path.split("?")[0]
        if path == "/":
            self._send(PAGE.encode(), "text/html")
        elif path == "/onnx_worker.mjs":
            self._send(WORKER.read_bytes(), "text/javascript")
        elif path.startswith("/offered/") and path[9:].isdecimal() and int(path[9:]) < len(self.files):
            offered = self.files[int(path[9:])]
            self._send(offered if isinstance(offered, bytes) else offered.read_bytes(), "application/octet-stream")
        elif (file := self.dist / Path(path).name).is_file() and path == f"/dist/{file.name}":
            self._send(file.read_bytes(), kinds.get(file.suffix, "application/octet-stream"))
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """Take an answer, and hand out the next job as soon as there is one."""
        answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "waited" not in answer:
            self.answers.put(answer)
        try:
            job = self.jobs.get(timeout=POLL_SECONDS)
        except queue.Empty:
            job = {"job": "wait"}
        self._send(json.dumps(job).encode(), "application/json")

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""
