"""What an audit found: one row a parameter, and findings in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lrdiff_core.errors import CheckFailed
from lrdiff_core.text import count

__all__ = ["Finding", "Report", "Row"]

WIDTH = 100
_FOLD = 24  # rows; of more, equal ones are shown once
_HEADINGS = ("parameter", "asked", "applied", "decay", "applied", "rule", "differs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as asked, or worth knowing.

    Args:
        kind: one of :data:`~lrdiff_core.audit.KINDS`.
        text: what is so, in one line.
        help: what to do about it, in one line.
        parameters: names.
        since: the first step at which it was seen, from 1; None where it holds for the whole training.
        until: the last one; None where it never ended.
        note: True where it is only worth knowing: an audit passes with notes.
    """

    kind: str
    text: str
    help: str
    parameters: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    note: bool = False

    def __str__(self) -> str:
        return f"{'note' if self.note else 'differs'}: {self.text}\nhelp: {self.help}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One parameter.

    Args:
        name: canonical name.
        asked: its rate, before any schedule; None where nothing was asked.
        applied: the rate that moved it, the schedule's factor taken out; None where the rule is unknown or its steps
            are too small to tell. Of several steps, the one that differs most.
        decay: asked.
        decay_applied: the decay that moved it; None where it cannot be determined.
        rule: recognised; None where it is not known.
        size: root mean square of the way that its entries went in the last step looked at.
        optimizer: the class that stepped it.
        since: the first step at which anything differs; None where nothing does.
        until: the last one; None where it never ended.
        frozen: it was not to move.
    """

    name: str
    asked: float | None
    applied: float | None = None
    decay: float | None = None
    decay_applied: float | None = None
    rule: str | None = None
    size: float = 0.0
    optimizer: str | None = None
    since: int | None = None
    until: int | None = None
    differs: bool = False
    frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an audit saw; print it, read its fields, or :meth:`check` it in a test.

    Args:
        rows: one a parameter, in model order.
        findings: what is not as asked, and notes.
        optimizers: how many steps each optimizer made, by class name.
        looks: sampled steps.
        factor: least and most of the schedule's factor; None where no step was seen.
    """

    rows: Sequence[Row]
    findings: Sequence[Finding] = ()
    optimizers: Mapping[str, int] = field(default_factory=dict)
    looks: int = 0
    factor: tuple[float, float] | None = None

    @property
    def passed(self) -> bool:
        """Whether everything is as asked."""
        return not any(not finding.note for finding in self.findings)

    def __getitem__(self, name: str) -> Row:
        """The row of a parameter."""
        return next(row for row in self.rows if row.name == name)

    def check(self) -> None:
        """Raise where something is not as asked.

        Raises:
            CheckFailed: with the first finding.
        """
        differs = [finding for finding in self.findings if not finding.note]
        if differs:
            more = f" (and {count(len(differs) - 1, 'more finding')})" if len(differs) > 1 else ""
            raise CheckFailed(f"{differs[0].text}{more}", help=differs[0].help)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, as JSON takes them."""
        return {
            "passed": self.passed,
            "optimizers": dict(self.optimizers),
            "looks": self.looks,
            "factor": None if self.factor is None else list(self.factor),
            "parameters": [asdict(row) for row in self.rows],
            "findings": [{**asdict(one), "parameters": list(one.parameters)} for one in self.findings],
        }

    def __str__(self) -> str:
        return self.table()

    def table(self, *, full: bool = False) -> str:
        """The rows as text, then the findings; equal rows of a large model are shown once unless ``full``."""
        cells = [(row.name, *_cells(row)) for row in self.rows]
        if len(cells) > _FOLD and not full:
            folded: dict[tuple[str, ...], list[str]] = {}
            for name, *rest in cells:
                folded.setdefault(tuple(rest), []).append(name)
            cells = [(_names(names), *rest) for rest, names in folded.items()]
        table = [_HEADINGS, *cells]
        widths = [max(len(row[i]) for row in table) for i in range(len(_HEADINGS))]
        widths[0] = min(widths[0], max(24, WIDTH - sum(widths[1:]) - 2 * len(widths)))
        lines = []
        for row in table:
            texts = [_shortened(row[0], widths[0]).ljust(widths[0])]
            texts += [
                text.rjust(widths[i]) if i in (1, 2, 3, 4) else text.ljust(widths[i]) for i, text in enumerate(row) if i
            ]
            lines.append("  ".join(texts).rstrip())
        return "\n".join([*lines, *self._sizes(), self._last_line(), *map(str, self.findings)])

    def _last_line(self) -> str:
        stepped = ", ".join(f"{count(steps, 'step')} of {name}" for name, steps in self.optimizers.items())
        schedule = ""
        if self.factor is not None and self.factor[0] != self.factor[1]:
            schedule = f", rates times {self.factor[0]:.3g} to {self.factor[1]:.3g} by the schedule"
        wrong = sum(row.differs for row in self.rows)
        verdict = "nothing differs" if self.passed else f"{wrong} {'differs' if wrong == 1 else 'differ'}"
        return (
            f"{count(len(self.rows), 'parameter')}, {stepped or 'no step'}, {self.looks} looked at{schedule}: {verdict}"
        )

    def _sizes(self) -> list[str]:
        """Where a rule is unknown, what can be determined: how far groups went, as a ratio to the first."""
        sizes: dict[tuple[str, float], list[float]] = {}
        for row in self.rows:
            if row.rule is None and row.size and row.asked and row.optimizer:
                sizes.setdefault((row.optimizer, row.asked), []).append(row.size)
        lines = []
        for optimizer in dict.fromkeys(name for name, _ in sizes):
            means = {rate: sum(ways) / len(ways) for (name, rate), ways in sizes.items() if name == optimizer}
            if len(means) > 1:
                first = next(iter(means))
                asked = " : ".join(f"{rate / first:.3g}" for rate in means)
                went = " : ".join(f"{mean / means[first]:.3g}" for mean in means.values())
                lines.append(f"{optimizer} has a rule unknown here; rates asked are as {asked}, steps were as {went}")
        return lines


def _cells(row: Row) -> tuple[str, ...]:
    since = "-"
    if row.differs:
        since = "yes" if row.since is None else f"since step {row.since}"
        if row.since is not None and row.until is not None:
            since = f"steps {row.since} to {row.until}" if row.until > row.since else f"step {row.since}"
    asked = "frozen" if row.frozen else _number(row.asked)
    rule = row.rule or ("unknown" if row.size else "-")
    return asked, _number(row.applied), _number(row.decay), _number(row.decay_applied, 2), rule, since


def _number(value: float | None, figures: int = 3) -> str:
    return "-" if value is None else f"{value:.{figures}g}"


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"
