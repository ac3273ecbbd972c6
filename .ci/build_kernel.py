"""Builds the optimizer kernel into the wheel, once for each kind of processor in ``lrdiff_core/machine/compiled.py``.

The wheel is for the machine that the C compiler builds for: with ``CC=aarch64-linux-gnu-gcc`` in the environment it is
one for Linux on ARM, made elsewhere. Where no C compiler is, or with ``LRDIFF_WHEEL=pure``, it is a pure one: there the
kernel is compiled on first use, or torch's fused kernels step.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNEL = "lrdiff_core/optim/kernel.c"
OLDEST_GLIBC = 17  # of the oldest manylinux that today's pip knows


class KernelHook(BuildHookInterface):
    """Called by hatchling for every wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the platform; an ``editable`` wheel has the compiler on first use."""
        self.scratch: str | None = None
        if version == "editable" or os.environ.get("LRDIFF_WHEEL") == "pure":
            return
        compiled = _read(Path(self.root, "lrdiff_core", "machine", "compiled.py"))
        compiler = compiled.find_compiler("CC", "cc", "gcc", "clang")
        if not compiler:
            self.app.display_warning("no C compiler here: the wheel brings no kernel")
            return
        machine = machine_of(compiler)
        if machine is None:
            return
        self.scratch = tempfile.mkdtemp(prefix="lrdiff-kernel-")
        source, made = Path(self.root, KERNEL), []
        for variant in compiled.VARIANTS:
            if machine not in variant.machines:
                continue
            library = Path(self.scratch, compiled.brought_name(source, variant))
            command = [*compiler, *variant.flags, str(source), "-o", str(library), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self.app.display_warning(f"no kernel for {variant.name}: {done.stderr.strip()[:200]}")
                continue
            made.append(library)
            place = Path(KERNEL).with_name(compiled.BROUGHT) / library.name
            build_data["force_include"][str(library)] = place.as_posix()
        if made:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-manylinux_2_{max(map(glibc_of, made))}_{machine}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled: it is in the wheel."""
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)


def machine_of(compiler: Sequence[str]) -> str | None:
    """The machine that a compiler builds for, as wheels name it; None where that is not Linux with glibc."""
    done = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True, check=False)
    machine, *system = done.stdout.strip().split("-")
    glibc = "linux" in system and not any(name.startswith(("musl", "android")) for name in system)
    return machine if glibc and not done.returncode else None


def glibc_of(library: Path) -> int:
    """The newest glibc 2.x whose symbols a library needs: their versions stand in its table of strings."""
    versions = [int(found) for found in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())]
    return max([OLDEST_GLIBC, *versions])


def _read(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lrdiff_compiled", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lrdiff_compiled"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
