"""The scheduler: a shape for every group, by torch's contract for schedulers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from lrdiff_core.errors import RateError
from lrdiff_core.schedules.shape import Shape, as_shape

__all__ = ["Schedule", "refuse_shared_rates", "set_rate"]

AnyShape = str | Shape | Callable[[float], float]
STATE = {"last_epoch", "step_count", "total_steps", "base_lrs", "last_lr", "shapes", "later", "active"}


class Schedule(LRScheduler):
    """Moves the rate of every group by a shape, ratios kept; ``step()`` follows each ``optimizer.step()``.

    It takes any torch optimizer, and every trainer that takes a torch scheduler takes it. It keeps torch's contract and
    gives the rates of a ``LambdaLR`` with the same factors, built twice on one optimizer, in a ``SequentialLR`` or a
    ``ChainedScheduler``: the base rate of a group is its ``initial_lr``, which the first scheduler of an optimizer
    notes there. A rate held as a tensor is filled in place and stays the same object, so compiled steps and captured
    graphs see the new value. Groups added later (at unfreeze) join at their own rate on the next ``step()``.

    Args:
        optimizer: any torch optimizer.
        total_steps: optimizer steps of the whole training.
        shape: one shape (or the name of its kind, or a function of progress) for all groups, or a list with one for
            each group.
        later: the shape of groups added later; None: the one shape, or the last of the list.
        last_epoch: the last step that was taken, where an optimizer is gone on with whose groups hold ``initial_lr``.

    Raises:
        RateError: a shape does not fit ``total_steps``, the list does not fit the groups, or ``last_epoch`` is given
            and a group has no ``initial_lr``.

    Example:
        >>> w, v = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([{"params": [w], "lr": 1.0}, {"params": [v], "lr": 0.01}])
        >>> schedule = Schedule(optimizer, total_steps=4, shape=Shape(kind="linear", floor=0.2))
        >>> for _ in range(4):
        ...     optimizer.step()
        ...     schedule.step()
        >>> schedule.get_last_lr()
        [0.2, 0.002]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        shape: AnyShape | Sequence[AnyShape] = "cosine",
        later: AnyShape | None = None,
        last_epoch: int = -1,
    ) -> None:
        # LRScheduler's own constructor is left out on purpose, as ReduceLROnPlateau does: it wraps optimizer.step and
        # refuses groups that are added later. The rest of the contract is kept here.
        groups = optimizer.param_groups
        if isinstance(shape, str | Shape) or callable(shape):
            shapes = [as_shape(shape)] * len(groups)
        elif isinstance(shape, Sequence) and len(shape) == len(groups):
            shapes = [as_shape(one) for one in shape]
        else:
            count = len(shape) if isinstance(shape, Sequence) else repr(shape)
            raise RateError(
                f"the optimizer has {len(groups)} groups, the schedule got {count} shapes",
                help="give one shape for all groups, or a list with one for each",
            )
        self.later = as_shape(later) if later is not None else shapes[-1]
        for one in [*shapes, self.later]:
            one.check(total_steps)
        refuse_shared_rates(groups, shapes)
        for index, group in enumerate(groups):
            if last_epoch != -1 and "initial_lr" not in group:
                raise RateError(
                    f"group {index} of the optimizer has no initial_lr, which continuing at a step needs",
                    help="load the optimizer's state first, or leave last_epoch out",
                )
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.shapes = shapes
        self.base_lrs: list[float | torch.Tensor] = []
        self._last_lr: list[float | torch.Tensor] = []
        self.last_epoch = last_epoch
        self._initial_step()

    def step(self, epoch: int | None = None) -> None:
        """Go one step on and set every rate; call it after ``optimizer.step()``.

        Args:
            epoch: go to this step instead.
        """
        self._step_count += 1  # Accelerate reads and moves this one
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        """Go one step on, or to a step; what ``SequentialLR`` calls where a stage begins."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else int(epoch)
        self._take_in_groups()
        self._set(self.get_lr())

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rate of every known group at this step: base rate times factor."""
        pairs = zip(self.base_lrs, self.shapes, strict=True)
        return [base * shape.factor(self.last_epoch, self.total_steps) for base, shape in pairs]

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """The rates as they were set last, one a group."""
        return list(self._last_lr)

    def lambdas(self) -> list[Callable[[int], float]]:
        """One factor function a group, for torch's ``LambdaLR`` where only that is taken."""
        return [partial(shape.factor, total_steps=self.total_steps) for shape in self.shapes]

    def state_dict(self) -> dict[str, Any]:
        """The step, the rates, the shapes and the length, as plain numbers and texts."""
        self._take_in_groups()
        last = [float(rate) for rate in self._last_lr]
        return {
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "total_steps": self.total_steps,
            "base_lrs": [float(base) for base in self.base_lrs],
            "last_lr": last,
            "shapes": [shape.to_dict() for shape in self.shapes],
            "later": self.later.to_dict(),
            # False in a SequentialLR or ChainedScheduler while another scheduler sets the rates.
            "active": last == [float(group["lr"]) for group in self.optimizer.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where the state was taken, whatever rates the optimizer holds now.

        To go on at the same step with the rates of another plan, call ``schedule.step(state_dict["last_epoch"])``
        instead.

        Raises:
            RateError: the state is another scheduler's, counts another number of groups, or holds the name of a
                function that this schedule was not given.
        """
        if set(state_dict) != STATE:
            raise RateError(
                "this state was not written by a Schedule", help=f"it should hold: {', '.join(sorted(STATE))}"
            )
        found, here = len(state_dict["base_lrs"]), len(self.optimizer.param_groups)
        if found != here:
            raise RateError(
                f"the schedule's state counts {found} groups, the optimizer has {here}",
                help="build the optimizer with the plan the run was started with, or continue at the state's step with "
                'schedule.step(state["last_epoch"])',
            )
        known = [self.later, *self.shapes]
        self.shapes = [_with_function(Shape(**shape), known) for shape in state_dict["shapes"]]
        self.later = _with_function(Shape(**state_dict["later"]), known)
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["step_count"]
        self.total_steps = state_dict["total_steps"]
        self._take_in_groups()
        self.base_lrs = list(map(_held_as, self.base_lrs, state_dict["base_lrs"]))
        self._last_lr = list(map(_held_as, self._last_lr, state_dict["last_lr"]))
        if state_dict["active"]:
            self._set(self._last_lr)

    def _take_in_groups(self) -> None:
        """Note the rates of groups that were added since."""
        new = self.optimizer.param_groups[len(self.base_lrs) :]
        self.base_lrs += map(_base_rate, new)
        self.shapes += [self.later] * (len(self.base_lrs) - len(self.shapes))
        self._last_lr += [_copied(group["lr"]) for group in new]

    def _set(self, rates: Sequence[float | torch.Tensor]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, float(rate))
        self._last_lr = [_copied(group["lr"]) for group in self.optimizer.param_groups]


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a group's rate; a rate held as a tensor is filled in place and stays the same object."""
    if isinstance(group["lr"], torch.Tensor):
        with torch.no_grad():
            group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def refuse_shared_rates(groups: Sequence[dict[str, Any]], intents: Sequence[object]) -> None:
    """Raise where groups that want different rates hold one and the same tensor.

    torch hands a tensor given as the default rate to every group; filling it for one group moves them all.

    Args:
        groups: the optimizer's groups.
        intents: one value a group; groups whose values differ must not share a tensor.
    """
    owner: dict[int, int] = {}
    for index, group in enumerate(groups):
        if isinstance(group["lr"], torch.Tensor):
            first = owner.setdefault(id(group["lr"]), index)
            if intents[first] != intents[index]:
                raise RateError(
                    f"groups {first} and {index} share one tensor as their rate, but are to move apart",
                    help="give each group its own tensor: plan.groups(tensor_lr=True) does",
                )


def _base_rate(group: dict[str, Any]) -> float | torch.Tensor:
    """What every scheduler of the group counts from; noted in the group by the first of them, as torch does.

    A rate held as a tensor is multiplied in its own precision, as torch's schedulers do, but on the CPU: reading the
    product from a device would wait for it at every step.
    """
    base = group.setdefault("initial_lr", _copied(group["lr"]))
    return base.detach().cpu().clone() if isinstance(base, torch.Tensor) else float(base)


def _held_as(rate: float | torch.Tensor, number: float) -> float | torch.Tensor:
    return torch.full_like(rate, number) if isinstance(rate, torch.Tensor) else number


def _copied(rate: Any) -> float | torch.Tensor:
    return rate.detach().clone() if isinstance(rate, torch.Tensor) else float(rate)


def _with_function(shape: Shape, known: Sequence[Shape]) -> Shape:
    """The shape with the function of which a state holds the name."""
    if not isinstance(shape.function, str):
        return shape
    for own in known:
        if own.to_dict().get("function") == shape.function and callable(own.function):
            return replace(shape, function=own.function)
    raise RateError(
        f'the state names the function "{shape.function}", which this schedule was not given',
        help="build the schedule with the same function and load the state again",
    )
