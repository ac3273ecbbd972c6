"""Which machine, in what state, and which code: the project's one description of where a number comes from.

Plain dataclasses, not pydantic models: ``make gpu`` runs on borrowed machines that have no pydantic. Records, which are
pydantic models, check these fields all the same (``__pydantic_config__``).
"""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from lrdiff_core.errors import InputError

__all__ = [
    "Code",
    "Conditions",
    "Machine",
    "commit_seconds",
    "describe_code",
    "describe_conditions",
    "describe_machine",
    "describe_versions",
    "joined_provenance",
    "load_average",
    "pinned",
    "provenance",
    "usable_cpus",
    "usable_processors",
]

_CPU_FOLDER = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_STRICT = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What numbers are comparable within. ``id`` is the same for the same host, processors and device."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    id: str
    system: str
    cpu: str
    cpus: int
    device: str  # its name; "cpu" for the processor itself
    driver: str | None = None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The state the machine was in; differs from run to run."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    threads: int
    affinity: tuple[int, ...]
    governor: str | None
    load: float | None
    cpu_mhz: float | None
    device_mhz: float | None
    environment: dict[str, str]  # variables that change how fast torch is

    def __post_init__(self) -> None:
        object.__setattr__(self, "affinity", tuple(self.affinity))  # JSON knows lists alone


@dataclass(frozen=True, kw_only=True)
class Code:
    """What was measured."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    commit: str | None  # None outside a checkout
    dirty: bool
    project: str
    torch: str
    python: str
    numpy: str

    def __str__(self) -> str:
        """The commit in twelve digits, and whether the tree differs from it."""
        if self.commit is None:
            return "unknown (installed)"
        return self.commit[:12] + (", changed" if self.dirty else "")


def load_average() -> float | None:
    """Runnable processes over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def usable_processors() -> tuple[int, ...]:
    """Numbers of the processors that this process may use; none where the system does not let one choose."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def usable_cpus() -> int:
    """How many processors this process may use."""
    return len(usable_processors()) or os.cpu_count() or 1


@contextmanager
def pinned(threads: int) -> Iterator[int]:
    """Measuring conditions: torch at ``threads`` intra-op threads, garbage collector off; both put back afterwards.

    Yields the thread count that torch then reports.

    Example:
        >>> import gc
        >>> with pinned(1) as count:
        ...     print(count, gc.isenabled())
        1 False
    """
    import torch

    before, collecting = torch.get_num_threads(), gc.isenabled()
    gc.collect()
    torch.set_num_threads(threads)
    gc.disable()
    try:
        yield torch.get_num_threads()
    finally:
        if collecting:
            gc.enable()
        torch.set_num_threads(before)


def provenance(*packages: str, device: str = "cpu") -> dict[str, Any]:
    """Where numbers come from, as the documents of the tables say it: ``machine``, ``versions`` and ``commit``.

    Read it before measuring, because measuring raises the load. The machine's id is left out: documents are published.

    Args:
        packages: whose versions matter beside lrdiff's, Python's and torch's; those not installed are left out.
        device: that is measured.

    Example:
        >>> sorted(provenance()["versions"])
        ['lrdiff', 'python', 'torch']
    """
    machine = asdict(describe_machine(device))
    del machine["id"]
    return {
        "machine": {**machine, "cpus": usable_cpus(), "load": load_average()},
        "versions": describe_versions(*packages),
        "commit": str(describe_code()),
    }


def joined_provenance(origins: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where numbers come from that several processes measured, perhaps on several days, as one provenance.

    Args:
        origins: what :func:`provenance` gave to each, at least one.

    Returns:
        Their machine, under the highest load, their versions and all their commits.

    Raises:
        InputError: they are of several machines or versions, and numbers of those do not stand on one page.

    Example:
        >>> here = provenance()
        >>> joined_provenance([{**here, "commit": "a"}, {**here, "commit": "b"}])["commit"]
        'a and b'
    """
    every = list(origins)

    def place(one: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        return {**one["machine"], "load": None}, one["versions"]

    if any(place(one) != place(every[0]) for one in every):
        raise InputError(
            "what is kept was measured on another machine, or with other versions",
            help="keep what is measured here in another file",
        )
    loads = [one["machine"]["load"] for one in every if one["machine"]["load"] is not None]
    return {
        "machine": {**every[0]["machine"], "load": max(loads, default=None)},
        "versions": dict(every[0]["versions"]),
        "commit": " and ".join(dict.fromkeys(str(one["commit"]) for one in every)),
    }


def describe_versions(*packages: str) -> dict[str, str]:
    """Versions of lrdiff, Python, torch, and of those packages that are installed."""
    code = describe_code()
    found = {"lrdiff": code.project, "python": code.python, "torch": code.torch}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_machine(device: str = "cpu") -> Machine:
    """Describe this machine, and the device that is measured.

    The host's name goes into the id only as a hash: two machines of one make differ by a quarter (google/benchmark
    saw 26 %), and a name is nobody's business.

    Example:
        >>> describe_machine() == describe_machine()
        True
    """
    name, driver, _ = _nvidia() if device == "cuda" else (device, None, None)
    cpu = _cpu_name()
    cpus = os.cpu_count() or 1
    # The kernel's version is not part of it: updating the system keeps the history.
    seed = "|".join((platform.node(), platform.system(), platform.machine(), cpu, str(cpus), name))
    return Machine(
        id=hashlib.sha256(seed.encode()).hexdigest()[:12],
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu,
        cpus=cpus,
        device=name,
        driver=driver,
    )


def describe_conditions(device: str, threads: int) -> Conditions:
    """Describe the state the machine is in now; read it before measuring, because measuring raises the load."""
    governor = _CPU_FOLDER / "scaling_governor"
    current = _CPU_FOLDER / "scaling_cur_freq"
    mhz = float(current.read_text()) / 1e3 if current.is_file() else _cpuinfo("cpu MHz")
    affinity = usable_processors() or range(usable_cpus())
    watched = ("OMP_", "MKL_", "TORCH", "PYTORCH_", "CUDA_", "LRDIFF_", "KMP_")
    return Conditions(
        threads=threads,
        affinity=tuple(affinity),
        governor=governor.read_text().strip() if governor.is_file() else None,
        load=load_average(),
        cpu_mhz=float(mhz) if mhz else None,
        device_mhz=_nvidia()[2] if device == "cuda" else None,
        environment={key: os.environ[key] for key in sorted(os.environ) if key.startswith(watched)},
    )


@cache
def describe_code() -> Code:
    """Describe the code that this process measures: ``lrdiff_core``'s checkout, not necessarily this module's."""
    import lrdiff_core

    root = Path(lrdiff_core.__file__).parents[1]
    commit, dirty = None, False
    if (root / ".git").exists() and shutil.which("git"):
        commit = _git(root, "rev-parse", "HEAD") or None
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return Code(
        commit=commit,
        dirty=dirty,
        project=getattr(lrdiff_core, "__version__", "unknown"),
        torch=metadata.version("torch"),
        python=platform.python_version(),
        numpy=metadata.version("numpy"),
    )


@cache
def commit_seconds() -> int | None:
    """When the commit of the measured code was made, in seconds since 1970; None outside a checkout."""
    import lrdiff_core

    root = Path(lrdiff_core.__file__).parents[1]
    found = _git(root, "show", "--no-patch", "--format=%ct", "HEAD") if describe_code().commit is not None else ""
    return int(found) if found else None


def _git(root: Path, *command: str) -> str:
    # Without index refresh: two processes that describe one checkout must not lock each other out.
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(root), *command], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_name() -> str:
    if sys.platform == "darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str | None:
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return None
    found = re.search(rf"^{key}\s*:\s*(.*)$", file.read_text(), re.MULTILINE)
    return found[1].strip() if found else None


def _nvidia() -> tuple[str, str | None, float | None]:
    """Name, driver and clock (MHz) of the first GPU, as its own tool tells them."""
    if shutil.which("nvidia-smi") is None:
        import torch

        return torch.cuda.get_device_name(), None, None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stdout.count(",") != 2:  # it is there, and its driver is not
        import torch

        return torch.cuda.get_device_name(), None, None
    name, driver, clock = done.stdout.split(",")
    return name.strip(), driver.strip(), float(clock) if clock.strip().isdigit() else None
