"""The wheel for Linux on ARM, built by a cross compiler, its kernel run by an emulator: the bits of the one here."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lrdiff_core.machine import compiled
from lrdiff_core.optim import kernel

ROOT = Path(__file__).parents[3]
KERNEL_BITS = Path(__file__).with_name("kernel_bits.c")
COMPILER, OBJDUMP, EMULATOR = "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objdump", "qemu-aarch64"
PACKAGES = "Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() in ("aarch64", "arm64"), reason="this is ARM: there is nothing to emulate"),
    pytest.mark.skipif(
        not all(map(shutil.which, (COMPILER, OBJDUMP, EMULATOR))),
        reason=f"no {COMPILER} or no {EMULATOR} here ({PACKAGES})",
    ),
]


@pytest.fixture
def built(hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The tag of a wheel made with the cross compiler, and the kernel that it brings."""
    monkeypatch.setenv("CC", COMPILER)
    monkeypatch.delenv("LRDIFF_WHEEL", raising=False)
    made = hook.KernelHook()
    made.root, made.app = str(ROOT), SimpleNamespace(display_warning=pytest.fail)
    data = {"pure_python": True, "force_include": {}}
    made.initialize("standard", data)
    monkeypatch.delenv("CC")
    [(library, place)] = data["force_include"].items()  # type: ignore[attr-defined]
    [variant] = [one for one in compiled.VARIANTS if "aarch64" in one.machines]
    assert place == f"lrdiff_core/optim/libraries/{compiled.brought_name(kernel._SOURCE, variant)}"
    assert data["pure_python"] is False
    yield str(data["tag"]), Path(library)
    made.finalize("standard", data, "")


def test_the_wheel_is_named_after_the_machine_and_the_glibc_that_its_kernel_needs(built: tuple[str, Path]) -> None:
    tag, library = built
    listed = subprocess.run([OBJDUMP, "-f", "-T", library], check=True, capture_output=True, text=True).stdout
    assert "file format elf64-littleaarch64" in listed
    newest = max(map(int, re.findall(r"\(GLIBC_2\.(\d+)\)", listed)))
    assert tag == f"py3-none-manylinux_2_{newest}_aarch64"


def test_every_function_of_the_kernel_has_the_bits_that_it_has_here(built: tuple[str, Path], tmp_path: Path) -> None:
    """Native code against emulated: each rule, format, norm and clipping, also of numbers out of the ordinary."""
    native = printed_here(tmp_path)
    functions = set(re.findall(r"^(?:int|void) (lrdiff_\w+)", compiled.source_text(kernel._SOURCE), re.MULTILINE))
    assert {line.split()[0] for line in native} == functions
    assert printed_by_arm(tmp_path, built[1]) == native


@pytest.mark.long
def test_so_has_code_for_longer_vectors_as_a_compiler_on_arm_makes_it(tmp_path: Path) -> None:
    library = tmp_path / "sve.so"
    flags = [*compiled.FLAGS, "-march=armv8.2-a+sve"]
    subprocess.run([COMPILER, *flags, str(kernel._SOURCE), "-o", str(library), "-lm"], check=True)
    code = subprocess.run([OBJDUMP, "-d", library], check=True, capture_output=True, text=True).stdout
    assert re.search(r"\bz\d+\.s\b", code), "the compiler made no use of the longer vectors"
    assert printed_by_arm(tmp_path, library) == printed_here(tmp_path)


def printed_here(folder: Path) -> list[str]:
    library = kernel.load()
    if library is None:
        pytest.skip(f"no kernel here: {kernel.missing_reason()}")
    compiler = compiled.find_compiler("CC", "cc", "gcc", "clang")
    return printed(folder / "native", [*compiler, "-march=native"], [], Path(library._name))


def printed_by_arm(folder: Path, library: Path) -> list[str]:
    return printed(folder / "emulated", [COMPILER], [EMULATOR, "-L", "/usr/aarch64-linux-gnu"], library)


def printed(program: Path, compiler: list[str], run_by: list[str], library: Path) -> list[str]:
    """What kernel_bits.c says of a library."""
    flags = ["-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-I", str(kernel._SOURCE.parent)]
    rest = ["-o", str(program), "-ldl", "-lm", "-pthread"]
    subprocess.run([*compiler, *flags, str(KERNEL_BITS), *rest], check=True)
    done = subprocess.run([*run_by, str(program), str(library)], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()
