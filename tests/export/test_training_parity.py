"""Training parity: right implementations agree on every kind of model, planted faults are caught and named."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import training_faults
from torch import nn

from lrdiff_core.errors import ConfigError, InputError, RateError
from lrdiff_core.optim import kernel
from lrdiff_core.schedules import Shape
from lrdiff_export.training import (
    ARITHMETICS,
    IMPLEMENTATIONS,
    OPTIMIZERS,
    TRAINING_ZOO,
    Lane,
    LaneResult,
    RateGroup,
    TrainingImplementation,
    TrainingJob,
    check_training_parity,
    find_lanes,
    make_job,
    register_implementation,
    zoo_job,
)
from lrdiff_export.training.jitter import Jitter
from lrdiff_export.training.job import PROBE
from lrdiff_export.training.reference import FLOOR, LOSS, TrainingReference

ON_CPU = ["torch", "torch-foreach", "torch-fused", "ours", "ours-no-kernel"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers an implementation for one test."""

    def planted(kind: type[TrainingImplementation]) -> Lane:
        made = kind()
        made.name = kind.__name__
        monkeypatch.setitem(IMPLEMENTATIONS, made.name, made)
        return Lane(implementation=made.name)

    return planted


def run_one(job: TrainingJob, lane: Lane, *, repeat: bool = False) -> LaneResult:
    return check_training_parity(job, [lane], repeat=repeat).results[0]


MODELS = [
    *(("main", optimizer) for optimizer in OPTIMIZERS), ("convolution", "adam"), ("transformer block", "adamw"),
    ("transformer block", "sgd"), ("3-D linear", "muon"), ("large batch", "sgd"),
]  # fmt: skip


def test_every_kind_of_model_and_optimizer_is_among_them() -> None:
    assert {name for name, _ in MODELS} == set(TRAINING_ZOO)
    assert {optimizer for _, optimizer in MODELS} == set(OPTIMIZERS)


DEAR = {("transformer block", "sgd"), *(("main", name) for name in OPTIMIZERS if name not in ("adamw", "sgd"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "optimizer"), [pytest.param(*one, marks=pytest.mark.long if one in DEAR else []) for one in MODELS]
)
def test_every_right_implementation_agrees(name: str, optimizer: str) -> None:
    job = zoo_job(name, optimizer=optimizer, steps=2 if name == "large batch" else 8)
    lanes = find_lanes([*ON_CPU, "cpu"]) + find_lanes(["torch", "ours", "cpu", "float64", "bfloat16", "autocast"])
    report = check_training_parity(job, lanes, repeat=False)
    wrong = [f"{row.implementation} {row.arithmetic}: {row.reason}" for row in report.results if row.reason]
    wrong = [line for line in wrong if "torch has " not in line]  # one Muon, no fused NAdam, no LAMB
    assert wrong == []
    assert sum(row.status == "agrees" for row in report.results) >= len(lanes) - 2
    assert report.passed
    # Far from the border, too: a lane that is no worse than plain arithmetic uses a quarter of its budget.
    assert all(max(row.shares) < 0.6 for row in report.results if row.shares)


def test_torchs_fused_sgd_in_bfloat16_is_found_out() -> None:
    """A fault that is really there (torch 2.13, CPU): weights stand still. Ours does not use that kernel."""
    job = zoo_job("3-D linear", optimizer="sgd", steps=4)
    fused, ours = check_training_parity(job, find_lanes(["torch-fused", "ours", "cpu", "bfloat16"])).results
    if fused.status == "agrees":
        pytest.skip(f"torch {torch.__version__} has mended its fused SGD")
    assert fused.departure is not None
    assert "did not move" in fused.departure.meaning
    assert ours.status == "agrees"


MAIN = zoo_job("main", optimizer="adam", steps=10)
# fault, optimizer, status, words of the reason
FAULTS = [
    ("IgnoresARate", "adam", "differs", ["step 1, layer2.", "(group 1, rate 0.003)", "its gradient is right",
        "0.7 times", "at the rate 0.0021 of group 0 in place of its own 0.003"]),
    ("IgnoresARate", "sgd", "differs", ["step 1, layer2.", "group 1", "in place of its own 0.05"]),
    ("DropsToBfloat16", "adam", "differs", ["step 1, layer", "no more digits than bfloat16"]),
    ("DropsToBfloat16", "sgd", "differs", ["step 1, layer", "no more digits than bfloat16"]),
    ("ComputesInBfloat16", "adam", "differs", ["step 1, ", "gradient was computed in bfloat16"]),
    ("ComputesInBfloat16", "sgd", "differs", ["step 1, ", "gradient was computed in bfloat16"]),
    ("FlushesDenormals", "adam", "differs", ["step 1, denormal probe", "flushed to zero"]),
    ("FlushesDenormals", "sgd", "differs", ["step 1, denormal probe", "flushed to zero"]),
    ("ForgetsBiasCorrection", "adam", "differs", ["step 1, layer", "3.16 times", "without bias correction"]),
    ("StandsStill", "adamw", "differs", ["step 3, layer", "it did not move"]),
    ("LosesANumber", "adam", "differs", ["step 2, layer", "not finite"]),
    ("RunsElsewhere", "sgd", "refused", ["asked for cpu, ran on meta: layer1.weight"]),
    ("MomentsElsewhere", "adam", "refused", ["asked for cpu, ran on meta: exp_avg of layer1.weight"]),
    ("FallsBack", "adam", "refused", ["asked for cpu, ran in part on cpu", "aten::_fused_adam_"]),
    ("NoAutocast", "adam", "refused", ["asked for float32, ran in float32: In MPS autocast", "Disabling autocast"]),
    ("KeepsFloat64Weights", "adam", "refused", ["asked for float32, layer1.weight is float64"]),
    ("Raises", "adam", "refused", ["RuntimeError: no kernel image is available"]),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "optimizer", "status", "words"), FAULTS, ids=lambda value: str(value)[:24])
def test_a_planted_fault_is_caught_and_named(
    fault: str, optimizer: str, status: str, words: list[str], plant: Any
) -> None:
    result = run_one(zoo_job("main", optimizer=optimizer, steps=6), plant(getattr(training_faults, fault)))
    assert result.status == status
    assert result.reason is not None
    assert "\n" not in result.reason
    for word in words:
        assert word in result.reason


@pytest.mark.parametrize("fault", ["IgnoresARate", "ComputesInBfloat16", "ForgetsBiasCorrection", "FlushesDenormals"])
def test_faults_are_caught_in_a_transformer_whose_training_amplifies_rounding(fault: str, plant: Any) -> None:
    job = zoo_job("transformer block", steps=4)
    result = run_one(job, plant(getattr(training_faults, fault)))
    assert result.departure is not None
    assert result.departure.step == 1
    expected = {"IgnoresARate": "head.bias", "FlushesDenormals": PROBE}.get(fault)
    assert expected is None or result.departure.parameter == expected


# fault, optimizer, arithmetic, step, parts of the reason
SINGLE = [
    ("EpsInsideTheRoot", "adamw", "float32", 1, ["its gradient is right"]),  # 1e-6 of a step: no fault in bfloat16
    ("CorrectsOnlyTheFirstStep", "adamw", "float32", 2, ["4.25 times", "without bias correction"]),
    ("CorrectsOnlyTheFirstStep", "adamw", "bfloat16", 2, ["of one step's way", "its gradient is right"]),
    ("CouplesWeightDecay", "adamw", "float32", 1, ["its gradient is right"]),
    ("CouplesWeightDecay", "adamw", "bfloat16", 1, ["from the same state, float64 makes another exp_avg"]),
    ("SwapsBetas", "adamw", "float32", 1, ["exp_avg of layer1.weight (group 0, rate 0.0021)", "makes another exp_avg"]),
    ("SwapsBetas", "adamw", "bfloat16", 1, ["of one step's way", "from the same state, float64 makes another exp_avg"]),
    ("ForgetsMomentum", "sgd", "float32", 4, ["float64 makes another momentum_buffer"]),
    ("ForgetsMomentum", "sgd", "bfloat16", 4, ["float64 makes another momentum_buffer"]),
    ("ScalesItsGradients", "sgd", "float32", 1, ["its gradient is 1.25 times that of float64"]),
    ("ScalesItsGradients", "sgd", "bfloat16", 1, ["0.25 of its size", "its gradient is 1.25 times that of float64"]),
    ("IgnoresARate", "adamw", "bfloat16", 6, ["layer2.weight (group 1, rate 0.003)", "its gradient is right"]),
    ("StandsStill", "adamw", "bfloat16", 3, ["layer", "it did not move"]),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "optimizer", "arithmetic", "step", "words"), SINGLE)
def test_single_steps_show_a_fault_where_it_begins(
    fault: str, optimizer: str, arithmetic: str, step: int, words: list[str], plant: Any
) -> None:
    job = zoo_job("main", optimizer=optimizer, steps=8)
    if fault == "CouplesWeightDecay":
        groups = tuple(replace(one, options={**one.options, "weight_decay": 0.1}) for one in job.groups)
        job = replace(job, groups=groups)
    result = run_one(job, replace(plant(getattr(training_faults, fault)), arithmetic=arithmetic))
    assert result.status == "differs"
    assert result.departure is not None
    assert result.departure.step == step, result.reason
    for word in words:
        assert word in str(result.reason)


def test_bfloat16_trajectories_alone_would_let_them_pass(plant: Any) -> None:
    """What one-step parity is for: the trajectory's budget is as large as the way that a wrong rate leads astray."""
    job = zoo_job("main", optimizer="adamw", steps=8)
    result = run_one(job, replace(plant(training_faults.IgnoresARate), arithmetic="bfloat16"))
    assert result.status == "differs"
    assert max(result.shares) < 1


@pytest.mark.parametrize("arithmetic", ["float32", "float64", "bfloat16", "autocast"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_same_rule_written_otherwise_agrees_step_by_step(optimizer: str, arithmetic: str, plant: Any) -> None:
    result = run_one(
        zoo_job("transformer block", optimizer=optimizer, steps=8),
        replace(plant(training_faults.RightAdamW), arithmetic=arithmetic),
    )
    assert (result.status, result.reason) == ("agrees", None)
    assert result.one_step is not None
    assert (result.one_step.steps, result.one_step.gradients, result.one_step.unseen) == (8, 8, None)
    assert result.one_step.covers is not None
    assert result.one_step.covers < (0.15 if arithmetic == "bfloat16" else 1e-3)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("HidesItsGradients", "there are no dense gradients to be seen after the step"),
        ("ForgetsBiasCorrection", "its state is kept under other names than torch's"),
    ],
)
def test_a_lane_whose_steps_cannot_be_seen_says_so(fault: str, why: str, plant: Any) -> None:
    result = run_one(zoo_job("main", optimizer="adam", steps=3), plant(getattr(training_faults, fault)))
    assert result.one_step is not None
    assert (result.one_step.steps, result.one_step.unseen) == (0, why)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("CouplesWeightDecay", "with its weight decay in its gradient, and not apart from it"),
        ("EpsInsideTheRoot", "with eps inside the root"),
        ("AddsEpsBeforeTheCorrection", "with eps added before the bias correction"),
        ("CorrectsOnlyTheFirstStep", "without bias correction"),
        ("CorrectsTheFirstMomentAlone", "without bias correction of the second moment"),
        ("CountsFromZero", "with a count of steps that is one too low"),
        ("SwapsBetas", "with its betas swapped"),
    ],
)
def test_a_rule_with_one_thing_misplaced_is_named(fault: str, said: str, plant: Any) -> None:
    job = zoo_job("main", optimizer="adamw", steps=4)
    groups = tuple(replace(one, options={**one.options, "weight_decay": 0.1, "eps": 1e-3}) for one in job.groups)
    result = run_one(replace(job, groups=groups), plant(getattr(training_faults, fault)))
    assert result.status == "differs"
    assert result.departure is not None
    assert result.departure.meaning.split(" of float64 ")[-1].split("this is one ")[-1] == said


# What each optimizer adds to those before it: a decay, moments, a router; sums over rows, norms, an average.
AS_OFTEN: dict[str, Any] = {
    **dict.fromkeys(("sgd", "adam", "adamw", "muon"), ()),
    **dict.fromkeys(("adafactor", "lamb", "schedule_free"), pytest.mark.slow),
}
SCHEDULE = Shape(kind="cosine", warmup=5, warmup_start=0.1, floor=0.1)


def scheduled_job(optimizer: str = "adamw", **changes: Any) -> TrainingJob:
    job = zoo_job("main", optimizer=optimizer, steps=16)
    groups = tuple(replace(one, options={**one.options, "weight_decay": 0.1}) for one in job.groups)
    return replace(job, groups=groups, schedule=SCHEDULE, **changes)


@pytest.mark.parametrize(
    ("optimizer", "arithmetic"),
    [
        *(pytest.param(one, "float32", marks=AS_OFTEN.get(one, pytest.mark.long)) for one in OPTIMIZERS),
        ("adamw", "bfloat16"),
    ],
)
def test_every_implementation_follows_a_schedule(optimizer: str, arithmetic: str) -> None:
    fused = [] if arithmetic == "bfloat16" else ["torch-fused"]  # torch's fused SGD is wrong there, as shown above
    lanes = find_lanes(["torch", "ours", *fused, "cpu", arithmetic])
    report = check_training_parity(scheduled_job(optimizer), lanes, repeat=False)
    found = {one.implementation: (one.status, one.reason) for one in report.results if one.status != "unavailable"}
    assert found
    assert set(found.values()) == {("agrees", None)}, found


@pytest.mark.parametrize(
    ("fault", "step", "said"),
    [
        ("LagsBehind", 2, "as at the rate of the step before"),
        ("WarmsOnlyTheFirstGroup", 1, "as without the schedule"),
        ("DecaysTwice", 1, "with its weight decay applied twice"),
        ("TakesItsDecayBack", 1, "without its weight decay"),
    ],
)
def test_a_rate_that_is_not_the_schedule_s_is_dated_and_named(fault: str, step: int, said: str, plant: Any) -> None:
    result = run_one(scheduled_job(), plant(getattr(training_faults, fault)))
    assert result.status == "differs"
    assert result.one_step is not None
    assert result.one_step.wrong is not None
    assert result.one_step.wrong.step == step
    assert said in result.one_step.wrong.meaning
    assert said in str(result.reason)


@pytest.mark.parametrize("optimizer", ["adafactor", "lamb", "schedule_free"])
def test_a_fault_of_any_rule_is_found(optimizer: str, plant: Any) -> None:
    result = run_one(zoo_job("main", optimizer=optimizer, steps=4), plant(training_faults.StandsStill))
    assert result.status == "differs"
    assert result.one_step is not None
    assert result.one_step.wrong is not None
    assert result.one_step.wrong.step == 3


def test_a_rule_that_no_budget_holds_is_refused_by_its_reason() -> None:
    with pytest.raises(ConfigError, match="lion cannot be judged: it steps by a sign"):
        zoo_job("main", optimizer="lion")


def test_the_first_steps_of_a_job_keep_its_schedule() -> None:
    job = scheduled_job()
    assert [job.first(7).factor(step) for step in range(1, 8)] == [job.factor(step) for step in range(1, 8)]
    assert job.factor(1) == 0.1
    with pytest.raises(RateError):
        scheduled_job(schedule_steps=3)


def test_a_fault_that_begins_late_is_dated(plant: Any) -> None:
    result = run_one(MAIN, plant(training_faults.StandsStill))
    assert result.departure is not None
    assert result.departure.step == 3
    assert result.shares[0] < 1 < result.shares[2]


def test_what_draws_numbers_is_not_repeatable(plant: Any) -> None:
    job = zoo_job("main", optimizer="adam", steps=3)
    torch.manual_seed(0)
    result = run_one(job, plant(training_faults.DrawsNumbers), repeat=True)
    assert result.repeats is not None
    assert not result.repeats.equal
    assert (result.repeats.step, result.repeats.parameter) == (1, "layer1.weight")


def test_bit_equality_is_a_statement_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    job = zoo_job("3-D linear", optimizer="adamw", steps=4)
    lanes = find_lanes(["torch-fused", "torch", "ours-no-kernel", "cpu"])
    by_name = {row.implementation: row for row in check_training_parity(job, lanes).results}
    assert all(row.repeats is not None and row.repeats.equal for row in by_name.values())
    fused, default = by_name["ours-no-kernel"].bits
    assert (fused.other, fused.expected, fused.equal) == ("torch-fused", True, True)
    assert (default.other, default.expected, default.equal) == ("torch", False, False)
    assert default.step is not None
    assert default.parameter in {name for group in job.groups for name in group.names}
    # The plain loop in its place is within every budget, and still not the promised bits.
    monkeypatch.setattr(type(IMPLEMENTATIONS["ours-no-kernel"]), "ours", False)
    broken = check_training_parity(job, lanes, repeat=False).results[-1]
    assert broken.status == "differs"
    assert broken.reason is not None
    assert "bits differ from those of torch-fused from step" in broken.reason


def test_the_kernel_is_what_tells_ours_from_ours_without_it() -> None:
    if kernel.load() is None:
        pytest.skip("no C compiler here")
    with kernel.switched_off():
        assert kernel.load() is None
    assert kernel.load() is not None


def chaotic_job(first: float, last: float, momentum: float, steps: int) -> TrainingJob:
    """Rates beyond stability: rounding is amplified a millionfold."""
    module = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    with torch.no_grad():
        for i, weight in enumerate(module.parameters()):
            weight.copy_(torch.linspace(-2, 2, weight.numel()).sin().reshape(weight.shape) * (2 + i))
    groups = tuple(
        RateGroup(names=(f"{i}.weight", f"{i}.bias"), options={"lr": lr, "momentum": momentum})
        for i, lr in ((0, first), (2, last))
    )
    rows = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    made = make_job(module, rows, name="chaotic", steps=steps, optimizer="sgd", batch_size=8, seed=1)
    return replace(made, groups=groups)


@pytest.mark.slow
def test_a_chaotic_training_gets_a_budget_that_grows_and_still_catches_faults(plant: Any) -> None:
    job = chaotic_job(0.3, 0.1, 0.9, steps=60)  # after 40, whether it is still sharp depends on the processor
    report = check_training_parity(job, [Lane(implementation="ours"), Lane(implementation="torch-fused")], repeat=False)
    (budget,) = report.budgets
    assert all(later >= earlier for earlier, later in pairwise(budget.allowed))
    assert budget.allowed[-1] > 1e4 * budget.allowed[0]
    assert budget.blunt_from is not None  # and it says where it stops to mean anything
    assert 10 < budget.blunt_from < 60
    assert report.passed
    wrong = run_one(job, plant(training_faults.IgnoresARate))
    assert wrong.departure is not None
    assert wrong.departure.step == 1


def test_nothing_is_judged_where_plain_arithmetic_leaves_its_range() -> None:
    report = check_training_parity(chaotic_job(1.0, 0.5, 0.0, steps=30), [Lane(implementation="ours")], repeat=False)
    assert report.budgets[0].judged == 25
    assert report.passed
    assert not math.isfinite(report.results[0].losses[-1])
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["budgets"][0]["allowed"][-1] is None


def test_the_budget_is_made_of_conditioning_and_plain_arithmetic() -> None:
    reference = TrainingReference(zoo_job("main", optimizer="adam", steps=5), ARITHMETICS["float32"])
    assert reference.names == ("layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias", PROBE, LOSS)
    assert reference.allowed.shape == (6, 6)
    least = 4 * np.maximum(reference.plain, reference.conditioning)
    assert (reference.allowed >= least).all()
    assert (reference.allowed[:, :4] >= FLOOR).all()
    assert (reference.conditioning[1:, :4] > 0.1).all()
    assert reference.sharpness.shape == (5, 4)
    # A unit is an eps at the scale of the tensor, so doubled weights are as far away as they are large.
    doubled = reference.values[-1].copy()
    doubled[reference.part("layer1.weight")] *= 2
    error = reference.errors(5, doubled)[0]
    assert error == pytest.approx(1 / torch.finfo(torch.float32).eps, rel=0.2)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.99), (0.95, 0.9995), (0.0, 0.9)])
def test_what_rounded_betas_do_to_a_step_is_allowed(betas: tuple[float, float]) -> None:
    """As captured and compiled steps compute it: beta, its power and one minus that in float32."""
    for step in (1, 2, 10, 114, 280, 1000, 5000):
        exact = math.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)
        first, second = (1 - np.float32(beta) ** np.float32(step) for beta in betas)
        single = float(np.sqrt(second) / first)
        optimizer = SimpleNamespace(param_groups=[{"lr": 1.0, "betas": betas}])
        Jitter(ARITHMETICS["float32"], torch.Generator().manual_seed(0)).bias_correction(optimizer, step)
        allowed = abs(optimizer.param_groups[0]["lr"] - 1)
        # Three roundings more: of the two differences and the quotient.
        assert abs(single / exact - 1) <= allowed + 1.5 * torch.finfo(torch.float32).eps, step
        assert allowed < 2e-4


def test_tensors_that_only_rounding_moves_are_told() -> None:
    """A bias in front of a batch norm has no gradient; Adam makes steps of its rounding error all the same."""
    report = check_training_parity(zoo_job("convolution", optimizer="adam", steps=5), [Lane(implementation="ours")])
    assert report.budgets[0].blind == ("conv.bias",)
    assert report.budgets[0].sharpness < 1e-3
    assert report.passed


@pytest.mark.slow
def test_a_compiled_step_agrees() -> None:
    lane = Lane(implementation="torch-compiled")
    result = run_one(zoo_job("main", optimizer="adam", steps=4), lane)
    if result.status == "unavailable":
        pytest.skip(str(result.reason))
    assert result.status == "agrees", result.reason


def line_job(**changes: Any) -> TrainingJob:
    options: dict[str, Any] = {
        "name": "line", "module": nn.Linear(2, 1), "batches": [(torch.ones(4, 2),)] * 3, "optimizer": "sgd",
        "loss": lambda module, x: (module(x) - 1).square().mean(),
        "groups": (RateGroup(names=("weight", "bias"), options={"lr": 0.1}),),
    }  # fmt: skip
    return TrainingJob(**(options | changes))


class Random(nn.Linear):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows) + torch.rand(1, dtype=rows.dtype)


class Narrow(nn.Linear):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows).half()


@pytest.mark.parametrize(
    ("changes", "message", "help"),
    [
        ({"module": Random(2, 1)}, "line gives different weights when trained twice", "dropout"),
        ({"module": Narrow(2, 1)}, "the loss of line is float16 in float64", "make constants and casts"),
        ({"groups": (RateGroup(names=("weight", "bias"), options={"lr": 1e200}),)},
         "line diverges in float64 at step 2: there is nothing to compare with", "lower the rates"),
        ({"loss": lambda module, x: module(x)}, "line cannot be trained in float64: ", "make constants and casts"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_says_so(changes: dict[str, Any], message: str, help: str) -> None:
    with pytest.raises(InputError) as caught:
        run_one(line_job(**changes), Lane(implementation="torch"))
    assert caught.value.message.startswith(message)
    assert help in caught.value.help


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adadelta"}, 'no optimizer "adadelta"'),
        ({"batches": []}, "line has no batches"),
        ({"groups": (RateGroup(names=("weight",), options={"lr": 1.0}),)}, "bias is in no group"),
        ({"groups": (RateGroup(names=("weight", "bias", "scale"), options={"lr": 1.0}),)}, "scale is in a group, and"),
        ({"groups": (RateGroup(names=("weight", "bias"), options={"lr": 1.0}),) * 2}, "bias is in two groups"),
    ],
)
def test_a_job_that_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        line_job(**changes)
    assert caught.value.message.startswith(message)


def test_lanes_are_chosen_by_name() -> None:
    assert [str(one) for one in find_lanes(["bfloat16", "ours", "cpu"])] == ["ours on cpu in bfloat16"]
    everywhere = find_lanes()
    assert {lane.device for lane in everywhere} == {"cpu", "cuda", "mps"}
    assert all(lane.device in IMPLEMENTATIONS[lane.implementation].devices for lane in everywhere)
    with pytest.raises(ConfigError, match='"adamw" is not an implementation, device or arithmetic'):
        find_lanes(["adamw"])
    with pytest.raises(ConfigError, match='there is an implementation "ours" already'):
        register_implementation("ours")


def test_what_is_not_here_is_unavailable_and_why() -> None:
    lanes = [
        Lane(implementation="ours-graph"), Lane(implementation="torch", arithmetic="tfloat32"),
        *(Lane(implementation="torch", device=name) for name in ("cuda", "mps")),
    ]  # fmt: skip
    report = check_training_parity(line_job(), lanes)
    reasons = [row.reason or "" for row in report.results]
    assert reasons[0] == "ours-graph needs cuda"
    assert reasons[1] == "there is no tfloat32 on cpu"
    if not torch.cuda.is_available():
        assert "CUDA" in reasons[2] or "NVIDIA" in reasons[2]
    assert {row.status for row in report.results[:2]} == {"unavailable"}
    assert not check_training_parity(line_job(), lanes[:2]).passed


def test_the_report_is_json() -> None:
    report = check_training_parity(line_job(), [Lane(implementation="ours")])
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["results"][0]["status"] == "agrees"
    assert len(document["results"][0]["distances"]) == len(document["budgets"][0]["allowed"]) == 3
    assert document["rates"] == "0.1"


def test_the_callers_job_is_left_alone() -> None:
    job = line_job()
    before = {name: weight.detach().clone() for name, weight in job.module.named_parameters()}
    check_training_parity(job, [Lane(implementation="ours")])
    assert all(torch.equal(before[name], weight) for name, weight in job.module.named_parameters())
    assert all(weight.grad is None for weight in job.module.parameters())
    assert not math.isnan(float(job.batches[0][0].sum()))
