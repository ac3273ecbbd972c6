"""Small libraries of C, brought by the wheel or compiled on first use, for the processor that is here.

The wheel's build hook (``.ci/build_kernel.py``) reads this file by its path, so it imports nothing of the project.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = [
    "FLAGS",
    "VARIANTS",
    "Variant",
    "brought",
    "brought_name",
    "build_first",
    "find_compiler",
    "open_cached",
    "open_or_reason",
    "processor",
    "processor_features",
    "source_text",
]

CPUINFO = Path("/proc/cpuinfo")
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", "-pthread")
BROUGHT = "libraries"  # the folder beside a source that holds what the wheel brings

Library = TypeVar("Library")


def find_compiler(variable: str, *names: str) -> list[str]:
    """The compiler with the options that the variable may bring; empty where there is none.

    Args:
        variable: of the environment, such as ``CC``: a path, or a command as a shell would read it.
        names: commands tried in order where the variable is not set.

    Example:
        >>> find_compiler("NO_SUCH_VARIABLE", "no-such-command")
        []
    """
    given = os.environ.get(variable)
    if given:
        return [given] if Path(given).is_file() else shlex.split(given)
    found = next(filter(None, map(shutil.which, names)), None)
    return [found] if found else []


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One kind of processor that a library is built for when the wheel is made.

    Args:
        name: of the level, as compilers know it.
        machines: as ``platform.machine()`` names them.
        features: that the processor must have, as ``/proc/cpuinfo`` names them.
        emulated: tested under emulation alone, on no such processor.
    """

    name: str
    machines: tuple[str, ...]
    features: frozenset[str] = frozenset()
    emulated: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """For the compiler."""
        return (*FLAGS, f"-march={self.name}")


_V3 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# The best first. x86-64 without FMA is left out: a fused multiply-add is a slow library call there, and torch's own
# kernels are faster than ours would be.
VARIANTS = (
    Variant(name="x86-64-v4", machines=("x86_64",), features=_V4),
    Variant(name="x86-64-v3", machines=("x86_64",), features=_V3),
    Variant(name="armv8-a", machines=("aarch64", "arm64"), emulated=True),
)


def source_text(source: Path) -> str:
    """A source with the files of its own that it includes, whose change makes another library."""
    text = source.read_text(encoding="utf-8")
    included = re.findall(r'^#include "(.+)"', text, re.MULTILINE)
    return "".join([text, *(source_text(source.parent / name) for name in included)])


def brought_name(source: Path, variant: Variant) -> str:
    """What a variant's library is called: by source and flags, so that none of an older source is taken."""
    parts = (source_text(source), *variant.flags)
    return f"{source.stem}-{variant.name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}.so"


def brought(source: Path) -> list[tuple[Variant, Path]]:
    """The libraries that the wheel brought for a source and that this processor can run, the best first.

    Example:
        >>> brought(Path(__file__))
        []
    """
    folder = source.parent / BROUGHT
    if not folder.is_dir():
        return []
    here, features = platform.machine(), processor_features()
    fitting = [one for one in VARIANTS if here in one.machines and one.features <= features]
    found = [(one, folder / brought_name(source, one)) for one in fitting]
    return [(one, file) for one, file in found if file.is_file()]


def processor_features() -> frozenset[str]:
    """What every processor here can do, as Linux names it; nothing where it does not say."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    listed = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return frozenset.intersection(*listed) if listed else frozenset()


def processor() -> str:
    """What code built with ``-march=native`` depends on: a home may be shared by machines of several kinds."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    described = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return "\n".join([platform.machine(), *described])


def build_first(commands: Sequence[Sequence[str]], *, patience_s: float) -> None:
    """Run compiler commands until one succeeds: not every compiler knows every flag.

    Raises:
        OSError, subprocess.SubprocessError: none did; the last one's fault.
    """
    for number, command in enumerate(commands, start=1):
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=patience_s)
            return
        except subprocess.CalledProcessError:
            if number == len(commands):
                raise


def open_cached(name: str, build: Callable[[Path], Path], link: Callable[[Path], Library]) -> Library:
    """Open a library from the cache, built now if it is not there or cannot be opened.

    Args:
        name: of the file; it changes with whatever the machine code depends on.
        build: gets a scratch folder, returns the library it made there.
        link: opens a library; OSError or AttributeError say that it is no good.

    Raises:
        OSError, AttributeError: what was just built cannot be opened; whatever ``build`` raises.
    """
    with _cache_folder() as folder:
        path = folder / name
        if path.exists():
            try:
                return link(path)
            except (OSError, AttributeError):  # cut short when the disk was full, or the machine went down
                pass
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = build(Path(scratch))
            with open(built, "rb") as file:
                os.fsync(file.fileno())
            os.replace(built, path)  # two processes may build at once: each file is whole, the later one stays
        return link(path)


def open_or_reason(
    compiler: Sequence[str], name: str, build: Callable[[Path], Path], link: Callable[[Path], Library]
) -> tuple[Library | None, str | None]:
    """As :func:`open_cached`; where that fails, None and the first line of what the compiler said."""
    try:
        return open_cached(name, build, link), None
    except (OSError, subprocess.SubprocessError, AttributeError) as problem:
        output = (getattr(problem, "stderr", None) or str(problem).encode()).decode(errors="replace").strip()
        return None, f"{shlex.join(compiler)} did not build it: {output.partition(chr(10))[0][:120]}"


@contextmanager
def _cache_folder() -> Iterator[Path]:
    """A folder that only this user writes to; what others could write to is never loaded."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrdiff"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned = folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022
        usable = owned and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        usable = False
    if usable:
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="lrdiff-") as own:  # a library stays loaded when its file is gone
            yield Path(own)
