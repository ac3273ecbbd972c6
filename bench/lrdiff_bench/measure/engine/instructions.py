"""Instruction counts: a metric that does not depend on a quiet machine.

Counted by valgrind's callgrind through torch's own benchmark utilities. A run takes a minute or two whatever is
measured, because torch is imported under valgrind. Valgrind 3.19 knows no AVX-512, so code under it is limited to AVX2
by the libraries' own variables; counts compare with counts, not with times. One thread, no CUDA, no torch.compile.

Source: https://docs.pytorch.org/docs/stable/benchmark_utils.html, ``Timer.collect_callgrind``
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lrdiff_bench.measure.engine.case import Case
from lrdiff_core.errors import UnavailableError

__all__ = ["check_valgrind", "count_instructions"]

STEPS = 100
_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


def count_instructions(case: Case, *, steps: int = STEPS) -> float:
    """Instructions of one step of a registered case, its own interpreter's included.

    Args:
        case: named in the registry; it is built again under valgrind.
        steps: what is counted is divided by it.

    Raises:
        UnavailableError: there is no valgrind, or it knows an instruction of the case's code not.
    """
    from torch.utils.benchmark import Timer

    check_valgrind()
    setup = (
        "import torch\n"
        "from lrdiff_bench.measure.engine.registry import find_case\n"
        f"torch.set_num_threads({case.threads})\n"
        f"workload = find_case({case.name!r}, module={case.module!r}, **{dict(case.parameters)!r}).factory()\n"
        "workload.step()\nworkload.reset()"
    )
    with _environment(_for_valgrind()):
        # The kernel is compiled without valgrind, so that only its loading is waited for under it.
        try:
            stats = Timer("workload.step()", setup).collect_callgrind(
                steps, repeats=None, collect_baseline=False, retain_out_file=False
            )
        except OSError as problem:
            last = str(problem).strip().splitlines()
            known = next((line for line in last if "Unrecognised instruction" in line), last[-1])
            raise UnavailableError(
                f"callgrind cannot count {case.label}: {known}", help="leave out --instructions for this case"
            ) from problem
    return stats.counts(denoise=False) / steps


def check_valgrind() -> None:
    """Raise UnavailableError where there is no valgrind."""
    if shutil.which("valgrind") is None:
        raise UnavailableError("valgrind is not installed", help="install valgrind, or leave out --instructions")


def _for_valgrind() -> dict[str, str]:
    # torch starts the `python` of PATH.
    found = {**_AVX2, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))}
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler and os.uname().machine == "x86_64":
        found["CC"] = f"{compiler} -mno-avx512f"
    return found


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
