"""Contract of every case in the registry; a new one is covered on the day it is added."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from lrdiff_bench.measure.cases import main_job
from lrdiff_bench.measure.engine import registry
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.process import Effort, MeasuringProcess
from lrdiff_bench.measure.engine.registry import CASES, CaseRegistry, find_case
from lrdiff_bench.measure.engine.timing import time_case
from lrdiff_bench.system.machine import pinned
from lrdiff_bench.system.memory import peak_resident_bytes
from lrdiff_core.errors import ConfigError, InputError, UnavailableError

# Of the models' shapes only the smallest: the others are the same code with more memory.
LARGE = {"resnet50", "vit_b16", "bert_base", "gpt2_small", "gaussians"}


def ours(case) -> bool:
    return case.parameters.get("implementation") == "ours"


EVERY_CASE = [
    case
    for family in CASES.values()
    for case in family.cases()
    if case.parameters.get("shapes") not in LARGE and case.name != "memory_copy"
    if case.parameters.get("shapes") != "thousand" or case.parameters["rates"] == (1000 if ours(case) else 32)
    # Each backend once, and each model once.
    if case.name != "prediction" or "main" in case.parameters.values() or "eager" in case.parameters.values()
    # A second number of rates compiles for ten seconds what the first one has shown.
    if case.parameters.get("implementation") != "compiled" or case.parameters["rates"] == 8
]
# Compiling and exporting take seconds a case, on a busy machine a minute: one of each in the quick tests.
SLOW = {"compiled"}
LONG = {"encoder", "lora_bert"}  # and of these not even that, but before a release


def first_of_each_value(cases: list[Case]) -> set[str]:
    """Cases that together have every value of every parameter of their families: the others combine these anew."""
    chosen, seen = set(), set()
    for case in cases:
        values = {(case.name, *one) for one in case.parameters.items()} or {(case.name,)}
        if values - seen:
            chosen.add(case.label)
            seen |= values
    return chosen


QUICK = first_of_each_value(EVERY_CASE)


def marked(case) -> object:
    values = {str(value) for value in case.parameters.values()}
    if LONG & values or case.label not in QUICK:
        return pytest.param(case, id=case.label, marks=pytest.mark.long)
    slow = SLOW & values or case.name in ("export", "command_start")
    return pytest.param(case, id=case.label, marks=pytest.mark.slow if slow else [])


def test_registry() -> None:
    assert {"main_step", "main_epoch", "main_memory", "optimizer_step", "training_step"} <= set(CASES)
    assert {"population_training", "export", "inference", "command_start"} <= set(CASES)
    assert len(EVERY_CASE) > 50
    assert [case.label for case in CASES["main_step"].cases()] == ["main_step[rates=1]", "main_step[rates=2]"]
    for name, family in CASES.items():
        assert family.name == name
        assert family.version
        assert family.summary.endswith(".")
        assert family.cases(quick=True)
        assert {case.label for case in family.cases(quick=True)} <= {case.label for case in family.cases()}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As when measured; two threads on a busy machine make these small steps a hundred times slower."""
    with pinned(1):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("case", [marked(case) for case in EVERY_CASE])
def test_case_steps_and_resets_and_is_right_and_leaves_the_global_generator_alone(case) -> None:
    reason = CASES[case.name].unavailable(**case.parameters)
    if reason is not None:
        with pytest.raises(UnavailableError, match="cannot run here: "):
            case.factory()
        pytest.skip(reason)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        if "compiled" in case.parameters.values():
            warnings.simplefilter("ignore")  # inductor's own
        workload = case.factory()
        for _ in range(2):
            workload.reset()
            workload.step()
            workload.sync()
        workload.reset()
        parity = None if workload.parity is None else workload.parity()
    assert torch.equal(torch.get_rng_state(), before)
    assert case.name in ("main_memory", "command_start") or (parity is None) == (not CASES[case.name].parity)
    assert parity is None or parity.held, parity
    torch.compiler.reset()


@pytest.mark.parametrize("rates", [1, 2])
@pytest.mark.parametrize("name", ["main_step", "main_epoch"])
def test_state_is_restored(name: str, rates: int, monkeypatch) -> None:
    settings = []
    original = main_job.main_job

    def remember(*args):
        settings.append(original(*args))
        return settings[-1]

    monkeypatch.setattr(main_job, "main_job", remember)
    workload = find_case(name, rates=rates).factory()
    setup, optimizer = settings[0]
    model = setup.net
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.001][:rates]
    assert [p.shape for p in model.parameters()] == [(5, 10), (5,), (1, 5), (1,)]

    def everything() -> list[torch.Tensor]:
        state = [value for entry in optimizer.state.values() for value in entry.values()]
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return [tensor.detach().clone() for tensor in [*model.parameters(), *grads, *state]]

    before = everything()
    assert len(before) == (
        20 if name == "main_step" else 16
    )  # weights, gradients of `main_step`, three states of Adam each
    workload.step()
    assert any(not torch.equal(one, other) for one, other in zip(before, everything(), strict=True))
    workload.reset()
    assert all(torch.equal(one, other) for one, other in zip(before, everything(), strict=True))


def test_cases_can_be_timed() -> None:
    timing = time_case(find_case("main_step", rates=2), samples=2, target_block_seconds=0.001)
    assert 1e-7 < timing.median < 1.0
    assert timing.parameters == {"rates": 2}


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage on Windows")
def test_peak_memory_counts_torch_tensors() -> None:
    before = peak_resident_bytes()
    block = torch.ones(64 * 2**20)  # 256 MiB of float32, touched
    assert peak_resident_bytes() >= block.numel() * 4
    assert peak_resident_bytes() >= before


def test_a_new_case_takes_one_function() -> None:
    cases = CaseRegistry()

    @cases.family(version="3", parameters={"size": (1, 2), "kind": ("a", "b")})
    def new_case(size: int, kind: str) -> Workload:
        """Something new.

        More about it.
        """
        return Workload(step=lambda: size)

    family = cases["new_case"]
    assert family.summary == "Something new."
    assert [case.label for case in family.cases()] == [
        f"new_case[size={size},kind={kind}]" for size in (1, 2) for kind in "ab"
    ]
    with pytest.raises(ConfigError, match="two cases are called 'new_case'"):
        cases.family(version="1")(new_case)


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("main_stpe", {}, "there is no case 'main_stpe'\nhelp: cases: .*main_step"),
        ("main_step", {"rate": 1}, r"was given the parameters \['rate'\]\nhelp: its parameters are: rates"),
        ("main_step", {"rates": 3}, "has no rates=3\nhelp: values of rates: 1, 2"),
    ],
)
def test_unknown_case(name: str, parameters: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        find_case(name, **parameters)


def test_a_view_is_a_product_and_what_it_leaves_out_has_its_default() -> None:
    cases = CaseRegistry()

    @cases.family(
        version="1",
        parameters={"a": (1, 2, 3), "b": ("x", "y"), "threads": (1, 2)},
        views={"one": {"a": (1, 2)}, "other": {"a": (2,), "b": ("x", "y")}},
        quick={"b": ("y",)},
    )
    def viewed(a: int, b: str, threads: int) -> Workload:
        """Views."""
        return Workload(step=lambda: None)

    family = cases["viewed"]
    assert [tuple(case.parameters.values()) for case in family.cases()] == [(1, "x", 1), (2, "x", 1), (2, "y", 1)]
    assert [case.label for case in family.cases(quick=True)] == ["viewed[a=1,b=y,threads=1]"]
    assert family.case(threads=2).threads == 2
    assert family.parse("a", "3") == 3
    with pytest.raises(ConfigError, match="has no b=z\nhelp: values of b: x, y"):
        family.parse("b", "z")
    with pytest.raises(ConfigError, match="has no parameter 'c'"):
        family.parse("c", "1")


@pytest.mark.parametrize(
    ("options", "text"), [({"parameters": {"a": (1,)}, "views": {"": {"a": (2,)}}}, "has no a=2"),
                          ({"parameters": {"a": (1,)}, "quick": {"b": (2,)}}, r"was given the parameters \['b'\]")]
)  # fmt: skip
def test_a_misspelt_view_shows_when_the_case_is_registered(options, text) -> None:
    with pytest.raises(ConfigError, match=text):
        CaseRegistry().family(version="1", **options)(lambda a: None)


def test_a_case_may_not_be_called_like_a_command() -> None:
    from lrdiff_bench.cli import bench_app

    assert {command.name or command.callback.__name__ for command in bench_app.registered_commands} == registry.RESERVED

    def step() -> Workload:
        """Nothing."""
        return Workload(step=lambda: None)

    with pytest.raises(ConfigError, match="'step' is a command of `lrdiff bench`"):
        CaseRegistry().family(version="1")(step)


@pytest.mark.slow
def test_a_measuring_process_imports_the_module_of_its_case_and_no_other(tmp_path) -> None:
    """A user's own module will do, and a case of a script says why it cannot be measured in another process."""
    (tmp_path / "planted_cases.py").write_text(
        "from lrdiff_bench.measure.engine.case import Workload\n"
        "from lrdiff_bench.measure.engine.registry import case_family\n"
        "@case_family(version='1')\n"
        "def planted() -> Workload:\n    return Workload(step=lambda: sum(range(1000)))\n"
    )
    code = (
        "import sys; from lrdiff_bench.measure.engine.registry import find_case;"
        "find_case('planted', module='planted_cases');"
        "assert 'lrdiff_bench.measure.cases.training' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    case = Case(name="planted", version="1", factory=lambda: Workload(lambda: None), module="planted_cases")
    with MeasuringProcess(environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}) as process:
        process.start(case, Effort.quick())
        assert process.block().seconds > 0
        assert process.end()["process"]["number"] > 1
    with (
        MeasuringProcess() as process,
        pytest.raises(InputError, match="no case 'planted' in __main__\nhelp: .* a file that can be imported"),
    ):
        process.start(replace(case, module="__main__"), Effort.quick())


def test_an_optimizer_that_takes_the_gradients_away_is_not_timed(monkeypatch) -> None:
    from lrdiff_bench.measure.cases import optimizer_step

    class Greedy(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            self.zero_grad()

    greedy = optimizer_step.Implementation(label="greedy", make=lambda name, groups: Greedy(groups))
    monkeypatch.setitem(optimizer_step.IMPLEMENTATIONS, "fused", greedy)
    options = {"shapes": "mlp", "optimizer": "sgd", "implementation": "fused", "rates": 1}
    with pytest.raises(RuntimeError, match="greedy takes the gradients away: a second step would have none"):
        find_case("optimizer_step", **options, caches="hot").factory()
    find_case("optimizer_step", **options, caches="cold").factory()  # each step has gradients of its own
