"""The compiled check before a step (``guard.cpp``), built once against the torch and the Python that are here.

Without a C++ compiler or the headers of Python, and with a torch older than 2.13, :func:`load` returns ``None`` and the
check is made in Python (``prepared.py``): the same faults seen, more time with cold caches.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from lrdiff_core.machine.compiled import build_first, find_compiler, open_or_reason
from lrdiff_core.optim import kernel
from lrdiff_core.optim.memory.shards import is_sharded, local_parts, shard_slots

__all__ = ["Guard", "Partly", "Places", "attempt", "load", "make", "missing_reason", "switched_off"]

_SOURCE = Path(__file__).with_name("guard.cpp")
_COMPILE = ("-O3", "-fPIC", "-shared", "-w")
_VARIANTS = (("-std=c++20",), ("-std=c++17",))
_PATIENCE_S = 120.0
_OLDEST = (2, 13)  # before, torch kept the Python objects of its tensors in another way


class Guard(Protocol):
    """What was prepared, and whether it still fits."""

    def step(self, optimizer: torch.optim.Optimizer, /) -> bool | None:
        """Step if all is as before but for numbers.

        False, and nothing done, if something is not; None where a hook, a profiler or the like wants to see the step.
        """

    def clipped_step(self, optimizer: torch.optim.Optimizer, run: int, job: int, grads: int, /) -> int | None:
        """Run another function of ``kernel.c`` on the gradients, written to ``grads``, too, and let them go.

        None, and nothing done, if one has to look closer; else what the function returned, 0 for a step.
        """


class Partly:
    """A guard of some groups, the others being left to PyTorch's own step.

    Args:
        guard: steps first.
        left: the places of the others.
    """

    def __init__(self, guard: Guard, left: list[int]) -> None:
        self._guard, self._left = guard, left

    def step(self, optimizer: Any, /) -> bool | None:
        """As :meth:`Guard.step`, and the groups that are left."""
        stepped = self._guard.step(optimizer)
        if stepped:
            optimizer._step_left(self._left)
        return stepped

    def clipped_step(self, optimizer: torch.optim.Optimizer, run: int, job: int, grads: int, /) -> None:
        """None: one call does not step all."""
        return


def load() -> type[Any] | None:
    """The class, compiled now if it is not in the cache; ``None`` where it cannot be had."""
    return None if _off or kernel.load() is None else attempt()[0]


@contextmanager
def switched_off() -> Iterator[None]:
    """Inside, what is prepared is checked in Python."""
    _off.append(True)
    try:
        yield
    finally:
        _off.pop()


_off: list[bool] = []  # one entry a block that is open


def missing_reason() -> str | None:
    """Say why there is no compiled check here, in one line; ``None`` if there is one."""
    return attempt()[1]


@functools.cache
def attempt() -> tuple[type[Any] | None, str | None]:
    """Try once in a process: the class, or why there is none."""
    if kernel.attempt()[0] is None:
        return None, kernel.missing_reason()
    if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST:
        return None, f"made for torch {_OLDEST[0]}.{_OLDEST[1]} and later"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None, "made for Pythons with a global lock"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return None, "the headers of Python are not installed (Python.h)"
    compiler = find_compiler("CXX", "g++", "clang++")
    if not compiler:
        return None, "no C++ compiler found (g++ or clang++, or set CXX)"
    return open_or_reason(compiler, _file_name(compiler), functools.partial(_build, compiler), _link)


def _places() -> tuple[str, ...]:
    home = Path(torch.__file__).parent
    headers = [str(home / "include"), sysconfig.get_path("include"), sysconfig.get_path("platinclude")]
    # libc10 is in the process already: torch's own, whatever the linker finds.
    found = [f"-I{path}" for path in dict.fromkeys(headers)]
    late = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    return (*found, abi, f"-L{home / 'lib'}", f"-Wl,-rpath,{home / 'lib'}", "-lc10", *late)


def _file_name(compiler: Sequence[str]) -> str:
    """From all that the machine code depends on: source, flags, compiler, torch, Python."""
    python = (sys.implementation.cache_tag, sysconfig.get_config_var("EXT_SUFFIX"), sys.version)
    parts = (
        _SOURCE.read_text(),
        *_COMPILE,
        str(_VARIANTS),
        *_places(),
        *compiler,
        torch.__version__,
        *map(str, python),
    )
    return f"guard-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"


def _build(compiler: Sequence[str], scratch: Path) -> Path:
    library = scratch / "guard.so"
    rest = (str(_SOURCE), "-o", str(library), *_places())
    build_first([[*compiler, *_COMPILE, *flags, *rest] for flags in _VARIANTS], patience_s=_PATIENCE_S)
    return library


def _link(path: Path) -> type[Any]:
    try:
        loader = importlib.machinery.ExtensionFileLoader("lrdiff_guard", str(path))
        spec = importlib.util.spec_from_file_location("lrdiff_guard", str(path), loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as problem:  # cut short, say
        raise OSError(str(problem)) from problem
    made: type[Any] = module.Guard
    return made


class Places(NamedTuple):
    """Addresses of a kernel form: its function, its table, and what a step writes there."""

    run: int
    table: int
    grad: int
    lr: int
    threads: int
    most_threads: int


def make(
    kind: type[Any],
    *,
    params: list[Tensor],
    locals_: list[Tensor],
    sizes: list[int],
    present: list[bool],
    states: list[dict[str, Tensor]],
    pointers: list[int],
    every_state: list[Any],
    names: tuple[str, ...],
    settings: list[Any],
    prepared: object,
    floating: bool,
    places: Places,
    group_places: list[int],
    all_groups: int,
) -> Guard | None:
    """The check for tensors that lie as they do now.

    Args:
        kind: what :func:`load` gave.
        params: of all groups in order.
        locals_: those with a gradient, of sharded ones the local parts.
        sizes: how many each group has.
        present: which of the parameters have a gradient.
        states: the state of those which have.
        pointers: of the parameters with a gradient, then of their state.
        every_state: the values of the optimizer's state.
        names: the options that are watched.
        settings: what each group has of them.
        prepared: its ``retune`` takes other numbers over, its ``settings`` becomes None where that was done without it.
        floating: whether numbers can change without becoming other objects.
        places: of the kernel form.
        group_places: where in the optimizer's list these groups stand.
        all_groups: how many it has.

    Returns:
        None where something is not as ``guard.cpp`` takes it to be.
    """
    values = list(chain.from_iterable(map(dict.values, states)))
    value_locals = local_parts(values)
    sharded = any(map(is_sharded, params))
    with suppress(ValueError, TypeError, AttributeError):
        made: Guard = kind(
            params, list(locals_), [param._cdata for param in locals_], present, sizes, states,
            values, value_locals, [value._cdata for value in value_locals], pointers, every_state, settings,
            names, prepared, vars(torch_optimizer), vars(torch.compiler), torch.get_num_threads,
            Tensor, *(shard_slots() if sharded else (None, None, None)), floating, *places[:5], places.most_threads,
            group_places, all_groups,
        )  # fmt: skip
        return made
    return None
