"""How a rate moves during training: a factor at every step, the same for a rate of 1 and a rate of 1e-5."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from lrdiff_core.errors import RateError
from lrdiff_core.text import nearest_first

__all__ = ["Shape", "as_shape"]

# What each kind takes beside delay, warm-up and hold. The equations stand in the docstring of Shape.
KINDS: dict[str, frozenset[str]] = {
    "constant": frozenset(),
    "linear": frozenset({"floor", "decay"}),
    "cosine": frozenset({"floor", "decay"}),
    "polynomial": frozenset({"floor", "decay", "power"}),
    "1-sqrt": frozenset({"floor", "decay"}),
    "exponential": frozenset({"floor", "decay", "gamma"}),
    "inverse_sqrt": frozenset({"timescale"}),
    "step": frozenset({"gamma", "milestones", "period"}),
    "cosine_restarts": frozenset({"floor", "cycles", "period", "period_mult"}),
    "function": frozenset({"floor", "decay", "function"}),
}
WARMUPS = ("linear", "cosine", "1-sqrt")
STEPS_OR_FRACTION = "write a whole number of steps, or a fraction of the training in (0, 1) such as 0.1"

Span = int | float  # steps, or a fraction of the training


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a rate moves during training, as a factor of the rate itself.

    With ``start = delay + warmup + hold``, ``n = t - start`` and ``p = n / (total - start)``, the factor at step ``t``
    is ::

        0                                                   t < delay
        s + (1 - s) ramp((t - delay) / warmup)              until delay + warmup;  s = warmup_start
        1                                                   until start
        floor + (1 - floor) curve(p)                        until total, then floor

        constant          1
        linear            curve(p) = 1 - p
        cosine            curve(p) = (1 + cos(pi p)) / 2                     arXiv:1608.03983
        polynomial        curve(p) = (1 - p) ** power
        1-sqrt            curve(p) = 1 - sqrt(p)                             arXiv:2405.18392
        function          curve(p) = function(p)
        cosine_restarts   curve = (1 + cos(pi q)) / 2, q from 0 to 1 in each of ``cycles`` equal cycles, or in cycles of
                          ``period`` steps, each ``period_mult`` times as long as the one before
        exponential       the factor is floor ** p, or gamma ** n
        step              the factor is gamma ** (milestones passed), or gamma ** (n // period)
        inverse_sqrt      the factor is 1 / sqrt(1 + n / timescale)          arXiv:1706.03762

        ramp(x) = x, (1 - cos(pi x)) / 2 ("cosine"), or 1 - sqrt(1 - x) ("1-sqrt")

    A number of steps may also be a fraction of the training: ``warmup=0.1`` is a tenth of ``total``, rounded up.

    Args:
        kind: one of the names above.
        floor: the last factor, in [0, 1): a fraction of each rate.
        delay: steps during which the rate is zero.
        warmup: steps of the ramp from ``warmup_start`` to 1.
        hold: steps at the full rate before the way down.
        decay: steps of the way down; the full rate is then held until it begins (in place of ``hold``).
        warmup_start: the factor the ramp starts at, in [0, 1].
        warmup_kind: ``"linear"``, ``"cosine"`` or ``"1-sqrt"``.
        power: of ``"polynomial"``, above 0 (default 1).
        gamma: what ``"step"`` (default 0.1) and ``"exponential"`` multiply by, in (0, 1].
        milestones: steps of the training, counted from 0, at which ``"step"`` multiplies by ``gamma``.
        period: steps of one cycle, or between two steps down.
        period_mult: what each cycle is longer by, a whole number (default 1).
        cycles: how many equal cycles (default 1).
        timescale: of ``"inverse_sqrt"``, in steps; default: the warm-up, or 10 000 without one.
        function: a function from [0, 1] to a factor of 0 or more. It is no part of ``to_dict()``, which holds its name.

    Raises:
        RateError: an argument is outside its interval, or the kind does not take it.

    Example:
        >>> shape = Shape(kind="linear", warmup=2, floor=0.1)
        >>> [round(shape.factor(t, total_steps=6), 3) for t in range(8)]
        [0.0, 0.5, 1.0, 0.775, 0.55, 0.325, 0.1, 0.1]
        >>> halved = Shape(kind="step", milestones=(0.5, 0.75), gamma=0.5)
        >>> [halved.factor(t, total_steps=8) for t in range(8)]
        [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    kind: str = "cosine"
    floor: float = 0.0
    delay: Span = 0
    warmup: Span = 0
    hold: Span = 0
    decay: Span | None = None
    warmup_start: float = 0.0
    warmup_kind: str = "linear"
    power: float | None = None
    gamma: float | None = None
    milestones: Sequence[Span] = ()
    period: Span | None = None
    period_mult: int | None = None
    cycles: int | None = None
    timescale: int | None = None
    function: Callable[[float], float] | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            names = nearest_first(str(self.kind), [*KINDS, "wsd"])
            raise RateError(f'schedule "{self.kind}" is unknown', help=f"write one of: {', '.join(names)}")
        if self.warmup_kind not in WARMUPS:
            raise RateError(f'warm-up "{self.warmup_kind}" is unknown', help=f"write one of: {', '.join(WARMUPS)}")
        if type(self.milestones) is not tuple and isinstance(self.milestones, Sequence):  # JSON knows lists only
            object.__setattr__(self, "milestones", tuple(self.milestones))
        self._check_numbers()
        self._check_kind()

    def _check_numbers(self) -> None:
        for name in ("delay", "warmup", "hold"):
            if not _is_span(value := getattr(self, name), least=0):
                raise RateError(f"schedule {name} is {value!r}", help=STEPS_OR_FRACTION)
        for name in ("decay", "period"):
            if (value := getattr(self, name)) is not None and not _is_span(value, least=1):
                raise RateError(f"schedule {name} is {value!r}", help=STEPS_OR_FRACTION)
        if not _is_fraction(self.floor) or self.floor == 1:
            raise RateError(
                f"schedule floor is {self.floor!r}", help="write a fraction of each rate in [0, 1), such as 0.1"
            )
        if not _is_fraction(self.warmup_start):
            raise RateError(
                f"schedule warmup_start is {self.warmup_start!r}", help="write a fraction of each rate in [0, 1]"
            )
        if self.power is not None and not (_is_number(self.power) and 0 < self.power < math.inf):
            raise RateError(f"schedule power is {self.power!r}", help="write a number above 0, such as 2")
        if self.gamma is not None and not (_is_fraction(self.gamma) and self.gamma > 0):
            raise RateError(f"schedule gamma is {self.gamma!r}", help="write a factor in (0, 1], such as 0.1")
        for name in ("period_mult", "cycles", "timescale"):
            if (value := getattr(self, name)) is not None and not _is_count(value, least=1):
                raise RateError(f"schedule {name} is {value!r}", help="write a whole number, 1 or more")
        if not isinstance(self.milestones, tuple) or not all(_is_span(m, least=1) for m in self.milestones):
            raise RateError(
                f"schedule milestones are {self.milestones!r}",
                help="write a tuple of steps, or of fractions of the training, such as (0.5, 0.75)",
            )

    def _check_kind(self) -> None:
        """Raise where the kind does not take what was given, or lacks what it needs."""
        given = [f.name for f in fields(self) if f.default is not MISSING and getattr(self, f.name) != f.default]
        foreign = [name for name in given if name in _OPTIONS and name not in KINDS[self.kind]]
        if "hold" in given and (self.kind == "constant" or self.milestones):
            foreign.append("hold")
        if foreign:
            takers = [kind for kind, taken in KINDS.items() if foreign[0] in taken]
            article = "an" if self.kind[0] in "aeiou" else "a"
            raise RateError(
                f"{article} {self.kind} schedule has no {foreign[0]}",
                help=f"leave it out, or write one of these kinds: {', '.join(takers or list(KINDS)[1:])}",
            )
        if self.decay is not None and self.hold:
            raise RateError(
                "a schedule has both hold and decay", help="give one: hold counts from the warm-up, decay from the end"
            )
        missing = {
            "exponential": not self.floor and self.gamma is None and "floor=0.01, the last factor, or gamma=0.99",
            "step": not self.milestones and self.period is None and "milestones=(0.5, 0.75), or period=30",
            "function": self.function is None and "function=lambda p: (1 - p) ** 2",
        }.get(self.kind)
        if missing:
            raise RateError(f'schedule "{self.kind}" is not complete', help=f"give {missing}")
        both = {
            "exponential": self.floor and self.gamma is not None and ("floor", "gamma"),
            "step": self.milestones and self.period is not None and ("milestones", "period"),
            "cosine_restarts": self.cycles is not None and self.period is not None and ("cycles", "period"),
        }.get(self.kind)
        if both:
            raise RateError(f'schedule "{self.kind}" has both {both[0]} and {both[1]}', help="give one of the two")
        if self.function is not None and not (callable(self.function) or isinstance(self.function, str)):
            raise RateError(
                f"schedule function is {self.function!r}", help="write a function of p, which goes from 0 to 1"
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

    @classmethod
    def wsd(
        cls,
        *,
        warmup: Span = 0,
        decay: Span = 0.2,
        kind: str = "1-sqrt",
        floor: float = 0.0,
        warmup_kind: str = "linear",
    ) -> Shape:
        """Warm-up, stable, decay: the full rate from the warm-up until the last ``decay`` steps.

        Hu et al. 2024, arXiv:2404.06395; Hägele et al. 2024, arXiv:2405.18392, who find a decay of a fifth of the
        training by ``1 - sqrt`` best; the same numbers as transformers' ``get_wsd_schedule``.

        Args:
            warmup: steps of the ramp up, or a fraction of the training.
            decay: steps of the way down, or a fraction of the training.
            kind: the curve of the way down: ``"1-sqrt"``, ``"linear"``, ``"cosine"``, ...
            floor: the last factor.
            warmup_kind: the curve of the ramp.

        Example:
            >>> [Shape.wsd(decay=0.4, kind="linear").factor(t, total_steps=10) for t in (0, 6, 8, 10)]
            [1.0, 1.0, 0.5, 0.0]
        """
        return cls(kind=kind, warmup=warmup, decay=decay, floor=floor, warmup_kind=warmup_kind)

    def start(self, total_steps: int) -> int:
        """The step at which the way down begins.

        Example:
            >>> Shape(warmup=0.1, hold=5).start(total_steps=100)
            15
        """
        up = _steps(self.delay, total_steps) + _steps(self.warmup, total_steps)
        if self.decay is not None:
            return max(up, total_steps - _steps(self.decay, total_steps))
        return up + _steps(self.hold, total_steps)

    def check(self, total_steps: int) -> None:
        """Raise where delay, warm-up, hold and decay do not fit into ``total_steps``."""
        if not _is_count(total_steps, least=1):
            raise RateError(f"total_steps is {total_steps!r}", help="write the number of optimizer steps, 1 or more")
        parts = {name: _steps(getattr(self, name) or 0, total_steps) for name in ("delay", "warmup", "hold", "decay")}
        room = total_steps if self._is_endless or self.decay is not None else total_steps - 1
        if (taken := sum(parts.values())) > room:
            named = "delay, warm-up and hold" if self.decay is None else "delay, warm-up and decay"
            raise RateError(
                f"{named} take {taken} steps of {total_steps}",
                help=f"let them add up to at most {room}, or train longer",
            )

    @property
    def _is_endless(self) -> bool:
        """Whether the curve is counted in steps from its start, whatever the length of the training."""
        if self.kind in ("exponential", "cosine_restarts"):
            return self.gamma is not None or self.period is not None
        return self.kind in ("constant", "inverse_sqrt", "step")

    def factor(self, step: int, total_steps: int) -> float:
        """The factor at ``step``, counted from 0.

        Raises:
            RateError: a function of one's own gives no number, or one below 0; or only its name was stored.
        """
        delay, warmup = _steps(self.delay, total_steps), _steps(self.warmup, total_steps)
        t = step - delay
        if t < 0:
            return 0.0
        if t < warmup:
            return _RAMPS[self.warmup_kind](t / warmup) * (1 - self.warmup_start) + self.warmup_start
        start = self.start(total_steps)
        if self.kind == "constant" or (step < start and self.kind != "step"):
            return 1.0
        if self._is_endless:
            return self._endless(step, start, warmup, total_steps)
        if step >= total_steps:
            return self.floor
        if self.kind == "exponential":
            return float(self.floor ** ((step - start) / (total_steps - start)))
        return self._curve(step - start, total_steps - start) * (1 - self.floor) + self.floor

    def _curve(self, n: int, length: int) -> float:
        """From 1 towards 0 in ``length`` steps, in the order of operations of transformers' functions."""
        p = n / length
        if self.kind == "linear":
            return (length - n) / length if self.decay is None else 1.0 - p
        if self.kind == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * p))
        if self.kind == "polynomial":
            return float((1 - p) ** (1 if self.power is None else self.power))
        if self.kind == "1-sqrt":
            return 1.0 - math.sqrt(p)
        if self.kind == "cosine_restarts":
            return 0.5 * (1.0 + math.cos(math.pi * ((float(self.cycles or 1) * p) % 1.0)))
        return self._own(p)

    def _own(self, p: float) -> float:
        if not callable(self.function):
            raise RateError(
                f'the function "{self.function}" of a schedule was stored by its name only',
                help='give the schedule the function again: Shape(kind="function", function=...)',
            )
        value = self.function(p)
        if not _is_number(value) or not 0 <= value < math.inf:
            raise RateError(
                f"the function of a schedule gives {value!r} at p = {p:.6g}", help="let it return a number of 0 or more"
            )
        return float(value)

    def _endless(self, step: int, start: int, warmup: int, total_steps: int) -> float:
        """Curves that are counted in steps and go on past the end of the training."""
        n = step - start
        if self.kind == "inverse_sqrt":
            timescale = self.timescale or warmup or INVERSE_SQRT_TIMESCALE
            return 1.0 / math.sqrt((n + timescale) / timescale)
        if self.kind == "exponential":
            return float((self.gamma or 1.0) ** n)
        if self.kind == "step":
            gamma = STEP_GAMMA if self.gamma is None else self.gamma
            if self.period is not None:
                return float(gamma ** (max(0, n) // _steps(self.period, total_steps)))
            return float(gamma ** bisect_right(sorted(_steps(m, total_steps) for m in self.milestones), step))
        length = _steps(self.period or 1, total_steps)
        growth = self.period_mult or 1
        while n >= length and growth > 1:
            n, length = n - length, length * growth
        curve = (1 + math.cos(math.pi * (n % length) / length)) / 2
        return curve * (1 - self.floor) + self.floor

    def __repr__(self) -> str:
        return f"Shape({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    def to_dict(self) -> dict[str, Any]:
        """The kind and what differs from its default, as JSON takes them; ``Shape(**shape.to_dict())`` gives it back.

        Of a function only the name is stored.
        """
        stored = {f.name: getattr(self, f.name) for f in fields(self)}
        stored = {f.name: stored[f.name] for f in fields(self) if f.name == "kind" or stored[f.name] != f.default}
        if self.milestones:
            stored["milestones"] = list(self.milestones)
        if callable(self.function):
            stored["function"] = f"{self.function.__module__}.{getattr(self.function, '__qualname__', 'function')}"
        return stored


_OPTIONS = frozenset().union(*KINDS.values())  # that only some kinds take
_RAMPS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "cosine": lambda x: 0.5 * (1.0 - math.cos(math.pi * x)),
    "1-sqrt": lambda x: 1.0 - math.sqrt(1.0 - x),
}
STEP_GAMMA = 0.1  # torch's default for StepLR and MultiStepLR
INVERSE_SQRT_TIMESCALE = 10_000  # transformers' default where there is no warm-up


def as_shape(shape: str | Shape | Callable[[float], float]) -> Shape:
    """A shape from itself, from the name of its kind (``"wsd"``, too), or from a function of progress.

    Example:
        >>> as_shape("cosine") == Shape(kind="cosine")
        True
        >>> as_shape(lambda p: (1 - p) ** 2).factor(5, total_steps=10)
        0.25
    """
    if isinstance(shape, Shape):
        return shape
    if shape == "wsd":
        return Shape.wsd()
    if isinstance(shape, str):
        return Shape(kind=shape)
    if callable(shape):
        return Shape(kind="function", function=shape)
    raise RateError(
        f"schedule is {shape!r}", help=f"write Shape(...), a function, or one of: {', '.join([*KINDS, 'wsd'])}"
    )


def _steps(span: Span, total_steps: int) -> int:
    """A number of steps, or a fraction of the training rounded up to one."""
    return span if isinstance(span, int) else math.ceil(total_steps * span)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_span(value: object, least: int) -> bool:
    """Whether it is a number of steps or a fraction of the training."""
    if isinstance(value, float):
        return 0 < value < 1 or (value == 0 and least == 0)
    return _is_count(value, least)


def _is_fraction(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1  # type: ignore[operator]
