"""What ``lrdiff boost`` says at the end: how many optimizers were replaced, which were left and why, what it gained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lrdiff_bench.boost.record import Checked, Record
from lrdiff_core.text import count

__all__ = ["Report", "report_of"]

FORMS = {
    "kernel": "by our compiled kernel",
    "fused": "by torch's fused kernel in one pass",
    "foreach": "by torch's foreach kernels in one pass",
    "triton": "by our Triton kernel",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """A script that was run.

    Args:
        records: of its optimizers.
        status: that it ended with.
        seconds: from the end of the first step to the end of the last; None where fewer than two were timed.
        slower: how many times as long torch's own steps take; why that is not known; None where it was not asked.
    """

    records: tuple[Record, ...]
    status: int
    seconds: float | None
    slower: float | str | None = None

    @property
    def replaced(self) -> list[Record]:
        """Optimizers of which at least one tensor is stepped by ours."""
        return [record for record in self.records if record.replaced]

    @property
    def share(self) -> float | None:
        """Of the training that the replaced optimizers took; None where nobody can say."""
        if not self.seconds or any(record.checked for record in self.records):  # what is checked is not timed
            return None
        return sum(record.seconds for record in self.replaced) / self.seconds

    @property
    def share_before(self) -> float | None:
        """What torch's own steps would have taken, of the training that they would have been part of."""
        if self.share is None or not isinstance(self.slower, float):
            return None
        return self.share * self.slower / (1 + self.share * (self.slower - 1))

    @property
    def failed(self) -> Record | None:
        """The first optimizer that a check found wrong."""
        return next((record for record in self.records if record.checked and record.checked.outside), None)

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-ready document."""
        return {
            "format": "lrdiff.boost",
            "version": 1,
            "status": self.status,
            "replaced": len(self.replaced),
            "optimizers": [_entry(record) for record in self.records],
            "seconds": self.seconds,
            "share": self.share,
            "share_before": self.share_before,
            "torch_over_ours": self.slower if isinstance(self.slower, float) else None,
            "no_estimate": self.slower if isinstance(self.slower, str) else None,
        }

    def lines(self) -> list[str]:
        """The report as sentences, one a line."""
        if not self.records:
            return [
                "no optimizer of torch was made in this process",
                "a script that starts others (torchrun, spawn) is boosted in each: lrdiff boost inside of it",
            ]
        checks = [_checked(record.name, record.checked) for record in self.records if record.checked]
        found = [f"{len(self.replaced)} of {count(len(self.records), 'optimizer')} replaced"]
        found += _counted([_words(record) for record in self.records])
        if self.share is not None:
            found.append(f"the steps took {self.share:.1%} of {self.seconds:.3g} s of training")
            if self.share_before is not None and isinstance(self.slower, float):
                gain = (1 - self.share) + self.share * self.slower
                found[-1] += (
                    f"; torch's own would have taken about {self.share_before:.0%}, and the training {gain:.2f} times "
                    "as long (timed on copies with cold caches)"
                )
            elif isinstance(self.slower, str):
                found[-1] += f"; what torch's own would have taken is not known: {self.slower}"
        return [*found, *_counted(checks)]


def report_of(records: Sequence[Record], status: int) -> Report:
    """What the records of a script show, as they are now: what steps afterwards is no part of it."""
    records = [replace(record) for record in records]
    timed = [r for r in records if r.replaced and r.first is not None and r.last is not None and r.steps > 1]
    firsts, lasts = [r.first for r in timed if r.first is not None], [r.last for r in timed if r.last is not None]
    seconds = max(lasts) - min(firsts) if timed else 0.0
    return Report(records=tuple(records), status=status, seconds=seconds if seconds > 0 else None)


def _entry(record: Record) -> dict[str, Any]:
    checked = record.checked
    return {
        "name": record.name,
        "replaced": record.replaced,
        "reason": record.reason,
        "steps": record.steps,
        "seconds": record.seconds,
        "tensors": dict(record.tensors),
        "left": dict(record.left),
        "check": None if checked is None else vars(checked).copy(),
    }


def _words(record: Record) -> str:
    steps = count(record.steps, "step")
    if record.replaced:
        parts = [f"{count(number, 'tensor')} {FORMS.get(form, form)}" for form, number in record.tensors.items()]
        parts += [f"{count(number, 'tensor')} left to torch: {reason}" for reason, number in record.left.items()]
        return f"{record.name}: {steps}; {'; '.join(parts)}"
    if record.reason is None:
        unseen = "no step was seen (not used, or compiled by torch.compile)"
        return f"{record.name}: left to torch: {unseen if not record.steps else 'it stepped nothing'}"
    return f"{record.name}: left to torch: {record.reason}"


def _counted(lines: Sequence[str]) -> list[str]:
    return [f"{text} ({number} alike)" if number > 1 else text for text, number in Counter(lines).items()]


def _checked(name: str, checked: Checked) -> str:
    if not checked.steps:
        return f"{name}: no step could be taken by torch's fused kernel on copies"
    steps = f"{name}: {count(checked.steps, 'step')} taken by torch's fused kernel, too"
    if checked.where:
        return f"{steps}: {checked.outside} of {checked.numbers} numbers differ; first: {checked.where}"
    if not checked.other:
        return f"{steps}: every bit of {checked.numbers} numbers is the same"
    which = ", where torch rounds otherwise on ARM" if checked.anywhere else " at the ends of tensors"
    return (
        f"{steps}: every bit of {checked.numbers} numbers is the same but for {checked.other}{which}, "
        f"which differ by {checked.units:.2g} units in the last place at most"
    )
