"""What a model of one's own is trained for: its loss, and a score beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from lrdiff_bench.system.batches import Batch
from lrdiff_bench.system.factory import default_loss
from lrdiff_bench.system.user_code import one_line, their_fault
from lrdiff_core.errors import InputError
from lrdiff_core.loop import score_name

__all__ = ["OwnTask", "Tally", "find_task", "first_output", "loss_fault"]

Loss = Callable[[Any, Any], Tensor]

_CROSS_ENTROPY = (nn.functional.cross_entropy, nn.functional.nll_loss)
_BINARY = (nn.functional.binary_cross_entropy_with_logits,)


@dataclass(frozen=True, kw_only=True)
class OwnTask:
    """Loss and score.

    Args:
        kind: ``"binary"``, ``"multiclass"``, ``"regression"``, or ``"own"`` where the loss alone says what is wanted.
        loss: of outputs and targets, a mean over rows.
        score: of all outputs and targets as arrays, larger is better; None for the kind's own.
        score_name: how it is called; None where there is none.
        classes: how many there are; 0 for numbers.
    """

    kind: str
    loss: Loss
    score: Callable[[np.ndarray, np.ndarray], float] | None = None
    score_name: str | None = None
    classes: int = 0


def find_task(batch: Batch, outputs: Any, loss: Loss | None, score: Any) -> OwnTask:
    """What kind of task targets, outputs and loss make.

    Args:
        batch: the first of the training rows.
        outputs: what the model gives for it.
        loss: the factory's, or None.
        score: the factory's, or None.
    """
    first, targets = first_output(outputs), batch.targets
    used = default_loss if loss is None else loss
    kind, classes = "own", 0
    if isinstance(targets, Tensor) and first is not None:
        whole = not targets.is_floating_point()
        if whole and first.is_floating_point() and first.ndim == targets.ndim + 1 and (loss is None or _is(loss, _CROSS_ENTROPY, nn.CrossEntropyLoss)):  # fmt: skip  # noqa: E501
            kind, classes = "multiclass", first.shape[1]
        elif first.shape == targets.shape and _is(loss, _BINARY, nn.BCEWithLogitsLoss):
            kind, classes = "binary", 2
        elif first.shape == targets.shape and not whole and (loss is None or _is(loss, (nn.functional.mse_loss,), nn.MSELoss)):  # fmt: skip  # noqa: E501
            kind = "regression"
    name = None if kind == "own" else score_name(kind)
    if score is not None:
        name = getattr(score, "__name__", "score").replace("_", " ")
    return OwnTask(kind=kind, loss=used, score=score, score_name=name, classes=classes)


def first_output(outputs: Any) -> Tensor | None:
    """The tensor that a model answers with, or the first of several."""
    if isinstance(outputs, Mapping):
        outputs = next(iter(outputs.values()), None)
    if isinstance(outputs, tuple | list):
        outputs = outputs[0] if outputs else None
    return outputs if isinstance(outputs, Tensor) else None


def loss_fault(source: str, task: OwnTask, outputs: Any, targets: Any, problem: BaseException) -> InputError:
    """The error for an exception in a loss: the user's own line, or what does not fit where the loss is ours."""
    first = first_output(outputs)
    if task.loss is not default_loss or first is None or not isinstance(targets, Tensor):
        return their_fault(f"the loss of {source}", problem)
    return InputError(
        f"outputs {list(first.shape)} and targets {list(targets.shape)} from {targets.min():g} to {targets.max():g} do "
        f"not fit: {one_line(problem)[:120]}",
        help="number classes from 0 and give an output for each, or add 'loss': a function of outputs and targets",
    )


@dataclass(kw_only=True)
class Tally:
    """Loss and score over the batches of a split.

    Example:
        >>> import torch
        >>> tally = Tally(task=OwnTask(kind="regression", loss=default_loss))
        >>> targets = torch.tensor([[1.0], [3.0]])
        >>> tally.add(targets + 1, targets, default_loss(targets + 1, targets), 2)
        >>> tally.loss, tally.score()
        (1.0, 0.0)
    """

    task: OwnTask
    rows: int = 0
    total: float = 0.0
    _right: float = 0.0
    _counted: int = 0
    _sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    _kept: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, outputs: Any, targets: Any, loss: Tensor, rows: int) -> None:
        """Count one batch."""
        self.rows += rows
        self.total += float(loss) * rows
        first = first_output(outputs)
        if first is None or not isinstance(targets, Tensor):
            return
        if self.task.score is not None:
            self._kept.append((first.cpu().numpy(), targets.cpu().numpy()))
        elif self.task.kind in ("binary", "multiclass"):
            right = (first > 0) == (targets > 0.5) if self.task.kind == "binary" else first.argmax(dim=1) == targets
            if self.task.kind == "multiclass" and bool((targets < 0).any()):  # such as -100: not to be counted
                right = right[targets >= 0]
            self._right += float(right.sum())
            self._counted += right.numel()
        elif self.task.kind == "regression":
            wanted, off = targets.double(), (first - targets).double()
            self._counted += wanted.numel()
            for i, one in enumerate((wanted.sum(), wanted.square().sum(), off.square().sum())):
                self._sums[i] += float(one)

    @property
    def loss(self) -> float:
        """Mean over the rows."""
        return self.total / self.rows if self.rows else math.nan

    def score(self) -> float:
        """Of all batches; NaN where the task has none."""
        if self.task.score is not None and self._kept:
            try:
                return float(self.task.score(*(np.concatenate(part) for part in zip(*self._kept, strict=True))))
            except Exception as problem:  # the user's own function
                raise InputError(
                    f"the score raised {type(problem).__name__}: {problem}",
                    help="let it take outputs and targets [rows, ...] and give a number",
                ) from problem
        if not self._counted:
            return math.nan
        if self.task.kind == "regression":
            spread = self._sums[1] - self._sums[0] ** 2 / self._counted
            return 1.0 - self._sums[2] / spread if spread > 0 else math.nan
        return self._right / self._counted


def _is(loss: Any, functions: tuple[Any, ...], kind: type[nn.Module]) -> bool:
    return any(loss is one for one in functions) or isinstance(loss, kind)
