"""The rows a population learns from, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.loop import loss_function as task_loss
from lrdiff_core.setup import Prepared

__all__ = ["ROWS", "TASKS", "Loss", "PopulationData", "by_seed", "loss_function", "score"]

Loss = Callable[[Tensor, Tensor], Tensor]
TASKS = ("binary", "multiclass", "regression")
ROWS = ("inputs", "targets", "held_inputs", "held_targets", "second_inputs", "second_targets")


@dataclass(frozen=True, kw_only=True)
class PopulationData:
    """Rows to learn from, rows held out, and the task.

    ========== ============================ ================================== ===========
    task       targets                      loss (mean over rows and outputs)  score
    ========== ============================ ================================== ===========
    binary     [rows, outputs], 0 or 1      cross-entropy of logits, in nats   accuracy
    multiclass [rows], class numbers        cross-entropy of logits, in nats   accuracy
    regression [rows, outputs]              squared error                      R2
    ========== ============================ ================================== ===========

    Args:
        inputs: [rows, ...], as the first layer takes them (standardized: no preprocessing happens here).
        targets: see above.
        held_inputs, held_targets: rows that are only evaluated on.
        second_inputs, second_targets: others, evaluated on by themselves: test rows beside validation rows.
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        class_weight: [classes], what a row of each counts in the loss; None: all count one. The same for every seed.
        loss: another mean loss of (outputs [batch, ...], targets [batch, ...]); scores are NaN then.

    Raises:
        DataError: rows and targets do not fit together, or hold values the task cannot use.
        ConfigError: no such task.

    Example:
        >>> data = PopulationData(inputs=torch.zeros(4, 2), targets=torch.ones(4, 1), task="binary")
        >>> data.rows
        4
    """

    inputs: Tensor
    targets: Tensor
    held_inputs: Tensor | None = None
    held_targets: Tensor | None = None
    second_inputs: Tensor | None = None
    second_targets: Tensor | None = None
    task: Literal["binary", "multiclass", "regression"] = "binary"
    loss: Loss | None = None
    class_weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}", help=f"write one of: {', '.join(TASKS)}")
        if self.class_weight is not None and (self.task == "regression" or self.loss is not None):
            what = "the loss is the user's own" if self.loss is not None else "a regression has no classes"
            raise DataError(f"class_weight is set, and {what}", help="leave class_weight out")
        for inputs, targets in ((self.held_inputs, self.held_targets), (self.second_inputs, self.second_targets)):
            if (inputs is None) != (targets is None):
                raise DataError("held-out rows need inputs and targets", help="give both, or neither")
        for what, inputs, targets in (
            ("training", self.inputs, self.targets),
            ("held-out", self.held_inputs, self.held_targets),
            ("second held-out", self.second_inputs, self.second_targets),
        ):
            if inputs is not None and targets is not None:
                self._check(what, inputs, targets)

    @classmethod
    def of(cls, prepared: Prepared, *, held: str = "validation", second: str | None = None) -> PopulationData:
        """Take the rows of :func:`lrdiff_core.prepare`, with one or two of its other splits held out.

        Example:
            >>> from lrdiff_core import load_table, make_config, set_up
            >>> setup = set_up(load_table("seed"), make_config({}))
            >>> PopulationData.of(setup.rows).inputs.shape
            torch.Size([700, 10])
        """
        return cls(
            inputs=prepared.inputs["train"],
            targets=prepared.targets["train"],
            held_inputs=prepared.inputs[held],
            held_targets=prepared.targets[held],
            second_inputs=None if second is None else prepared.inputs[second],
            second_targets=None if second is None else prepared.targets[second],
            task=prepared.table.task,
            class_weight=prepared.class_weight,
        )

    @property
    def rows(self) -> int:
        """Rows to learn from."""
        return len(self.inputs)

    @property
    def held_rows(self) -> int:
        """Rows held out."""
        return 0 if self.held_inputs is None else len(self.held_inputs)

    @property
    def second_rows(self) -> int:
        """Second rows held out."""
        return 0 if self.second_inputs is None else len(self.second_inputs)

    def to(self, device: torch.device, dtype: torch.dtype) -> PopulationData:
        """Return the rows on ``device``, what is a real number in ``dtype``."""

        def move(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            return values.to(device, dtype if values.is_floating_point() else None).contiguous()

        moved = {name: move(getattr(self, name)) for name in (*ROWS, "class_weight")}
        return replace(self, **moved)  # type: ignore[arg-type]

    def _check(self, what: str, inputs: Tensor, targets: Tensor) -> None:
        if inputs.ndim < 2 or len(inputs) == 0:
            raise DataError(
                f"{what} inputs have the shape {list(inputs.shape)}", help="give [rows, features], rows > 0"
            )
        if len(targets) != len(inputs):
            raise DataError(
                f"{len(inputs)} {what} rows have {len(targets)} targets", help="give one target for each row"
            )
        if self.loss is None:
            wanted = (1, "[rows] of whole class numbers") if self.task == "multiclass" else (2, "[rows, outputs]")
            if targets.ndim != wanted[0] or (self.task == "multiclass") == targets.is_floating_point():
                raise DataError(
                    f"{what} targets of a {self.task} task have the shape {list(targets.shape)} and {targets.dtype}",
                    help=f"give {wanted[1]}" + ("" if self.task == "multiclass" else ", floating"),
                )
            if self.task == "multiclass" and bool((targets < 0).any()):
                raise DataError(f"{what} targets hold a negative class", help="number the classes from 0")
        for name, values in (("inputs", inputs), ("targets", targets)):
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise DataError(f"{what} {name} hold NaN or infinity", help="fill or drop such rows first")


def by_seed(data: PopulationData | Mapping[int, PopulationData], seeds: list[int]) -> dict[int, PopulationData]:
    """Return the rows of every seed, checked to be alike in all but their values.

    Raises:
        DataError: a seed without rows, or rows of another shape or task than the first.
    """
    if isinstance(data, PopulationData):
        return dict.fromkeys(seeds, data)
    if not isinstance(data, Mapping):
        raise DataError(f"the rows are a {type(data).__name__}", help="give a PopulationData, or one for each seed")
    if missing := [seed for seed in seeds if seed not in data]:
        raise DataError(f"there are no rows for seed {missing[0]}", help="give rows for every seed, or one for all")
    first = data[seeds[0]]
    for seed in seeds:
        other = data[seed]
        for name in ROWS:
            shapes = [None if (v := getattr(d, name)) is None else tuple(v.shape) for d in (first, other)]
            if shapes[0] != shapes[1]:
                raise DataError(
                    f"{name} of seed {seed} have the shape {shapes[1]}, those of seed {seeds[0]} {shapes[0]}",
                    help="give every seed as many rows: members take their steps together",
                )
        if (other.task, other.loss) != (first.task, first.loss):
            raise DataError(f"seed {seed} has another task or loss than seed {seeds[0]}", help="give all the same")
        weights = [d.class_weight for d in (first, other)]
        if weights[0] is not weights[1] and (None in weights or not torch.equal(*weights)):  # type: ignore[arg-type]
            raise DataError(f"seed {seed} has other class weights than seed {seeds[0]}", help="give all the same")
    return {seed: data[seed] for seed in seeds}


def loss_function(data: PopulationData) -> Loss:
    """Return the data's own loss of outputs [batch, ...] and targets, or that of its task."""
    return task_loss(data.task, data.class_weight) if data.loss is None else data.loss


def score(data: PopulationData, outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right answers among outputs [rows, ...]; for regression the mean squared error.

    NaN where the data brings its own loss.
    """
    if data.loss is not None:
        return torch.full((), torch.nan, device=outputs.device)
    if data.task == "binary":
        return ((outputs > 0) == (targets > 0.5)).to(outputs.dtype).mean()
    if data.task == "multiclass":
        return (outputs.argmax(dim=1) == targets).to(outputs.dtype).mean()
    return (outputs - targets).square().mean()
