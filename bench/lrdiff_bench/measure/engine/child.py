"""The measuring process: one case, driven block by block through a pipe.

The parent writes one JSON request a line, this process answers each with one line:

- ``{"case": NAME, "module": MODULE, "parameters": {...}, ...}`` builds the case and warms it up;
- ``{"do": "block"}`` measures one block and answers with its times;
- ``{"do": "end"}`` takes parity and tells everything that is not a sample.

The parent decides the order of blocks, so two of these processes can be measured in turn, block against block, even
where they hold two commits of the code. With ``--fork`` every case gets a forked copy of this process, which has
loaded torch already: 50 ms instead of seconds. Not for CUDA and MPS, whose drivers do not survive a fork.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from dataclasses import asdict
from typing import IO, Any

import torch

from lrdiff_bench.measure.engine.record_builder import describe_timer
from lrdiff_bench.measure.engine.registry import find_case
from lrdiff_bench.measure.engine.timer import Timer
from lrdiff_bench.report.json import json_line
from lrdiff_bench.system.machine import describe_conditions
from lrdiff_core.errors import LrdiffError

__all__ = ["load_ahead", "serve"]


def load_ahead(*modules: str) -> None:
    """Load what the first optimizer of a process would load (half a second), so that forked copies have it.

    What is loaded is then taken out of the garbage collector's sight: a collection in a copy would write to all of
    it, and every page written to has to be copied (0.3 s).

    Args:
        modules: names of others to load, at the price of their memory in every copy.
    """
    for module in modules:
        importlib.import_module(module)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    gc.collect()
    gc.freeze()


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer requests about one case until ``end``; the case is named by the first."""
    first = requests.readline()
    if not first:
        raise EOFError
    _case(json.loads(first), requests, answers)


def _case(request: dict[str, Any], requests: IO[str], answers: IO[str]) -> None:
    case = find_case(request["case"], module=request["module"], **request["parameters"])
    torch.set_num_threads(case.threads)
    gc.disable()
    conditions = describe_conditions(request["device"], torch.get_num_threads())
    timer = Timer(case, target_seconds=request["block_seconds"], warmup_seconds=request["warmup_seconds"])
    if case.metric == "memory":
        timer.workload.step()
    else:
        timer.warm_up()
    _answer(answers, {"ready": True, "number": timer.number})
    while (line := requests.readline()) and json.loads(line)["do"] == "block":
        _answer(answers, dict(timer.sample()._asdict()))
    _answer(answers, describe_timer(timer) | {"conditions": asdict(conditions)})


def _answer(answers: IO[str], document: dict[str, Any]) -> None:
    answers.write(json_line(document))
    answers.flush()


def _serve_reporting(requests: IO[str], answers: IO[str]) -> int:
    """Serve one case; an error of ours is an answer too. Any other ends the process, with its traceback on stderr.

    Where whoever asks is gone there is nobody to tell.
    """
    try:
        try:
            serve(requests, answers)
        except LrdiffError as problem:
            _answer(answers, {"error": problem.message, "help": problem.help, "exit_status": problem.exit_status})
            return 1
    except (EOFError, BrokenPipeError):
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Serve one case, or with ``--fork`` a forked copy for each case until stdin ends."""
    # What cases print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Unbuffered: a forked copy must find the next request in the pipe, not in its parent's buffer.
    requests = os.fdopen(0, buffering=1, closefd=False)
    if "--fork" not in arguments:
        return _serve_reporting(requests, answers)
    load_ahead()
    while True:
        child = os.fork()
        if child == 0:
            return _serve_reporting(requests, answers)
        _, status = os.waitpid(child, 0)
        if status:  # its pipe is in an unknown state, or there is nothing more to do
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
