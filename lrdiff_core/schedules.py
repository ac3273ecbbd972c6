"""Schedules that keep the ratios between rates.

Every group's rate is its own base rate times a factor; the floor is a fraction of that base rate, so a group that
learns 100 times slower than another does so from the first step to the last. (A floor given as an absolute rate,
torch's ``eta_min``, pulls all groups towards one rate.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from lrdiff_core.errors import RateError

__all__ = ["Schedule", "Shape", "as_shape", "set_rate"]

_KINDS = ("constant", "linear", "cosine", "exponential")
_WARMUPS = ("linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a rate moves during training, as a factor of the rate itself.

    With ``start = delay + warmup + hold`` and ``p = (t - start) / (total - start)``, the factor at step ``t`` is ::

        0                                                   t < delay
        s + (1 - s) ramp((t - delay) / warmup)              until delay + warmup;  s = warmup_start
        1                                                   until start
        floor + (1 - floor) curve(p)                        until total, then floor

        constant      1                                     (has no floor)
        linear        curve(p) = 1 - p
        cosine        curve(p) = (1 + cos(pi p)) / 2        Loshchilov and Hutter 2017, arXiv:1608.03983
        exponential   the factor is floor ** p              (needs a floor above 0)
        ramp(x) = x, or (1 - cos(pi x)) / 2 where warmup_kind is "cosine"

    Args:
        kind: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"exponential"``.
        floor: the last factor, in [0, 1): a fraction of each rate.
        delay: steps during which the rate is zero.
        warmup: steps of the ramp from ``warmup_start`` to 1.
        hold: steps at the full rate before the way down.
        warmup_start: the factor the ramp starts at, in [0, 1].
        warmup_kind: ``"linear"`` or ``"cosine"``.

    Raises:
        RateError: an argument is outside its interval.

    Example:
        >>> shape = Shape(kind="linear", warmup=2, floor=0.1)
        >>> [round(shape.factor(t, total_steps=6), 3) for t in range(8)]
        [0.0, 0.5, 1.0, 0.775, 0.55, 0.325, 0.1, 0.1]
    """

    kind: str = "cosine"
    floor: float = 0.0
    delay: int = 0
    warmup: int = 0
    hold: int = 0
    warmup_start: float = 0.0
    warmup_kind: str = "linear"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise RateError(f'schedule "{self.kind}" is unknown', help=f"write one of: {', '.join(_KINDS)}")
        if self.warmup_kind not in _WARMUPS:
            raise RateError(f'warm-up "{self.warmup_kind}" is unknown', help=f"write one of: {', '.join(_WARMUPS)}")
        for name in ("delay", "warmup", "hold"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise RateError(f"schedule {name} is {value!r}", help="write a whole number of steps, 0 or more")
        if not _is_fraction(self.floor) or self.floor == 1:
            raise RateError(
                f"schedule floor is {self.floor!r}", help="write a fraction of each rate in [0, 1), such as 0.1"
            )
        if not _is_fraction(self.warmup_start):
            raise RateError(
                f"schedule warmup_start is {self.warmup_start!r}", help="write a fraction of each rate in [0, 1]"
            )
        if self.kind == "exponential" and self.floor == 0:
            raise RateError(
                "an exponential schedule has no floor", help="give the last fraction, in (0, 1), such as floor=0.01"
            )
        if self.kind == "constant" and (self.floor or self.hold):
            raise RateError(
                "a constant schedule has no floor and no hold", help='leave them out, or write kind="linear"'
            )

    @classmethod
    def one_cycle(cls, warmup: int, *, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Shape:
        """The 1cycle policy: a cosine up from ``1 / div_factor``, one down to ``1 / (div_factor * final_div_factor)``.

        Smith and Topin 2017, arXiv:1708.07120; the same numbers as torch's ``OneCycleLR`` of ``n`` steps with
        ``warmup = pct_start * n - 1`` and ``total_steps = n - 1``. The momentum is not cycled.

        Example:
            >>> Shape.one_cycle(warmup=2).factor(2, total_steps=9)
            1.0
        """
        if not (div_factor > 1 and final_div_factor >= 1):
            raise RateError(
                f"one_cycle divides by {div_factor!r} and {final_div_factor!r}",
                help="write div_factor above 1 and final_div_factor of at least 1",
            )
        floor = 1 / (div_factor * final_div_factor)
        return cls(kind="cosine", warmup=warmup, warmup_start=1 / div_factor, warmup_kind="cosine", floor=floor)

    @property
    def start(self) -> int:
        """The step at which the way down begins."""
        return self.delay + self.warmup + self.hold

    def check(self, total_steps: int) -> None:
        """Raise where delay, warm-up and hold do not leave a step of ``total_steps`` for the way down."""
        if isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1:
            raise RateError(f"total_steps is {total_steps!r}", help="write the number of optimizer steps, 1 or more")
        room = total_steps if self.kind == "constant" else total_steps - 1
        if self.start > room:
            raise RateError(
                f"delay, warm-up and hold take {self.start} steps of {total_steps}",
                help=f"let them add up to at most {room}, or train longer",
            )

    def factor(self, step: int, total_steps: int) -> float:
        """The factor at ``step``, counted from 0; from ``total_steps`` on it stays at the floor."""
        t = step - self.delay
        if t < 0:
            return 0.0
        if t < self.warmup:
            x = t / self.warmup
            ramp = x if self.warmup_kind == "linear" else (1 - math.cos(math.pi * x)) / 2
            return self.warmup_start + (1 - self.warmup_start) * ramp
        if self.kind == "constant" or step <= self.start:
            return 1.0
        p = min(1.0, (step - self.start) / (total_steps - self.start))
        if self.kind == "exponential":
            return self.floor**p
        curve = 1 - p if self.kind == "linear" else (1 + math.cos(math.pi * p)) / 2
        return self.floor + (1 - self.floor) * curve

    def to_dict(self) -> dict[str, Any]:
        """Every field by its name; ``Shape(**shape.to_dict())`` gives the shape back."""
        return asdict(self)


def as_shape(shape: str | Shape) -> Shape:
    """A shape from itself or from the name of its kind.

    Example:
        >>> as_shape("cosine") == Shape(kind="cosine")
        True
    """
    if isinstance(shape, Shape):
        return shape
    if isinstance(shape, str):
        return Shape(kind=shape)
    raise RateError(f"schedule is {shape!r}", help=f"write Shape(...) or one of: {', '.join(_KINDS)}")


class Schedule(LRScheduler):
    """Moves the rate of every group by a shape, ratios kept; ``step()`` follows each ``optimizer.step()``.

    It takes any torch optimizer, and every trainer that takes a torch scheduler takes it. A rate held as a tensor is
    filled in place and stays the same object, so compiled steps and captured graphs see the new value. Groups added
    later (at unfreeze) join at their own rate on the next ``step()``.

    Args:
        optimizer: any torch optimizer; the rates its groups hold now are the base rates.
        total_steps: optimizer steps of the whole training.
        shape: one shape (or the name of its kind) for all groups, or a list with one for each group.
        later: the shape of groups added later; None: the one shape, or the last of the list.

    Raises:
        RateError: a shape does not fit ``total_steps``, or the list does not fit the groups.

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
        shape: str | Shape | Sequence[str | Shape] = "cosine",
        later: str | Shape | None = None,
    ) -> None:
        # LRScheduler's own constructor is left out on purpose, as ReduceLROnPlateau does: it wraps optimizer.step and
        # refuses groups that are added later. The base class is for the isinstance checks of trainers.
        groups = optimizer.param_groups
        if isinstance(shape, str | Shape):
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
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.shapes = shapes
        self.base_lrs = [float(group["lr"]) for group in groups]
        self.last_epoch = 0
        self._step_count = 1  # Accelerate reads and moves this one
        self._apply()

    def step(self, epoch: int | None = None) -> None:
        """Go one step on and set every rate; call it after ``optimizer.step()``.

        Args:
            epoch: go to this step instead.
        """
        self.last_epoch = self.last_epoch + 1 if epoch is None else int(epoch)
        self._step_count += 1
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(float(group["lr"]))
            self.shapes.append(self.later)
        self._apply()

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rate of every known group at this step: base rate times factor."""
        pairs = zip(self.base_lrs, self.shapes, strict=True)
        return [float(base) * shape.factor(self.last_epoch, self.total_steps) for base, shape in pairs]

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """The rates as they were set last, one a group."""
        return list(self._last_lr)

    def lambdas(self) -> list[Callable[[int], float]]:
        """One factor function a group, for torch's ``LambdaLR`` where only that is taken."""
        return [partial(shape.factor, total_steps=self.total_steps) for shape in self.shapes]

    def state_dict(self) -> dict[str, Any]:
        """The step, the base rates, the shapes and the length, as plain numbers and texts."""
        return {
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "total_steps": self.total_steps,
            "base_lrs": [float(base) for base in self.base_lrs],
            "shapes": [shape.to_dict() for shape in self.shapes],
            "later": self.later.to_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where the state was taken, whatever rates the optimizer holds now.

        Raises:
            RateError: the state is another scheduler's, or counts another number of groups.
        """
        wanted = {"last_epoch", "step_count", "total_steps", "base_lrs", "shapes", "later"}
        if set(state_dict) != wanted:
            raise RateError(
                "this state was not written by a Schedule", help=f"it should hold: {', '.join(sorted(wanted))}"
            )
        found, here = len(state_dict["base_lrs"]), len(self.optimizer.param_groups)
        if found != here:
            raise RateError(
                f"the schedule's state counts {found} groups, the optimizer has {here}",
                help="build the optimizer with the plan the run was started with",
            )
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["step_count"]
        self.total_steps = state_dict["total_steps"]
        self.base_lrs = list(state_dict["base_lrs"])
        self.shapes = [Shape(**shape) for shape in state_dict["shapes"]]
        self.later = Shape(**state_dict["later"])
        self._apply()

    def _apply(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, float(rate))
        self._last_lr = rates


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


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
