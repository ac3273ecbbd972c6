"""The process in which files from elsewhere are opened: ``python -P -m lrdiff_export.runtimes.sandbox_child``.

It answers one JSON line with one JSON line. Each file is opened in a fork, so that memory is counted from there and a
crash takes only the fork; the fork stays to run the file until it is closed. It loads no torch.

    {job: "open", id, backend, model, seconds, bytes, weights} gives {inputs, outputs}, or {weights} where a second file
    holds more bytes than these limits allow for and none of them was read yet
    {job: "run", id, feeds, out, seconds} gives {facts}; feeds and out are npz files
    {job: "call", model, function, arguments, seconds, bytes} gives {result} of "module:function"
    {job: "close", id} gives {}

What goes wrong gives {error, help}; after an error of ``open``, or a limit, the id is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from lrdiff_core.errors import LrdiffError
from lrdiff_export.onnx_file.load import load_onnx, model_inputs
from lrdiff_export.records import first_line
from lrdiff_export.runtimes.arrays_file import load_arrays, save_arrays
from lrdiff_export.runtimes.protocol import BACKENDS, Predict

_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main() -> None:
    """Answer jobs until stdin ends, or whoever asks is gone."""
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: whoever started this one ends it
    answer = Forks().answer if hasattr(os, "fork") else Models().answer
    with contextlib.suppress(BrokenPipeError):
        _write_line(1, {"ready": True})
        for line in sys.stdin:
            _write_line(1, answer(json.loads(line)))


@dataclass
class _Fork:
    pid: int
    jobs: int  # file descriptors
    answers: int


class Forks:
    """One fork a file; without forks, on Windows, :class:`Models` answers and only the caller's patience is a limit."""

    def __init__(self) -> None:
        self._forks: dict[int, _Fork] = {}

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Hand a job to its fork, and end the fork where it takes too long."""
        number = job.get("id", -1)
        if job["job"] == "close":
            self._end(number)
            return {}
        if job["job"] != "run":
            self._forks[number] = self._start(job)
        answer = self._ask(number, job)
        if job["job"] == "call" or (job["job"] == "open" and "inputs" not in answer):
            self._end(number)
        return answer

    def _start(self, job: dict[str, Any]) -> _Fork:
        (jobs, give), (take, answers) = os.pipe(), os.pipe()
        parent, child = os.getpid(), os.fork()
        if child:
            os.close(jobs)
            os.close(answers)
            return _Fork(child, give, take)
        try:
            os.close(give)
            os.close(take)
            for other in self._forks.values():  # or their end would not be seen
                os.close(other.jobs)
                os.close(other.answers)
            _quiet()
            if os.getppid() != parent:  # it ended before its end could end this one
                os._exit(0)
            _limit_memory(job)
            models = Models()
            with os.fdopen(jobs) as lines:
                for line in lines:
                    one = json.loads(line)
                    _limit_time(one["seconds"])
                    _write_line(answers, models.answer(one))
        finally:
            os._exit(0)  # no clean-up of what was inherited

    def _ask(self, number: int, job: dict[str, Any]) -> dict[str, Any]:
        if number not in self._forks:
            return {"error": "the file is not open"}
        fork, model = self._forks[number], job["model"]
        with contextlib.suppress(BrokenPipeError):  # how it ended is seen below
            _write_line(fork.jobs, job)
        text, in_time = _read(fork.answers, time.monotonic() + job["seconds"])
        if text:
            answer: dict[str, Any] = json.loads(text)
            return answer
        status = self._end(number)
        if not in_time or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
            return {"error": f"{model} takes longer than {job['seconds']:.3g} s to open and run"}
        if os.WIFSIGNALED(status):
            return {"error": f"{model} crashes the runtime ({signal.Signals(os.WTERMSIG(status)).name})"}
        return {"error": f"{model} crashes the runtime (exit status {os.WEXITSTATUS(status)})"}

    def _end(self, number: int) -> int:
        if (fork := self._forks.pop(number, None)) is None:
            return 0
        os.kill(fork.pid, signal.SIGKILL)  # of one that has crashed the status stays what it was
        _, status = os.waitpid(fork.pid, 0)
        os.close(fork.jobs)
        os.close(fork.answers)
        return status


class Models:
    """Opens and runs files in this process."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, Predict]] = {}

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job; whatever a hostile file provokes becomes its description."""
        model = str(job.get("model", ""))
        try:
            if job["job"] == "open":
                return self._opened(job)
            if job["job"] == "run":
                return self._run(job)
            if job["job"] == "call":
                module, _, name = job["function"].partition(":")
                return {"result": getattr(importlib.import_module(module), name)(model, **job["arguments"])}
            self._open.pop(job["id"], None)
            return {}
        except LrdiffError as problem:
            said = problem.message if model in problem.message else f"{model}: {problem.message}"
            return {"error": said, "help": problem.help}
        except MemoryError:
            return {"error": f"{model} needs more than {job['bytes'] / 2**30:.3g} GiB of memory"}
        except Exception as problem:  # noqa: BLE001 - runtimes raise what they like
            return {"error": f"{model} cannot be run: {first_line(problem)}"}

    def _opened(self, job: dict[str, Any]) -> dict[str, Any]:
        data = load_onnx(job["model"], hashed=False)
        if data.folder is not None and data.weights > job["weights"]:
            return {"weights": data.weights}
        predict = BACKENDS[job["backend"]].prepare(data if data.folder is None else Path(job["model"]))
        graph = onnx.ModelProto.FromString(data)
        self._open[job["id"]] = (job["backend"], predict)
        return {
            "inputs": [_port(one) for one in model_inputs(graph)],
            "outputs": [_port(one) for one in graph.graph.output],
        }

    def _run(self, job: dict[str, Any]) -> dict[str, Any]:
        name, predict = self._open[job["id"]]
        save_arrays(job["out"], predict(*load_arrays(job["feeds"])))
        return {"facts": dict(BACKENDS[name].facts())}


def _port(value: onnx.ValueInfoProto) -> tuple[str, str, list[int | str | None]]:
    """Name, type and shape as ONNX Runtime writes them."""
    kind = value.type.WhichOneof("value") or "unknown_type"
    if kind != "tensor_type":
        return value.name, f"{kind.removesuffix('_type')}(...)", []
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]
    return value.name, f"tensor({onnx.TensorProto.DataType.Name(tensor.elem_type).lower()})", shape


def _limit_memory(job: dict[str, Any]) -> None:
    """No more address space than asked for beyond what is taken now."""
    import resource  # not on Windows, which does not fork either

    backend = BACKENDS.get(job.get("backend", ""))
    if (library := getattr(backend, "library", None)) is not None:
        importlib.import_module(library)  # no part of what the file may take
    if backend is None or backend.device == "cpu":  # drivers of GPUs reserve more than there is
        most = job["bytes"] + _address_space()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: float) -> None:
    """Of the processor, on every core: for a fork that nobody waits for any more."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + seconds * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _address_space() -> int:
    """Bytes that this process has reserved; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _quiet() -> None:
    """What a runtime logs about a hostile file is for nobody; and nothing outlives whoever asked."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)


def _write_line(pipe: int, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(pipe, data) :]


def _read(pipe: int, until: float) -> tuple[str, bool]:
    """Read a line: what came, and whether the end of it, or of the process, came in time.

    Nothing comes in time for one that is gone. That stdin hangs up tells it, not PR_SET_PDEATHSIG: that comes when the
    thread ends that started this process.
    """
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    waiting.register(0, 0)  # for its end alone, not for the next job
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        ready = dict(waiting.poll(max(0.0, until - time.monotonic()) * 1000))
        if 0 in ready or not ready:
            return "", False
        part = os.read(pipe, 65536)
        if not part:
            return "", True
        parts.append(part)
    return b"".join(parts).decode(), True


if __name__ == "__main__":
    main()
