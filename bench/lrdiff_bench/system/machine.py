"""Which machine, in what state, and which code: what a record says beside its samples."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lrdiff_bench.measure.engine.timing import load_average, usable_cpus
from lrdiff_core import __version__

__all__ = [
    "Code",
    "Conditions",
    "Machine",
    "commit_seconds",
    "describe_code",
    "describe_conditions",
    "describe_machine",
]

_CPU_FOLDER = Path("/sys/devices/system/cpu/cpu0/cpufreq")


class Part(BaseModel):
    """A part of a record: immutable, and an unknown or missing field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Machine(Part):
    """What numbers are comparable within. ``id`` is the same for the same host, processors and device."""

    id: str
    system: str
    cpu: str
    cpus: int
    device: str  # its name; "cpu" for the processor itself
    driver: str | None = None


class Conditions(Part):
    """The state the machine was in; differs from run to run."""

    threads: int
    affinity: tuple[int, ...]
    governor: str | None
    load: float | None
    cpu_mhz: float | None
    device_mhz: float | None
    environment: dict[str, str]  # variables that change how fast torch is


class Code(Part):
    """What was measured."""

    commit: str | None  # None outside a checkout
    dirty: bool
    project: str
    torch: str
    python: str
    numpy: str


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
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(usable_cpus())
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
        project=_project_version(root),
        torch=installed_version("torch"),
        python=platform.python_version(),
        numpy=installed_version("numpy"),
    )


def _project_version(root: Path) -> str:
    """Of the measured checkout, which need not be installed; of the installed distribution where there is none."""
    file = root / "pyproject.toml"
    if not file.is_file():
        return __version__
    return str(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"])


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
