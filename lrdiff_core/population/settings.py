"""What a population is trained with: everything that is not one number a member, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lrdiff_core.errors import ConfigError
from lrdiff_core.schedules import Shape

__all__ = ["OPTIMIZERS", "PATHS", "Settings"]

OPTIMIZERS = ("sgd", "adam", "adamw")
PATHS = ("auto", "kernel", "general")
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long, with what, and what is written down; see :func:`train_population` for each field.

    Raises:
        ConfigError: a field has a value outside its interval.
        RateError: the schedule does not fit the number of steps.
    """

    rows: int
    batch_size: int
    optimizer: str = "adam"
    epochs: int | None = None
    steps: int | None = None
    nesterov: bool = False
    schedule: Shape | None = None
    evaluate: str | int = "epoch"
    step_losses: bool = False
    compile: bool | None = None
    dtype: torch.dtype = torch.float32
    path: str = "auto"
    tile: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("optimizer", OPTIMIZERS), ("path", PATHS)):
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
            self.schedule.check(self.total_steps)

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
        return torch.tensor([self.schedule.factor(t, total) for t in range(total)], dtype=torch.float64)
