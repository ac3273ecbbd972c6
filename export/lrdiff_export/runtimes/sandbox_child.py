"""The process in which a file that nobody vouches for is opened: ``python -P -m lrdiff_export.runtimes.sandbox_child``.

It reads one request a line from stdin and answers one line on stdout, both JSON. For each request it forks, so that
memory and time are counted from the start every time and a crash takes only the fork. It loads no torch.

Request: ``model`` (path), ``feeds`` (path of an npz with ``input0 ...``, or null), ``out`` (path of the npz to write),
``optimise``, ``seconds``, ``bytes``, ``weights`` (bytes of weights in a second file that these limits allow for).
Answer: ``inputs`` and ``outputs`` of the model, or ``weights`` where a second file has more than that and nothing of it
was read yet, or ``error`` and, where there is something to do about it, ``help``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import Any

import numpy as np

from lrdiff_core.errors import LrdiffError
from lrdiff_export.onnx_file.load import load_onnx
from lrdiff_export.records import first_line
from lrdiff_export.runtimes.predictor import open_session


def main() -> None:
    """Answer requests until stdin ends."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        answer = _in_a_fork(request) if hasattr(os, "fork") else _answer(request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _in_a_fork(request: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _limit(request)
        with os.fdopen(writer, "w") as pipe:
            json.dump(_answer(request), pipe)
        os._exit(0)  # no clean-up of what was inherited
    os.close(writer)
    text, in_time = _read(reader, time.monotonic() + request["seconds"])
    os.close(reader)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not in_time:
        return {"error": f"{request['model']} takes longer than {request['seconds']:g} s to open and run"}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return {"error": f"{request['model']} takes longer than {request['seconds']:g} s to open and run"}
        return {"error": f"{request['model']} crashes the runtime ({signal.Signals(number).name})"}
    if not text:
        return {"error": f"{request['model']} crashes the runtime (exit status {os.WEXITSTATUS(status)})"}
    answer: dict[str, Any] = json.loads(text)
    return answer


def _read(pipe: int, until: float) -> tuple[str, bool]:
    parts: list[bytes] = []
    while True:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            return "", False
        part = os.read(pipe, 65536)
        if not part:
            return b"".join(parts).decode(), True
        parts.append(part)


def _limit(request: dict[str, Any]) -> None:
    import resource  # not on Windows, which does not fork either

    resource.setrlimit(resource.RLIMIT_AS, (request["bytes"], request["bytes"]))
    seconds = int(request["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)  # what a runtime logs about a hostile file is for nobody


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        data = load_onnx(request["model"], hashed=False)
        if data.folder is not None:
            if data.weights > request["weights"]:
                return {"weights": data.weights}
            data = load_onnx(request["model"])
        session = open_session(data, optimise=request["optimise"])
        answer: dict[str, Any] = {
            "inputs": [[one.name, one.type, list(one.shape)] for one in session.get_inputs()],
            "outputs": [[one.name, one.type, list(one.shape)] for one in session.get_outputs()],
        }
        if request["feeds"] is not None:
            with np.load(request["feeds"], allow_pickle=False) as arrays:
                feeds = {one[0]: arrays[f"input{index}"] for index, one in enumerate(answer["inputs"])}
            outputs = session.run(None, feeds)
            np.savez(request["out"], **{f"output{index}": np.asarray(one) for index, one in enumerate(outputs)})  # type: ignore[arg-type]
    except LrdiffError as problem:
        said = problem.message
        said = said if str(request["model"]) in said else f"{request['model']}: {said}"
        return {"error": said, "help": problem.help}
    except MemoryError:
        return {"error": f"{request['model']} needs more than {request['bytes'] / 2**30:.3g} GiB of memory"}
    except Exception as problem:  # noqa: BLE001 - whatever a hostile file provokes is its description
        return {"error": f"{request['model']} cannot be run: {first_line(problem)}"}
    return answer


if __name__ == "__main__":
    main()
