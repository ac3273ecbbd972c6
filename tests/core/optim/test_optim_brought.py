"""Kernels that a wheel brings: chosen by the processor, with the bits of one that is compiled here."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from optim_pairs import feed, make, params_of

from lrdiff_core.machine import compiled
from lrdiff_core.optim import SGD, AdamW, kernel
from lrdiff_core.optim.formats.state import FORMATS

ROOT = Path(__file__).parents[3]
RUNNABLE = [one for one in compiled.VARIANTS if platform.machine() in one.machines]

pytestmark = pytest.mark.skipif(kernel.load() is None, reason="no C compiler here")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place with the kernel's source and no libraries, an empty cache, a loader that has loaded nothing."""
    source = tmp_path / "kernel.c"
    shutil.copy(kernel._SOURCE, source)
    for included in kernel._SOURCE.parent.glob("*/*.h"):
        (tmp_path / included.parent.name).mkdir(exist_ok=True)
        shutil.copy(included, tmp_path / included.parent.name)
    monkeypatch.setattr(kernel, "_SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LRDIFF_KERNEL", raising=False)
    kernel.attempt.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    kernel.attempt.cache_clear()


def build(home: Path, variant: compiled.Variant) -> Path:
    """What the wheel's build hook does."""
    folder = home / compiled.BROUGHT
    folder.mkdir(exist_ok=True)
    library = folder / compiled.brought_name(home / "kernel.c", variant)
    compiler = compiled.find_compiler("CC", "cc", "gcc", "clang")
    subprocess.run([*compiler, *variant.flags, str(home / "kernel.c"), "-o", str(library), "-lm"], check=True)
    return library


def trained() -> list[torch.Tensor]:
    """Parameters and moments after some steps of the loaded kernel."""
    seen: list[torch.Tensor] = []
    for kind, options in (
        (AdamW, {"amsgrad": True}),
        *(
            (AdamW, {"state_format": name, "dtype": dtype})
            for name in FORMATS
            for dtype in (torch.float32, torch.bfloat16)
        ),
        (AdamW, {}),
        (SGD, {"momentum": 0.9, "nesterov": True, "lr": 0.1}),
    ):
        options = {"dtype": torch.float32, **options}
        optimizer = kind(make(dtype=options.pop("dtype")), weight_decay=0.1, **options)  # type: ignore[operator]
        for i in range(4):
            feed(params_of(optimizer), seed=i)
            optimizer.step()
        assert set(optimizer.forms()) == {"kernel"}
        seen += params_of(optimizer)
        seen += [value for state in optimizer.state.values() for value in state.values()]
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("variant", RUNNABLE, ids=lambda variant: variant.name)
def test_a_variant_needs_no_compiler_and_has_the_same_bits(
    variant: compiled.Variant, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not variant.features <= compiled.processor_features():
        pytest.skip(f"this processor is not of the level {variant.name}")
    monkeypatch.setenv("LRDIFF_KERNEL", "compile")
    assert kernel.origin() == "built here, for this processor"
    expected = trained()
    build(home, variant)
    monkeypatch.delenv("LRDIFF_KERNEL")
    monkeypatch.setenv("CC", str(home / "nothing"))
    kernel.attempt.cache_clear()
    assert str(kernel.origin()).startswith(f"from the wheel, built for {variant.name}")
    assert kernel.missing_reason() is None
    for mine, other in zip(trained(), expected, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.slow
def test_a_library_that_cannot_be_opened_is_passed_over(home: Path) -> None:
    variant = next(one for one in RUNNABLE if one.features <= compiled.processor_features())
    build(home, variant).write_bytes(b"cut short")
    assert kernel.origin() == "built here, for this processor"


def test_a_processor_gets_what_it_can_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    folder = home / compiled.BROUGHT
    folder.mkdir()
    for variant in compiled.VARIANTS:
        (folder / compiled.brought_name(home / "kernel.c", variant)).touch()
    v3, v4 = compiled.VARIANTS[1].features, compiled.VARIANTS[0].features
    for features, names in (
        ({"sse2"}, []),
        (v3, ["x86-64-v3"]),
        (v3 | {"avx512f"}, ["x86-64-v3"]),
        (v4 | {"amx"}, ["x86-64-v4", "x86-64-v3"]),
    ):
        cpuinfo = home / "cpuinfo"
        cpuinfo.write_text(f"flags\t\t: {' '.join(features)}\n" * 2)
        monkeypatch.setattr(compiled, "CPUINFO", cpuinfo)
        assert [variant.name for variant, _ in compiled.brought(home / "kernel.c")] == names
    rule = home / "rules" / "lion.h"
    before = rule.read_text()
    rule.write_text("/* another rule */")
    assert compiled.brought(home / "kernel.c") == []
    rule.write_text(before)
    assert compiled.brought(home / "kernel.c")
    (home / "kernel.c").write_text("/* another source */")
    assert compiled.brought(home / "kernel.c") == []


def test_what_an_emulator_alone_has_run_is_said_to_be_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (variant,) = (one for one in compiled.VARIANTS if "aarch64" in one.machines)
    library = home / compiled.BROUGHT / compiled.brought_name(home / "kernel.c", variant)
    library.parent.mkdir()
    library.touch()
    monkeypatch.setattr(kernel, "attempt", lambda: (SimpleNamespace(_name=str(library)), None))
    assert kernel.origin() == "from the wheel, built for armv8-a (tested under emulation alone)"


def test_without_library_and_compiler_torchs_kernels_step(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(home / "nothing"))
    assert kernel.origin() is None
    assert "did not build it" in str(kernel.missing_reason())
    optimizer = AdamW(make())
    feed(params_of(optimizer), seed=0)
    optimizer.step()
    assert set(optimizer.forms()) == {"fused"}


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="wheels bring the kernel for glibc alone")
def test_the_wheel_holds_a_library_for_each_level_and_names_its_platform(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = hook.KernelHook()
    made.root, made.app = str(ROOT), SimpleNamespace(display_warning=print)
    for version, setting in (("editable", ""), ("standard", "pure")):
        monkeypatch.setenv("LRDIFF_WHEEL", setting)
        data = {"pure_python": True, "force_include": {}}
        made.initialize(version, data)
        assert data == {"pure_python": True, "force_include": {}}
    monkeypatch.delenv("LRDIFF_WHEEL")
    made.initialize("standard", data)
    places = list(data["force_include"].values())  # type: ignore[attr-defined]
    names = [f"lrdiff_core/optim/libraries/{compiled.brought_name(kernel._SOURCE, one)}" for one in RUNNABLE]
    assert places == names
    assert data["pure_python"] is False
    tag = str(data["tag"])
    assert tag.startswith("py3-none-manylinux_2_")
    assert tag.endswith(platform.machine())
    assert 17 <= int(tag.split("_")[2]) <= int(platform.libc_ver()[1].split(".")[1])
    made.finalize("standard", data, "")
    assert not any(map(Path.exists, map(Path, data["force_include"])))
