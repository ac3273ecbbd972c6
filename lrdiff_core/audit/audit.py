"""The context manager that people write around their training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from lrdiff_core.audit.asked import Asked, Factor, of_groups, of_plan
from lrdiff_core.audit.findings import report_of
from lrdiff_core.audit.report import Finding, Report, Row
from lrdiff_core.audit.stepper import unwrapped
from lrdiff_core.audit.watch import Watch
from lrdiff_core.errors import RateError
from lrdiff_core.rates import RatePlan, list_parameters
from lrdiff_core.schedules import Schedule

__all__ = ["Audit", "audit"]

EVERY = 50


class Audit:
    """A report that fills while the ``with`` block runs; see :func:`audit`.

    It has the attributes and methods of :class:`Report`, at any time.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    @property
    def report(self) -> Report:
        """What was seen so far, as a report that stays as it is."""
        return report_of(self._watch)

    @property
    def rows(self) -> Sequence[Row]:
        """One a parameter, in model order."""
        return self.report.rows

    @property
    def findings(self) -> Sequence[Finding]:
        """What is not as asked, and notes."""
        return self.report.findings

    @property
    def passed(self) -> bool:
        """Whether everything is as asked."""
        return self.report.passed

    def check(self) -> None:
        """Raise :class:`~lrdiff_core.errors.CheckFailed` where something is not as asked."""
        self.report.check()

    def __getitem__(self, name: str) -> Row:
        return self.report[name]

    def __str__(self) -> str:
        return str(self.report)


@contextmanager
def audit(
    model: nn.Module | None = None,
    optimizer: Any = None,
    plan: RatePlan | None = None,
    *,
    schedule: Schedule | Factor | None = None,
    every: int = EVERY,
) -> Iterator[Audit]:
    """Watch a training and report what each parameter's rate, decay and update rule really were.

    Every optimizer that steps is seen, whoever made it: hooks are on all of torch's at once. Nothing is changed, and
    nothing is drawn from random generators.

    Args:
        model: what is trained. None: every model that an optimizer of this process trains, and what was asked is the
            plan that this process made for it, if any.
        optimizer: the one (or a list) that is to train it; None: whichever does.
        plan: what was asked. None: what the optimizer's groups say when the block begins; without an optimizer,
            whatever the groups say at each step.
        schedule: of the optimizer, a :class:`~lrdiff_core.schedules.Schedule` or a function from the step (from 0) to
            a factor: then the factor itself is checked. None: any factor is right that all rates share.
        every: the first three steps are looked at, and then each of this number.

    Raises:
        RateError: the model is no module, or the plan was made for another one.

    Example:
        >>> import torch
        >>> from lrdiff_core.rates import Rule, param_groups
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> plan = param_groups(model, lr=1e-3, rules=[Rule("0", lr=1e-4)])
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)  # forgot plan.groups()
        >>> with audit(model, optimizer, plan) as report:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(4, 8)).square().mean().backward()
        ...         optimizer.step()
        >>> report.passed, report.findings[0].kind
        (False, 'groups-lost')
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise RateError(f"every is {every!r}", help="write a whole number of steps, such as 50")
    optimizers = [] if optimizer is None else list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    infos = [] if model is None else list_parameters(model)
    names = {id(info.parameter): info.name for info in infos}
    asked: dict[str, Asked] = {}
    if plan is not None and model is None:
        raise RateError("a plan was given without its model", help="write audit(model, optimizer, plan)")
    if plan is not None:
        asked = _renamed(of_plan(plan), [name for info in infos for name in (info.name, *info.tied)])
    else:
        for one in optimizers:
            asked |= of_groups(getattr(unwrapped(one), "param_groups", []), names)
    watch = Watch(model, optimizers, asked=asked, planned=plan is not None, schedule=schedule, every=every)
    watch.start()
    try:
        yield Audit(watch)
    finally:
        watch.stop()


def _renamed(asked: dict[str, Asked], names: Sequence[str]) -> dict[str, Asked]:
    """A plan made for a part of the model, such as the one inside of a LightningModule: its names get the prefix."""
    known = set(names)
    if known & asked.keys():
        return asked
    first = next(iter(asked))
    for name in names:
        prefix = name.removesuffix(first)
        if name.endswith(f".{first}") and all(prefix + one in known for one in asked):
            return {prefix + one: value for one, value in asked.items()}
    raise RateError(
        f"the plan was made for another model: it names {first}, the model has {names[0]}",
        help="make the plan for this model, or hand over the module that it was made for",
    )
