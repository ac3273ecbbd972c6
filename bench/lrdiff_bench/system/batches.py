"""What a model of one's own learns from, whatever it comes in: tensors, a ``Dataset`` or a ``DataLoader``, as batches.

A batch is whatever a loader gives: ``(inputs, targets)``, ``(input1, input2, targets)``, a mapping of forward's
arguments with one of :data:`TARGET_KEYS`, or inputs alone, which are then their own targets (an autoencoder).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Subset

from lrdiff_bench.system.user_code import their_fault
from lrdiff_core.errors import InputError
from lrdiff_core.machine.memory import is_out_of_memory

__all__ = ["TARGET_KEYS", "Batch", "BlocksPart", "Part", "TensorPart", "as_batch", "as_part", "stacked"]

TARGET_KEYS = ("targets", "target", "labels", "label", "y")
BATCH_SIZE = 32  # of a Dataset, where nobody says another
HOW = "let a batch be (inputs, targets), or a dict of forward's arguments and 'targets'"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch: inputs by position or by the name of forward's argument, and what they are to be answered with."""

    inputs: tuple[Tensor, ...] | dict[str, Tensor]
    targets: Any

    @property
    def rows(self) -> int:
        """How many, by the first input."""
        return len(self.tensors()[0])

    def tensors(self) -> tuple[Tensor, ...]:
        """The inputs in order."""
        return tuple(self.inputs.values()) if isinstance(self.inputs, dict) else self.inputs

    def rows_from(self, begin: int, end: int) -> Batch:
        """Some of the rows, by number."""
        index = torch.arange(begin, min(end, self.rows))
        inputs: Any = _picked(self.inputs, index)
        return Batch(inputs=inputs, targets=_picked(self.targets, index))

    def example(self) -> Any:
        """The inputs as a factory's example has them: a tensor, a tuple or a mapping."""
        return self.inputs if isinstance(self.inputs, dict) or len(self.inputs) > 1 else self.inputs[0]

    def answer(self, module: nn.Module) -> Any:
        """What the module gives for the inputs."""
        return module(**self.inputs) if isinstance(self.inputs, dict) else module(*self.inputs)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        moved: Any = _moved(self.inputs, device)
        return Batch(inputs=moved, targets=_moved(self.targets, device))


def as_batch(given: Any, source: str) -> Batch:
    """Read what a loader gave.

    Args:
        given: see the top of this module.
        source: whose, for errors.

    Raises:
        InputError: it is none of these.

    Example:
        >>> one = as_batch((torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2)), "mine")
        >>> len(one.tensors()), one.rows
        (2, 2)
    """
    if isinstance(given, Tensor | np.ndarray):
        given = (given,)
    if isinstance(given, Mapping):
        keys = [key for key in given if key in TARGET_KEYS]
        inputs: Any = {str(key): value for key, value in given.items() if key not in keys}
        if len(keys) != 1 or not inputs:
            raise InputError(f"a batch of {source} has the keys {', '.join(map(str, given))}", help=HOW)
        targets = given[keys[0]]
    elif isinstance(given, Sequence) and not isinstance(given, str) and given:
        *first, targets = given if len(given) > 1 else (given[0], given[0])
        inputs = first[0] if len(first) == 1 and isinstance(first[0], Mapping | tuple | list) else tuple(first)
        inputs = {str(key): value for key, value in inputs.items()} if isinstance(inputs, Mapping) else tuple(inputs)
        if len(given) == 1:
            targets = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else targets
    else:
        raise InputError(f"a batch of {source} is a {type(given).__name__}", help=HOW)
    values = inputs.values() if isinstance(inputs, dict) else inputs
    odd = next((type(one).__name__ for one in values if not isinstance(one, Tensor | np.ndarray)), None)
    if odd is not None or not values:
        raise InputError(f"a batch of {source} has {odd or 'nothing'} as an input, not a tensor", help=HOW)
    if any(one.ndim == 0 for one in values):
        raise InputError(f"a batch of {source} has an input without rows", help="let a batch be [rows, ...] an input")
    return Batch(inputs=_as_tensors(inputs), targets=_as_tensors(targets))


class Part(ABC):
    """The rows of one split, to be gone through in batches.

    Attributes:
        kind: what the user gave, for the screen.
        rows: how many; None where a stream does not say.
        batch_size: of what the user gave; None where it has none.
        can_be_cut: whether rows can be picked by their number.
    """

    kind: str
    rows: int | None
    batch_size: int | None = None
    can_be_cut: bool = True

    @abstractmethod
    def batches(self, size: int, order: torch.Generator | None = None) -> Iterator[Batch]:
        """Go through the rows once; in a random order where a generator is given."""

    def subset(self, index: Tensor) -> Part:
        """Some of the rows.

        Raises:
            InputError: the rows cannot be picked.
        """
        raise InputError(
            f"rows of {self.kind} cannot be split", help="give the factory's 'validation' and 'test' beside 'train'"
        )


@dataclass(frozen=True, kw_only=True)
class TensorPart(Part):
    """Rows that lie in memory as tensors."""

    inputs: tuple[Tensor, ...] | dict[str, Tensor]
    targets: Any
    kind: str = "tensors"
    batch_size: int | None = None

    @property
    def rows(self) -> int:  # type: ignore[override]
        """How many."""
        return Batch(inputs=self.inputs, targets=self.targets).rows

    def batches(self, size: int, order: torch.Generator | None = None) -> Iterator[Batch]:
        """See :class:`Part`."""
        index = torch.arange(self.rows) if order is None else torch.randperm(self.rows, generator=order)
        for chosen in index.split(size):
            inputs: Any = _picked(self.inputs, chosen)
            yield Batch(inputs=inputs, targets=_picked(self.targets, chosen))

    def subset(self, index: Tensor) -> Part:
        """See :class:`Part`."""
        inputs: Any = _picked(self.inputs, index)
        return replace(self, inputs=inputs, targets=_picked(self.targets, index))


@dataclass(frozen=True, kw_only=True)
class BlocksPart(Part):
    """Rows of a file that is streamed in training; what wants rows at hand gets those of a sample.

    Attributes:
        sample: some of the rows.
        blocks: all of them, anew at every call: inputs and targets of many rows at a time.
        rows: how many.
    """

    sample: TensorPart
    blocks: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    rows: int
    kind: str = "a streamed file"
    can_be_cut: bool = False

    def batches(self, size: int, order: torch.Generator | None = None) -> Iterator[Batch]:
        """See :class:`Part`; without an order, the sample."""
        if order is None:
            yield from self.sample.batches(size)
            return
        for inputs, targets in self.blocks():
            for chosen in torch.randperm(len(inputs), generator=order).split(size):
                yield Batch(inputs=(inputs[chosen],), targets=targets[chosen])


@dataclass(frozen=True, kw_only=True)
class _DatasetPart(Part):
    dataset: Any
    source: str
    kind: str
    batch_size: int | None = None
    loader: Any = None  # whose way of making batches is kept
    shuffled: bool = True

    @property
    def rows(self) -> int:  # type: ignore[override]
        return len(self.dataset)

    def batches(self, size: int, order: torch.Generator | None = None) -> Iterator[Batch]:
        more: dict[str, Any] = {}
        if self.loader is not None:
            more = {"collate_fn": self.loader.collate_fn, "num_workers": self.loader.num_workers}
        shuffled = order is not None and self.shuffled
        # The generator seeds workers, too: without one they would draw from torch's global stream.
        generator = torch.Generator().manual_seed(0) if order is None else order
        made: Any = DataLoader(self.dataset, batch_size=size, shuffle=shuffled, generator=generator, **more)
        yield from _read(made, self.source)

    def subset(self, index: Tensor) -> Part:
        return replace(self, dataset=Subset(self.dataset, index.tolist()))


@dataclass(frozen=True, kw_only=True)
class _LoaderPart(Part):
    """A loader that is gone through as it is: over a stream, or with batches that it puts together itself."""

    loader: Any
    source: str
    kind: str = "a DataLoader"
    batch_size: int | None = None
    can_be_cut: bool = False

    @property
    def rows(self) -> int | None:  # type: ignore[override]
        try:
            return len(self.loader.dataset)
        except TypeError:
            return None

    def batches(self, size: int, order: torch.Generator | None = None) -> Iterator[Batch]:
        yield from _read(self.loader, self.source)


def as_part(given: Any, source: str) -> Part:
    """Rows in whatever a factory gives them in.

    Args:
        given: a ``Dataset``, a ``DataLoader``, or anything with rows by number.
        source: whose, for errors.

    Raises:
        InputError: it is none of these, or has no rows.
    """
    if isinstance(given, DataLoader):
        size = given.batch_size
        plain = size is not None and not isinstance(given.dataset, IterableDataset)
        part: Part = (
            _DatasetPart(
                dataset=given.dataset, source=source, kind=f"a DataLoader over {type(given.dataset).__name__}",
                batch_size=size, loader=given, shuffled=isinstance(given.sampler, RandomSampler),
            )
            if plain
            else _LoaderPart(loader=given, source=source)
        )  # fmt: skip
    elif isinstance(given, IterableDataset):
        part = _LoaderPart(loader=DataLoader(given, batch_size=BATCH_SIZE), source=source, kind=type(given).__name__)
    elif isinstance(given, Dataset) or (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        part = _DatasetPart(dataset=given, source=source, kind=type(given).__name__)
    else:
        raise InputError(
            f"{source} gives rows in a {type(given).__name__}", help="give a torch Dataset, a DataLoader or tensors"
        )
    if part.rows == 0:
        raise InputError(f"{source} gives no rows", help="give at least one")
    return part


def stacked(part: Part, most: int) -> Batch:
    """The first rows of a part as one batch; the first batch alone where batches differ in their shapes.

    Args:
        part: whose.
        most: rows.
    """
    taken: list[Batch] = []
    for batch in part.batches(part.batch_size or BATCH_SIZE):
        taken.append(batch)
        if sum(one.rows for one in taken) >= most:
            break
    alike = len({tuple(tuple(t.shape[1:]) for t in one.tensors()) for one in taken}) == 1
    used = taken if alike and all(isinstance(one.targets, Tensor) for one in taken) else taken[:1]
    if len(used) == 1:
        return _first(used[0], most)
    inputs: Any = (
        {name: torch.cat([one.inputs[name] for one in used])[:most] for name in used[0].inputs}  # type: ignore[call-overload]
        if isinstance(used[0].inputs, dict)
        else tuple(torch.cat(same)[:most] for same in zip(*(one.tensors() for one in used), strict=True))
    )
    try:
        targets = torch.cat([one.targets for one in used])[:most]
    except (RuntimeError, TypeError):
        return _first(used[0], most)
    return Batch(inputs=inputs, targets=targets)


def _first(batch: Batch, most: int) -> Batch:
    index = torch.arange(min(most, batch.rows))
    if len(index) == batch.rows:
        return batch
    inputs: Any = _picked(batch.inputs, index)
    return Batch(inputs=inputs, targets=_picked(batch.targets, index))


def _read(loader: Iterable[Any], source: str) -> Iterator[Batch]:
    given = iter(loader)
    while True:
        try:
            one = next(given)
        except StopIteration:
            return
        except InputError:
            raise
        except Exception as problem:  # whatever the user's dataset raises
            if is_out_of_memory(problem):
                raise
            raise their_fault(f"the rows of {source}", problem) from problem
        yield as_batch(one, source)


def _picked(values: Any, index: Tensor) -> Any:
    if isinstance(values, Tensor):
        return values[index.to(values.device)]
    if isinstance(values, dict):
        return {name: _picked(one, index) for name, one in values.items()}
    return type(values)(_picked(one, index) for one in values) if isinstance(values, tuple | list) else values


def _moved(values: Any, device: torch.device) -> Any:
    if isinstance(values, Tensor):
        return values.to(device)
    if isinstance(values, dict):
        return {name: _moved(one, device) for name, one in values.items()}
    return type(values)(_moved(one, device) for one in values) if isinstance(values, tuple | list) else values


def _as_tensors(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values)
    if isinstance(values, Mapping):
        return {str(name): _as_tensors(one) for name, one in values.items()}
    return tuple(map(_as_tensors, values)) if isinstance(values, tuple | list) else values
