"""What a population is trained with: everything that is not one number a member, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lrdiff_core.errors import ConfigError
from lrdiff_core.optimizers import STACKED
from lrdiff_core.schedules import Shape, as_shape

__all__ = ["PATHS", "PopulationOptions", "Settings"]

PATHS = ("auto", "kernel", "general")
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class PopulationOptions:
    """How the members of a population are trained, and what is written down.

    Args:
        batch_size: rows a step.
        epochs: the length, counted in epochs.
        steps: the length, counted in steps; give one of the two.
        optimizer: ``"sgd"``, ``"adam"``, ``"adamw"`` or ``"rmsprop"``.
        weight_decay: one number, [members], or [members, groups], as the four that follow.
        momentum: of SGD and RMSprop.
        betas: of Adam and AdamW, two of these.
        eps: of all but SGD.
        alpha: of RMSprop.
        nesterov: SGD with Nesterov's momentum, for all members.
        schedule: a shape or its name; it multiplies every rate.
        evaluate: when losses and scores of both splits are taken: ``"epoch"`` (after each), ``"end"``, ``"never"``,
            or every so many steps and at the end.
        step_losses: keep the loss of every step.
        keep_weights: hand the final weights back.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        dtype: float32 or float64.
        compile: None takes the generated kernel where there is one (a chain of linear layers, on a CPU with a C++
            compiler) and nothing compiled otherwise; True compiles or fails (other paths: ``torch.compile``); False
            compiles nothing.
        path: ``"kernel"``, ``"general"`` (any module that torch.func can call), or ``"auto"``.
        tile: members trained at once; left out, as many as fit 256 MiB. It changes memory and time, not results;
            where memory runs out it is halved.
        threads: None takes torch's number for the kernel, and one for the general path.

    Raises:
        ConfigError: a field has a value outside its interval.

    Example:
        >>> PopulationOptions(batch_size=25, epochs=10, optimizer="sgd", momentum=0.9).optimizer
        'sgd'
    """

    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    optimizer: str = "adam"
    weight_decay: Any = 0.0
    momentum: Any = 0.0
    betas: tuple[Any, Any] = (0.9, 0.999)
    eps: Any = 1e-8
    alpha: Any = 0.99
    nesterov: bool = False
    schedule: Shape | str | None = None
    evaluate: str | int = "epoch"
    step_losses: bool = False
    keep_weights: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    compile: bool | None = None
    path: str = "auto"
    tile: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", STACKED), ("path", PATHS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", help=f"write one of: {', '.join(choices)}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is {self.dtype}", help="write torch.float32 or torch.float64")
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError("the length of the training is ambiguous", help="give either epochs or steps")
        for name in ("epochs", "steps", "batch_size", "tile", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}", help="write a whole number from 1 up")
        every = self.evaluate
        if isinstance(every, bool) or not (
            every in ("epoch", "end", "never") or (isinstance(every, int) and every > 0)
        ):
            raise ConfigError(
                f"evaluate is {every!r}", help='write "epoch", "end", "never", or every how many steps from 1 up'
            )
        if self.nesterov and self.optimizer != "sgd":
            raise ConfigError(f"nesterov is set, and {self.optimizer} takes none", help='write optimizer="sgd"')
        if self.schedule is not None:
            object.__setattr__(self, "schedule", as_shape(self.schedule))


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings(PopulationOptions):
    """Options together with the number of training rows, from which lengths follow.

    Raises:
        RateError: the schedule does not fit the number of steps.
    """

    rows: int

    @classmethod
    def of(cls, options: PopulationOptions, rows: int) -> Settings:
        """The settings of a training over so many rows."""
        return cls(rows=rows, **vars(options))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule is not None:
            as_shape(self.schedule).check(self.total_steps)

    @property
    def steps_an_epoch(self) -> int:
        """The last step of an epoch takes what is left."""
        return -(-self.rows // self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.steps if self.steps is not None else (self.epochs or 0) * self.steps_an_epoch

    def evaluated_after(self) -> list[int]:
        """Numbers of steps done at which members are evaluated, rising."""
        total = self.total_steps
        if self.evaluate == "never":
            return []
        if self.evaluate == "end":
            return [total]
        every = self.steps_an_epoch if isinstance(self.evaluate, str) else self.evaluate
        return sorted({*range(every, total + 1, every), total})

    def factors(self) -> torch.Tensor:
        """What the schedule multiplies rates by at each step [steps], float64."""
        total = self.total_steps
        if self.schedule is None:
            return torch.ones(total, dtype=torch.float64)
        shape = as_shape(self.schedule)
        return torch.tensor([shape.factor(t, total) for t in range(total)], dtype=torch.float64)
