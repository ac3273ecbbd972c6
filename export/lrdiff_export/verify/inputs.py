"""The verification battery: which rows a file is run on, and what is expected of it there.

What is expected is computed once; any number of files can then be run against it. Rows of ordinary size (held-out
rows, normal ones, zeros, extremes, denormals, round numbers, rows on both sides of every threshold) share one
reference, so that a single row whose answer happens to lie next to zero is judged by the same measure as the rest.
Rows of 10 and 10 000 times the size have references of their own.

Other rows show for which inputs a file is proven at all: NaN and infinities, integers beyond those seen, inputs of
integers that are zero throughout. Where it answers otherwise than its module there, they are outside its domain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch

from lrdiff_core.errors import DataError, InputError, LrdiffError
from lrdiff_export.model.decisions import boundary_rows
from lrdiff_export.model.domain import Domain
from lrdiff_export.model.float64 import evaluate, run_module
from lrdiff_export.model.operators import MEETS_NAN
from lrdiff_export.model.prepared import Prepared
from lrdiff_export.model.shadow import work_of
from lrdiff_export.onnx_file.constraints import BatchConstraints
from lrdiff_export.verify.effort import BATCH_SIZES, SCALES, Effort
from lrdiff_export.verify.expected import Expected, compare_outputs
from lrdiff_export.verify.reference import Reference
from lrdiff_export.verify.rows import (
    Rows,
    coded_rows,
    denormal_rows,
    drawn_rows,
    extreme_rows,
    filled_rows,
    integer_rows,
    resized_rows,
    round_rows,
    scaled_rows,
    some_rows,
    spoilt_rows,
    with_codes_of,
    with_integers_of,
    within_range_of,
)

__all__ = ["Battery", "Case"]

LARGEST_BATCH = 8192  # rows tried at once
_ATTENTION = frozenset({"_softmax", "_safe_softmax", "_scaled_dot_product_flash_attention_for_cpu"})
SAMPLE = 5e7  # operations that a sample counts as at least, because samples are run one after the other
UNDECIDED = 0.5  # of the elements of an output: with more, nothing is known of it


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows to run, with what is expected.

    Attributes:
        name: of the case.
        feeds: one array an input, ``[batch, ...]``.
        expected: one an output.
        alone: run each row by itself and put the answers together.
        limit: what the domain of a file that fails here is; None where it must not fail.
        overflows: whether float32 leaves its range.
    """

    name: str
    feeds: Rows
    expected: tuple[Expected, ...]
    alone: bool = False
    limit: Callable[[Domain], Domain] | None = None
    overflows: bool = False

    @property
    def batch(self) -> int:
        """Number of rows."""
        return len(self.feeds[0])

    @property
    def skipped(self) -> int:
        """Elements of outputs that are not compared."""
        return sum(int(one.skipped.sum()) for one in self.expected if one.skipped is not None)


class Battery:
    """All cases for one module and its held-out rows.

    Args:
        prepared: the module.
        rows: held-out rows, one array an input.
        batches: what the exported program says of the number of rows.
        domain: what is declared of inputs and outputs: no other rows are tried.

    Attributes:
        prepared: the module.
        declared: what is declared of inputs and outputs.
        domain: that, and what the program is made for.
        batches: as given.
        given: all held-out rows.
        rows: those that are tried: all of them, but of models whose rows cost much.
        effort: how many rows of each kind.
        reference: of ordinary rows; its budgets are those of the report.
        domain: what is known of it before a file is run.

    Raises:
        DataError: the module does not take the rows.
        InputError: its answers cannot be compared: not one a row, none finite, or most of them chance.

    Example:
        >>> from lrdiff_export.model.prepared import prepare
        >>> rows = (np.ones((3, 2), np.float32),)
        >>> battery = Battery(prepare(torch.nn.Linear(2, 1), torch.ones(3, 2)), rows)
        >>> [case.name for case in battery.cases][:3]
        ['held out', 'batch 1', 'batch 2']
    """

    def __init__(
        self,
        prepared: Prepared,
        rows: Rows,
        batches: BatchConstraints = BatchConstraints(),  # noqa: B008 - frozen
        domain: Domain = Domain(),  # noqa: B008 - frozen
    ) -> None:
        self.prepared = prepared
        self.batches = batches
        self.given = rows
        self.declared = domain
        said = {(name, axis) for name, axis, *_ in domain.sizes}
        named = [(prepared.input_names[index], axis, least, most) for index, axis, least, most in batches.sizes]
        sizes = (*domain.sizes, *(one for one in named if one[:2] not in said))
        self.domain = replace(domain, most_batch=batches.most, least_batch=int(prepared.batched), sizes=sizes)
        if prepared.batched:
            domain.check_numbers(dict(zip(prepared.input_names, rows, strict=True)))
        work = work_of(prepared.module, prepared.example)
        if not prepared.batched:
            work = replace(work, operations=max(work.operations, SAMPLE))
        self.effort = Effort.of(work)
        self.rows = rows if self.effort.whole else some_rows(rows, self.effort.rows("held out"))
        self._scaled: dict[float, Case | None] = {}
        self._floating = any(one.dtype.kind == "f" for one in rows)
        self._parts = {"held out": self.rows, **(self._made() if self._floating else {})}
        if (found := self._thresholds()) is not None:
            self._parts["thresholds"] = self._inside(found)
        try:
            self.reference = self._referred()
        except DataError:
            self._keep_to_range()
            self.reference = self._referred()
        self._check_answers()

    def _made(self) -> dict[str, Rows]:
        rows, number = self.rows, self.effort.rows
        zeros = tuple(np.zeros((1, *one.shape[1:]), one.dtype) for one in rows)
        made = {
            "normal": with_integers_of(rows, drawn_rows(rows, number("normal"))),
            "zeros": with_integers_of(rows, zeros),
            "extremes": with_integers_of(rows, extreme_rows(rows, number("extremes"))),
            "denormals": denormal_rows(some_rows(rows, number("denormals"))),
            "round numbers": round_rows(some_rows(rows, number("round numbers"))),
        }
        said = [self.domain.categories.get(name, {}) for name in self.prepared.input_names]
        codes = [dict(one) if isinstance(one, Mapping) else {} for one in said]
        if any(codes):
            made["categories"] = coded_rows(rows, codes, number("categories"))
        return {name: self._inside(feeds) for name, feeds in made.items() if name not in self.effort.left_out}

    def _inside(self, rows: Rows) -> Rows:
        """Rows moved into what is declared of the inputs."""
        return self.domain.fitted(self.prepared.input_names, rows)

    def _pool(self) -> Rows:
        return tuple(np.concatenate([part[i] for part in self._parts.values()]) for i in range(len(self.rows)))

    def _referred(self) -> Reference:
        return Reference(
            self.prepared,
            self._pool(),
            most_rows=self.batches.most,
            at_once=self.effort.at_once,
            draws=self.effort.draws,
            tolerances=self.domain.tolerances,
        )

    def _keep_to_range(self) -> None:
        """Let made rows be such as the module takes: with codes as they are given, or within the range of those given.

        What it takes no further is left out. Its file is proven within that range, and checks it.
        """
        found = {"held out": self.rows}
        for name, part in self._parts.items():
            coded = with_codes_of(self.rows, part)
            taken = next((one for one in (part, coded, within_range_of(self.rows, coded)) if self._takes(one)), None)
            if taken is not None:
                found.setdefault(name, taken)
        self._parts = found
        named = zip(self.prepared.input_names, self.rows, strict=True)
        ranges = {name: (float(one.min()), float(one.max())) for name, one in named if one.dtype.kind == "f"}
        self.domain = replace(self.domain, ranges={**ranges, **self.domain.ranges})

    def _takes(self, rows: Rows) -> bool:
        try:
            run_module(self.prepared.module, *map(torch.tensor, rows))
        except Exception:  # noqa: BLE001 - a module may raise whatever it likes
            return False
        return True

    def _thresholds(self) -> Rows | None:
        """Rows on both sides of each threshold between ordinary rows, their negatives and ones three times as large."""
        some = some_rows(self.rows, self.effort.rows("filled"))
        others = [self._inside(scaled_rows(some, scale)) for scale in (-1.0, 3.0)]
        for pool in ([self._pool(), *others], [self._pool()]):
            rows = tuple(np.concatenate(parts) for parts in zip(*pool, strict=True))
            finite = np.logical_and.reduce([_finite_rows(one) for one in rows])
            most = self.effort.rows("thresholds")
            with suppress(Exception):  # a module may refuse rows that lie between two that it takes
                return boundary_rows(self.prepared.module, tuple(one[finite] for one in rows), most=most)
        return None

    def _check_answers(self) -> None:
        rows = len(self.reference.rows[0])
        for expected in self.reference.expected:
            name, answer = expected.name, expected.answer
            if answer.shape[:1] != (rows,):
                raise InputError(
                    f"output {name!r} has shape {list(answer.shape)} for {rows} rows", help="give one answer per row"
                )
            if answer.size and answer.dtype.kind == "f" and not np.isfinite(answer).any():
                broken = [key for key, one in self.prepared.inner.state_dict().items() if not torch.isfinite(one).all()]
                raise InputError(
                    f"output {name!r} is not finite for any row: nothing can be compared",
                    help=f"look at {broken[0]}, which holds NaN or infinity" if broken else "give rows with answers",
                )
            if expected.skipped is not None and expected.skipped.mean() > UNDECIDED:
                raise InputError(
                    f"output {name!r} depends on rounding at {expected.skipped.mean():.0%} of its elements: nothing "
                    "can be proven of it",
                    help="leave orders of equal numbers (topk, sort) to the caller, or make them unequal",
                )

    def answers(self) -> list[np.ndarray]:
        """Return the answers to all held-out rows, one array an output: in float64, of a dear model in float32."""
        if self.effort.whole:
            return [one.answer for one in next(self.ordinary()).expected]
        step = min(4 * self.effort.at_once, self.batches.most or len(self.given[0]))
        parts = [
            evaluate(self.prepared.module, *(one[first : first + step] for one in self.given))
            for first in range(0, len(self.given[0]), step)
        ]
        return [np.concatenate(several) for several in zip(*parts, strict=True)]

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Every case that a file must pass; those that need a floating input only where there is one."""
        return tuple(self._cases())

    @cached_property
    def limits(self) -> tuple[Case, ...]:
        """The cases that show where a file's domain ends."""
        return tuple(self._limits())

    def ladder(self) -> Iterator[tuple[float, Case]]:
        """Yield rising input scales, each with its case, computed once."""
        if self._floating:
            for scale in self.effort.ladder:
                if (case := self._at_scale(scale)) is None:
                    return
                yield scale, case

    @property
    def not_tried(self) -> tuple[str, ...]:
        """What is not tried because it would cost too much, one line each."""
        return self.effort.sentences(["normal", "extremes", "round numbers"] if self._floating else [])

    def _batch_sizes(self) -> list[int]:
        """The usual ones, the largest that the program is made for, and those around each that it compares with."""
        if not self.prepared.batched:
            return [1, 2]  # samples know nothing of one another
        most = self.batches.most or max(BATCH_SIZES)
        near = [size + step for size in self.batches.compared for step in (-1, 0, 1)]
        sizes = {*self.effort.batches, *near, *([most] if self.batches.most else [])}
        limit = self.batches.most or LARGEST_BATCH
        return sorted(size for size in sizes if 1 <= size <= min(limit, LARGEST_BATCH))

    def _cases(self) -> Iterator[Case]:
        held_out, *others = self.ordinary()
        yield held_out
        yield from (self._of_rows(f"batch {size}", size) for size in self._batch_sizes())
        yield from self._alone()
        yield from others
        if self._floating:
            yield from (case for case in map(self._at_scale, SCALES) if case is not None)

    def ordinary(self) -> Iterator[Case]:
        """Yield the cases that share the battery's reference, each a part of its rows, held-out rows first."""
        first = 0
        for name, feeds in self._parts.items():
            yield self._case(name, feeds, np.arange(first, first + len(feeds[0])))
            first += len(feeds[0])

    def _in_its_own_batch(self, case: Case) -> Case:
        """Expect what the module answers to this batch, where that is another than to all rows together."""
        if self.batches.most is not None and case.batch > self.batches.most:
            return case  # it is run in pieces
        if all(one.agrees for one in compare_outputs(evaluate(self.prepared.module, *case.feeds), case.expected)):
            return case
        return replace(case, expected=tuple(self.reference.on(case.feeds).expected))

    def _at_scale(self, scale: float) -> Case | None:
        """Return a case of held-out rows times ``scale``, with a reference of its own, computed once.

        None where the module refuses them. Where float32 leaves its range, nothing is asked for.
        """
        if scale in self._scaled:
            return self._scaled[scale]
        some = some_rows(self.rows, self.effort.rows("scaled" if scale in SCALES else "filled"))
        larger = self._inside(scaled_rows(some, scale))
        reference = self._on(larger) or self._on(with_codes_of(some, larger))
        if reference is None:
            self._scaled[scale] = None
            return None
        expected = [
            replace(one, skipped=_either(one.skipped, beyond))
            for one, beyond in zip(reference.expected, reference.beyond, strict=True)
        ]
        overflows = any(beyond.any() for beyond in reference.beyond)
        name = f"{scale:,.0f} times".replace(",", " ") if scale in SCALES else f"{scale:g} times"
        case = Case(name=name, feeds=reference.rows, expected=tuple(expected), overflows=overflows)
        self._scaled[scale] = case
        return case

    def _on(self, rows: Rows) -> Reference | None:
        """The reference of other rows; None if the module refuses them."""
        with suppress(DataError):
            return self.reference.on(rows)
        return None

    def _limits(self) -> Iterator[Case]:
        yield from self._sizes()
        if self._floating:
            kinds: dict[str, Sequence[float]] = {"NaN": (np.nan,), "infinity": (np.inf,), "minus infinity": (-np.inf,)}
            if self.effort.rows("spoilt") == 1:
                kinds = {"NaN or infinity": (np.nan, np.inf, -np.inf)}
            for name, values in kinds.items():
                yield from self._spoilt(name, values)
        for index, value, feeds in filled_rows(
            some_rows(self.rows, self.effort.rows("filled")), ends=self.effort.fills
        ):
            name = f"{self.prepared.input_names[index]} all {value}"
            feeds = self._inside(feeds)
            try:
                reference = self.reference.on(feeds)
            except LrdiffError:  # a module may refuse such rows
                continue
            hides = bool(self.reference.operators & _ATTENTION)
            limit = partial(_without, words=f"{name}: there attention has nothing to look at") if hides else None
            yield Case(name=name, feeds=feeds, expected=tuple(reference.expected), limit=limit)
        for index, one in enumerate(self.rows):
            name = self.prepared.input_names[index]
            if one.dtype.kind in "iu" and name not in self.domain.ranges and name not in self.domain.categories:
                yield from self._integers(index)

    def _integers(self, index: int) -> Iterator[Case]:
        """Integers of every size, as far as the module takes them."""
        seen, name = self.rows[index], self.prepared.input_names[index]
        proven = int(seen.min()), int(seen.max())
        for size in self.effort.integers(seen):
            feeds = integer_rows(some_rows(self.rows, self.effort.rows("filled")), index, size)
            try:
                reference = self.reference.on(feeds)
            except LrdiffError:  # beyond its table
                return
            limit = partial(_within, name=name, low=proven[0], high=proven[1])
            yield Case(name=f"{name} up to {size}", feeds=feeds, expected=tuple(reference.expected), limit=limit)
            proven = min(proven[0], int(feeds[index].min())), max(proven[1], int(feeds[index].max()))

    def _sizes(self) -> Iterator[Case]:
        """Every free dimension besides the batch at several sizes, as far as the module takes them.

        Next to the size of the rows given a file must not fail.
        """
        places: dict[str, list[tuple[int, int]]] = {}
        for index, name in enumerate(self.prepared.input_names):
            for axis, label in self.prepared.dynamic_axes.get(name, {}).items():
                places.setdefault(label, []).append((index, axis + int(not self.prepared.batched)))
        few = some_rows(self.rows, self.effort.rows("alone"))
        for label, axes in places.items():
            own = few[axes[0][0]].shape[axes[0][1]]
            apart = int(not self.prepared.batched)  # the file's own axes
            ports = [(self.prepared.input_names[index], axis - apart) for index, axis in axes]
            declared = _limits_of(ports, self.declared)
            least, most = _limits_of(ports, self.domain) or (1, None)
            most = 2 * own + 1 if most is None else most
            sizes = {1, 2, 3, 7, own // 2, own - 1, own + 1, 2 * own, 2 * own + 1, least, most} - {0, own}
            tried = sorted(size for size in sizes if least <= size <= most)
            refused = 0
            for size in tried:
                feeds = resized_rows(few, axes, size)
                reference = self._on(feeds) or self._on(tuple(_below(one, size) for one in feeds))
                if reference is None:
                    refused += 1
                    continue
                limit = None if declared or abs(size - own) == 1 else partial(_sized, ports=ports, size=size, own=own)
                expected = tuple(reference.expected)
                yield Case(name=f"{label} {size}", feeds=reference.rows, expected=expected, limit=limit)
            if tried and refused == len(tried):
                raise InputError(
                    f"{self.prepared.name} takes no size of {label!r} but {own}, which dynamic_axes leaves free",
                    help="leave it out, or give rows of a size from which others follow",
                )

    def _spoilt(self, name: str, values: Sequence[float]) -> Iterator[Case]:
        """Rows with a NaN or an infinity among whole ones.

        The whole ones keep their answers. A number in answer to a spoilt one is meant where the module asks for NaN.
        """
        feeds, marked = spoilt_rows(self.rows, values, self.effort.rows("spoilt"))
        feeds = self._inside(feeds)
        try:
            reference = self.reference.on(feeds)
        except LrdiffError:  # it refuses such rows itself
            return
        handles = bool(reference.operators & MEETS_NAN)
        strict, rest = [], []
        for one in reference.expected:
            spoilt = np.broadcast_to(marked.reshape(-1, *[1] * (one.answer.ndim - 1)), one.answer.shape)
            finite = np.isfinite(one.answer) if one.answer.dtype.kind == "f" else np.ones(one.answer.shape, bool)
            meant = finite & (handles | ~spoilt)
            strict.append(replace(one, skipped=_either(one.skipped, ~meant)))
            rest.append(replace(one, skipped=_either(one.skipped, meant)))
        yield Case(name=f"one {name}", feeds=feeds, expected=tuple(strict))
        yield Case(name=f"{name} passed on", feeds=feeds, expected=tuple(rest), limit=_only_finite)

    def _case(self, name: str, feeds: Rows, places: np.ndarray) -> Case:
        expected = tuple(one.take(places) for one in self.reference.expected)
        return self._in_its_own_batch(Case(name=name, feeds=feeds, expected=expected))

    def _of_rows(self, name: str, size: int) -> Case:
        places = (np.arange(size) + size) % len(self.rows[0])  # not the same rows in every batch
        return self._case(name, tuple(one[places] for one in self.rows), places)

    def _alone(self) -> list[Case]:
        """Rows one by one, whose answers are put together where the module does not look at its whole batch."""
        rows = range(min(self.effort.rows("alone"), len(self.rows[0])))
        cases = [self._case("rows alone", some_rows(self._after(row), 1), np.array([row])) for row in rows]
        pooled = [[one.take(np.array([row])) for one in self.reference.expected] for row in rows]
        if any(
            one.answer is not other.answer and not _equal(one.answer, other.answer)
            for case, several in zip(cases, pooled, strict=True)
            for one, other in zip(case.expected, several, strict=True)
        ):
            return cases
        together = self._case("rows alone", some_rows(self.rows, len(cases)), np.arange(len(cases)))
        return [replace(together, alone=True)]

    def _after(self, row: int) -> Rows:
        return tuple(one[row:] for one in self.rows)


def _only_finite(domain: Domain) -> Domain:
    return replace(domain, finite=True)


def _without(domain: Domain, words: str) -> Domain:
    return domain if words in domain.outside else replace(domain, outside=(*domain.outside, words))


def _within(domain: Domain, name: str, low: int, high: int) -> Domain:
    return domain if name in domain.ranges else replace(domain, ranges={**domain.ranges, name: (low, high)})


def _sized(domain: Domain, ports: list[tuple[str, int]], size: int, own: int) -> Domain:
    """Keep a free dimension on the side of a size where the rows given are."""
    kept = {(name, axis): (least, most) for name, axis, least, most in domain.sizes}
    for port in ports:
        least, most = kept.get(port, (1, None))
        kept[port] = (max(least, size + 1), most) if size < own else (least, min(most or size, size - 1))
    return replace(domain, sizes=tuple((*port, *limits) for port, limits in kept.items()))


def _limits_of(ports: Sequence[tuple[str, int]], domain: Domain) -> tuple[int, int | None] | None:
    """Smallest and largest size of axes that have one size together; None where nothing is said of it."""
    found = [(least, most) for name, axis, least, most in domain.sizes if (name, axis) in ports]
    most = [most for _, most in found if most is not None]
    return (max(least for least, _ in found), min(most, default=None)) if found else None


def _below(rows: np.ndarray, size: int) -> np.ndarray:
    """Integers that may be indices along a dimension of this size."""
    return rows % size if rows.dtype.kind in "iu" else rows


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _either(mask: np.ndarray | None, other: np.ndarray) -> np.ndarray | None:
    found = other if mask is None else mask | other
    return found if found.any() else None


def _finite_rows(values: np.ndarray) -> np.ndarray:
    """[batch, ...] -> [batch]."""
    if values.dtype.kind != "f":
        return np.ones(len(values), bool)
    return np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))
