"""Scripts of many shapes, run three ways: as they are, with torch's fused step, and with ours."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lrdiff_bench.boost.command import boosted
from lrdiff_bench.boost.report import Report
from lrdiff_bench.system.script import run_script

TESTS = Path(__file__).parents[2] / "tests"
SCRIPTS = sorted((TESTS / "bench" / "boost" / "scripts").glob("*.py"))
OF_LIBRARIES = sorted((TESTS / "interop" / "boost_scripts").glob("*.py"))  # which import one
KINDS = (torch.optim.Adam, torch.optim.SGD)


def expected(script: Path) -> tuple[int, int, str]:
    """How many optimizers are replaced, of how many, and why one is left: the script's first comment says so."""
    found = re.search(r"^# boost: (\d+) of (\d+)(?:: (.*))?$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, script
    return int(found[1]), int(found[2]), found[3] or ""


def printed(run: Callable[[], Any]) -> tuple[str, Any]:
    """What a run prints, and returns."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        result = run()
    return text.getvalue(), result


def plain(script: Path, arguments: Sequence[str] = ()) -> str:
    text, status = printed(lambda: run_script(script, arguments))
    assert status == 0
    return text


def fused(script: Path, arguments: Sequence[str] = (), *, lasting: bool = False) -> str:
    with torch_fused(lasting=lasting):
        return plain(script, arguments)


def with_ours(script: Path, arguments: Sequence[str] = (), *, check: int = 0) -> tuple[str, Report]:
    text, report = printed(lambda: boosted([str(script), *arguments], check=check, estimate=False))
    assert report.status == 0
    return text, report


def numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


@contextlib.contextmanager
def torch_fused(*, lasting: bool = False) -> Iterator[None]:
    """Torch's optimizers with ``fused=True`` in every group that says nothing and can have it: none of our code.

    Args:
        lasting: a group keeps what its first step was given, which costs later ones nothing, and a script can see it.
    """
    homes = (*KINDS, torch.optim.AdamW)
    before = [dict(vars(kind)) for kind in homes]
    for kind in KINDS:
        own: Any = vars(kind)["step"]
        theirs = own.__wrapped__ if getattr(own, "hooked", False) else own

        @functools.wraps(theirs)
        def step(self: Any, closure: Any = None, theirs: Any = theirs, kind: type = kind) -> Any:
            if lasting and vars(self).get("_decided") == len(self.param_groups):
                return theirs(self, closure)
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            chosen = [group for group in self.param_groups if _fits(self, kind, group)]
            for group in chosen:
                group["fused"] = True
            try:
                theirs(self)
            finally:
                for group in chosen:
                    group["fused"] = True if lasting else None
                self._decided = len(self.param_groups)
            return loss

        kind.step = step
    if "step" in vars(torch.optim.AdamW):  # a wrapped copy, of an instance made before
        del torch.optim.AdamW.step
    try:
        yield
    finally:
        for kind, attributes in zip(homes, before, strict=True):
            if "step" in attributes:
                kind.step = attributes["step"]
            elif "step" in vars(kind):
                del kind.step


def _fits(optimizer: Any, kind: Any, group: dict[str, Any]) -> bool:
    if group["foreach"] is not None or group["fused"] is not None or group["differentiable"]:
        return False
    if type(optimizer)._init_group.__module__ != kind.__module__ or torch.compiler.is_compiling():
        return False
    return all(_plain(param) for param in group["params"] if param.grad is not None)


def _plain(param: Tensor) -> bool:
    grad = param.grad
    kinds = type(param) in (Tensor, Parameter) and param.dtype in (torch.float32, torch.float64)
    return kinds and grad is not None and grad.layout is torch.strided and param.is_cpu
