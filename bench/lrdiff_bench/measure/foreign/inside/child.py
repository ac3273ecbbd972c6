"""The measuring process of a foreign suite, run by its path with the suite's own Python.

It answers requests of one JSON line each: ``list``, ``cache``, or ``measure``, which is followed by ``block`` as often
as wanted and by ``end``. Nothing of lrdiff needs to be installed where it runs.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any


def main() -> int:
    """Answer one request, and what belongs to it."""
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    os.dup2(2, 1)  # what suites print must not get between the answers
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    here = Path(__file__).resolve().parent
    sys.path[:] = [one for one in sys.path if not one or Path(one).resolve() != here]
    asv, pytest_, blocks, refusal = _own(here)

    def answer(document: Mapping[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    request = json.loads(requests.readline())
    _keep_to(request.get("memory"))
    root = Path(request["suite"])
    try:
        if request["do"] == "list":
            cases, broken = asv.find_all(root) if request["kind"] == "asv" else pytest_.find_all(root)
            answer({"cases": cases, "broken": broken})
        elif request["do"] == "cache":
            asv.fill_cache(root, request["name"])
            answer({"ready": True})
        else:
            serve = Serving(request, requests, answer, blocks, refusal)
            if request["kind"] == "asv":
                work, finish = asv.opened(root, request["name"], request["index"])
                serve(work)
                finish()
            else:
                why = pytest_.run_test(request["name"], serve)
                if serve.problem is not None:
                    raise serve.problem
                if not serve.done:
                    if why is None or why.startswith("skipped"):
                        raise refusal.Skipped(why or "the test never called the fixture benchmark")
                    raise refusal.Refused(why, "run the test by itself; is a compiled module missing: --install")
    except refusal.Skipped as reason:
        answer({"error": str(reason), "help": "the suite itself leaves it out", "exit_status": 3})
    except refusal.Refused as problem:
        answer({"error": problem.message, "help": problem.help, "exit_status": problem.status})
    except MemoryError:
        answer({"error": "it asks for more memory than there is", "help": "see its largest setting", "exit_status": 1})
    except Exception as problem:  # noqa: BLE001 - a foreign suite may raise anything
        traceback.print_exc()
        text = f"{type(problem).__name__}: {problem}".strip().splitlines()[0]
        missing = isinstance(problem, ImportError)
        help_ = "build what is compiled: --install COMMAND" if missing else "its output is above"
        answer({"error": text, "help": help_, "exit_status": 2 if missing else 1})
    return 0


class Serving:
    """Measures blocks of a work as long as they are asked for.

    Args:
        request: the one that asked for the case.
        requests, answer: the two ends of the pipe.
        blocks, refusal: the modules of this folder.
    """

    def __init__(
        self, request: Mapping[str, Any], requests: IO[str], answer: Any, blocks: ModuleType, refusal: ModuleType
    ) -> None:
        self.request, self.requests, self.answer = request, requests, answer
        self.blocks, self.refusal = blocks, refusal
        self.problem: Exception | None = None  # pytest would take it for the test's own failure
        self.done = False

    def __call__(self, work: Any) -> None:
        """Warm up, answer every request for a block, and tell the rest at the end."""
        request = self.request
        if request.get("planted") is not None:
            work.call = self.blocks.planted(work.call, request["planted"])
        timed = self.blocks.Blocks(
            work, block_seconds=request["block_seconds"], warmup_seconds=request["warmup_seconds"]
        )
        timed.warm_up()
        wrong = _not_of_the_commit(request["packages"], Path(request["checkout"]))
        if wrong:
            self.problem = self.refusal.Refused(*wrong)
            raise self.problem
        self.answer({"ready": True, "number": timed.number})
        while (line := self.requests.readline()) and json.loads(line)["do"] == "block":
            self.answer(timed.block())
        self.answer(
            {
                "number": timed.number * timed.repeats,
                "first_call": timed.first_call,
                "warmup": timed.warmup,
                "settled": timed.settled,
                "python": platform.python_version(),
                "numpy": _version("numpy"),
                "torch": _version("torch"),
            }
        )
        self.done = True


def _not_of_the_commit(packages: Sequence[str], checkout: Path) -> tuple[str, str] | None:
    """Why what was measured is not the commit's code, and what to do; None where it is."""
    used = {name: sys.modules[name] for name in packages if name in sys.modules}
    for name, module in used.items():
        places = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", []))]
        known = [Path(place).resolve() for place in places if place]
        if known and not any(place.is_relative_to(checkout) for place in known):
            return (
                f"{name} was not imported from the commit but from {known[0].parent}",
                "an editable install puts itself first: remove it, or build each commit with --install COMMAND",
            )
    if not used:
        return (
            f"the benchmark imported nothing of the commit ({', '.join(packages) or 'no package was found'})",
            "name the folder that packages are imported from with --import-from",
        )
    return None


def _keep_to(memory: int | None) -> None:
    """Take no more memory than so many bytes, and be the one to go where the system runs out of it all the same."""
    if sys.platform != "linux":
        return
    import resource

    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if memory is not None:
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        # Of data, not of address space: libraries reserve far more than they use.
        least = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (least, most))


def _own(here: Path) -> tuple[ModuleType, ...]:
    """The modules of this folder, imported without lrdiff's own start; the suite may then import another lrdiff."""
    stub = ModuleType("lrdiff_bench")
    stub.__path__ = [str(here.parents[2])]
    sys.modules["lrdiff_bench"] = stub
    from lrdiff_bench.measure.foreign.inside import asv_front, blocks, pytest_front, refusal

    for name in [name for name in sys.modules if name.partition(".")[0] == "lrdiff_bench"]:
        del sys.modules[name]
    return asv_front, pytest_front, blocks, refusal


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    sys.exit(main())
