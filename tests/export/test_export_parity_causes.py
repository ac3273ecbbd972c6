"""Faults that a hypothesis explains have its name; what none explains has no name; masks and rows are told apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lrdiff_export import BackendResult, Subject, check_subjects, subject_of_module
from lrdiff_export.model.precision import round_to
from lrdiff_export.runtimes import Predict, TorchBackend


class Net(nn.Module):
    """Rows of six numbers to four scores."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(rows)))))


class Shares(Net):
    """The same, as shares of one."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows).softmax(1)


class Words(nn.Module):
    """A number for each word and each of three heads; hidden words have zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 5), nn.Linear(5, 5)

    def forward(self, ids: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids)) * kept.unsqueeze(-1)


def made(kind: Callable[[], nn.Module], *rows: np.ndarray) -> Subject:
    torch.manual_seed(0)
    return subject_of_module(kind(), rows)


GENERATOR = np.random.default_rng(0)
ROWS = GENERATOR.standard_normal((40, 6)).astype(np.float32)
IDS, KEPT = GENERATOR.integers(1, 9, (20, 5)), GENERATOR.random((20, 5)) < 0.7
KEPT[3] = False
NET, SHARES, WORDS = made(Net, ROWS), made(Shares, ROWS), made(Words, IDS, KEPT)


def by_output(change: Callable[..., np.ndarray]) -> type:
    """A backend that changes what comes out; it is given the inputs, too, if it takes them."""

    class Changed(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            predict = super().prepare(model)
            return lambda *rows: [np.asarray(change(predict(*rows)[0], *rows), np.float32)]

    return Changed


def by_weights(change: Callable[[nn.Module], object]) -> type:
    """A backend that changes the module's weights."""

    class Changed(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            changed = copy.deepcopy(model)
            with torch.no_grad():
                change(changed)
            return super().prepare(changed)

    return Changed


def rounded(name: str) -> Callable[[nn.Module], object]:
    return lambda module: [one.copy_(round_to(one, name)) for one in module.parameters()]


def inner(module: nn.Module) -> Any:
    """The module of this file, wherever it was put."""
    return next(one for one in module.modules() if isinstance(one, Net))


def judged(subject: Subject, plant: Any, kind: type) -> BackendResult:
    plant("planted")(kind)
    eager, result = check_subjects({"model": subject}, backends=["eager", "planted"])["model"].results
    assert eager.status == "agrees"
    assert result.status == "differs"
    return result


def column(out: np.ndarray, at: int, by: float) -> np.ndarray:
    made = out.copy()
    made[:, at] += by
    return made


NAMED = {
    "scale": (NET, by_output(lambda out, rows: out * 1.001), "scale off", "every number is 1.001 times what"),
    "sign": (NET, by_output(lambda out, rows: -out), "scale off", "a sign that is turned"),
    "constant": (NET, by_output(lambda out, rows: out + 0.25), "bias off", "0.25 is added to every number"),
    "column": (NET, by_output(lambda out, rows: column(out, 2, -0.5)), "bias off", "-0.5 in column 2, the same"),
    "reversed": (NET, by_output(lambda out, rows: out[::-1]), "axes or rows rearranged", "rows in reverse order"),
    "rolled": (NET, by_output(lambda out, rows: np.roll(out, 1, 0)), "axes or rows rearranged", "rows moved by 1"),
    "stale": (
        NET, by_output(lambda out, rows: np.repeat(out[:1], len(out), 0)), "axes or rows rearranged", "the first row"),
    "axes": (
        WORDS, by_output(lambda out, *rows: out.swapaxes(1, 2)), "axes or rows rearranged", "axes 1 and 2 swapped"),
    "cut off": (NET, by_output(lambda out, rows: out.clip(None, 0.1)), "numbers cut off", "cut off at 0.1"),
    "logarithm": (SHARES, by_output(lambda out, rows: np.log(out)), "wrong output function", "the logarithm of what"),
    "twice": (
        SHARES, by_output(lambda out, rows: np.exp(out) / np.exp(out).sum(1, keepdims=True)), "wrong output function",
        "after another softmax"),
    "bias": (NET, by_weights(lambda one: inner(one).middle.bias.zero_()), "wrong weight", "middle.bias left out"),
    "transposed": (
        NET, by_weights(lambda one: inner(one).middle.weight.copy_(inner(one).middle.weight.T.clone())), "wrong weight",
        "middle.weight transposed"),
    "weights in bfloat16": (NET, by_weights(rounded("bfloat16")), "weights rounded", "weights rounded to bfloat16"),
    "weights in float16": (SHARES, by_weights(rounded("float16")), "weights rounded", "weights rounded to float16"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_a_fault_that_a_hypothesis_explains_has_its_name(name: str, plant: Any) -> None:
    subject, kind, fault, said = NAMED[name]
    result = judged(subject, plant, kind)
    assert result.fault == fault, result.reason
    assert "; looks like " in str(result.reason)
    assert said in str(result.reason)


UNNAMED: dict[str, Callable[..., np.ndarray]] = {
    "noise": lambda out, rows: out + 0.01 * np.sin(1e4 * out),
    "scaled and noisy": lambda out, rows: out * 1.5 + 0.01 * np.sin(1e4 * out),
    "one number": lambda out, rows: out + (np.arange(out.size).reshape(out.shape) == 7),
    "a column of each row": lambda out, rows: out + np.eye(4)[np.arange(len(out)) % 4],
    "scaled in some rows": lambda out, rows: out * np.where(rows[:, :1] > 0.5, 1.01, 1),
    "barely beyond": lambda out, rows: out + 1.5e-6 * np.sign(np.sin(1e5 * out)),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_what_no_hypothesis_explains_has_no_name_and_a_place(name: str, plant: Any) -> None:
    result = judged(NET, plant, by_output(UNNAMED[name]))
    assert result.fault is None, result.reason
    assert "looks like" not in str(result.reason)
    assert "most at [" in str(result.reason)
    assert result.where is not None
    given = UNNAMED[name](NET.judge.answers[0], ROWS) - NET.judge.answers[0]
    assert abs(given[result.where["worst"]]) == pytest.approx(abs(given).max(), rel=0.3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda out, ids, kept: out + ~kept[..., None], "exactly the positions where input 1 is masked (0)"),
        (
            lambda out, ids, kept: out + (ids == 8)[..., None],
            "the positions where input 0 is the largest index",
        ),
        (lambda out, ids, kept: out + ~kept.any(1)[:, None, None], "rows where input 1 is masked (0) everywhere"),
        (lambda out, ids, kept: out + ~kept.all(1)[:, None, None], "rows where input 1 is masked (0) anywhere"),
    ],
)
def test_masked_positions_and_rows_are_told_apart(change: Any, said: str, plant: Any) -> None:
    result = judged(WORDS, plant, by_output(change))
    assert said in str(result.reason)


def test_many_outputs_are_judged_within_memory_that_follows_them() -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    subject = made(lambda: nn.Linear(8, 20_000), ROWS[:, :1].repeat(8, 1))
    size = subject.judge.answers[0].nbytes
    tracemalloc.start()
    (result,) = check_subjects({"model": subject}, backends=["eager"])["model"].results
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.status == "agrees"
    assert peak < 8 * size
