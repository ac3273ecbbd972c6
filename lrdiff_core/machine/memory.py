"""Running out of memory: how it is told from other errors, and doing the same work in smaller parts."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lrdiff_core.errors import ConfigError, MemoryWarning, warn

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = ["Halving", "is_out_of_memory", "rows_in_parts", "with_room"]

T = TypeVar("T")
_CHECK = re.compile(r"^\[enforce fail at [^]]*\][^.]*\.\s*")  # which of torch's checks it was
# Of torch's allocators (CPU, CUDA, MPS), of NVIDIA's libraries and of C++.
_SAID = ("can't allocate memory", "out of memory", "_ALLOC_FAILED", "std::bad_alloc")


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory could not be had: Python's, NumPy's or torch's on any device.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    if isinstance(problem, RuntimeError):
        return any(words in str(problem) for words in _SAID)
    return isinstance(problem, MemoryError)


class Halving:
    """Does work on many things at once, and on half as many where memory runs out.

    What did not fit is not tried again, and one line says how many are done at once from then on, or fewer.

    Args:
        what: they are, for that line, such as ``"members"``.
        help: what else can be done, for that line and for the error.

    Example:
        >>> def work(begin, end):
        ...     return end - begin
        >>> [done for *_, done in Halving("rows", help="take fewer").parts(10, work)]
        [10]
    """

    def __init__(self, what: str, *, help: str) -> None:
        self.what, self.help = what, help
        self.most: int | None = None  # that fitted; None: nothing has failed
        self._failed: int | None = None
        self._told = False

    def parts(self, count: int, work: Callable[[int, int], T]) -> Iterator[tuple[int, int, T]]:
        """Yield begin, end and the result of ``work(begin, end)`` for parts that make up ``range(count)``, in order.

        Args:
            count: how many there are to do.
            work: on some of them; what it did before memory ran out is done again.

        Raises:
            ConfigError: there is not even room for one.
        """
        begin = 0
        while begin < count:
            size = min(count - begin, self.most or count)
            done, result, said = _tried(partial(work, begin, begin + size))
            if done:
                self._tell()
                yield begin, begin + size, result
                begin += size
                continue
            if size == 1:
                raise ConfigError(f"there is not enough memory for one of the {self.what}: {said}", help=self.help)
            self._failed, self.most = self._failed or size, size // 2

    def _tell(self) -> None:
        if self._failed is not None and not self._told:
            self._told = True
            message = f"there is not enough memory for {self._failed} {self.what} at once: {self.most} are done at once"
            warn(message, MemoryWarning, help=self.help)


def rows_in_parts(work: Callable[[Tensor], Tensor], rows: Tensor, *, help: str) -> Tensor:
    """What ``work`` makes of each row, in halves where there is no room for all at once.

    Args:
        work: [rows, ...] to [rows, ...], each row by itself.
        rows: [rows, ...].
        help: as for :class:`Halving`.

    Raises:
        ConfigError: there is not even room for one row.
    """
    import torch

    found = [made for *_, made in Halving("rows", help=help).parts(len(rows), lambda a, b: work(rows[a:b]))]
    return found[0] if len(found) == 1 else torch.cat(found) if found else work(rows)


def with_room(steps: Callable[[], None], *, optimizer: Optimizer, rows: int, loss_of: Callable[[int], Tensor]) -> None:
    """Take training steps; where there is no memory for them, say the batch size for which there is: it is tried out.

    Args:
        steps: takes them.
        optimizer: that they use.
        rows: of a step.
        loss_of: the loss of so many rows, as a step takes it.

    Raises:
        ConfigError: memory ran out.
    """
    done, _, said = _tried(steps)
    if done:
        return

    def trial(count: int) -> None:
        optimizer.zero_grad()
        params = [param for group in optimizer.param_groups for param in group["params"] if param.requires_grad]
        # What Adam keeps of each, for which there must be room beside a step.
        kept = [] if optimizer.state else [param.detach().new_empty(param.shape) for param in params for _ in range(2)]
        loss_of(count).backward()
        del kept

    size = rows // 2
    while size and not _tried(partial(trial, size))[0]:
        size //= 2
    optimizer.zero_grad()
    if not size:
        raise ConfigError(
            f"there is not enough memory for a step, not even of one row: {said}",
            help="use smaller layers, or another device",
        )
    raise ConfigError(
        f"there is not enough memory for a step of {rows} rows: {said}",
        help=f"write batch_size = {size}: a step of {size} rows fits here",
    )


def _tried(work: Callable[[], Any]) -> tuple[bool, Any, str]:
    """Whether there was memory for it, the result, and what the allocator said.

    The exception is let go before this returns: its frames hold the tensors that took the memory.
    """
    try:
        return True, work(), ""
    except (MemoryError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise
        said = _first_words(problem)
    _free()
    return False, None, said


def _first_words(problem: BaseException) -> str:
    """What an allocator said, in one line without its source file."""
    text = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
    return _CHECK.sub("", text)[:160]


def _free() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch is not None and torch.backends.mps.is_available():
        torch.mps.empty_cache()
