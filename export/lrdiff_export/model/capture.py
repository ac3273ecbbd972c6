"""CUDA graphs: a call warmed up on a stream of its own, as capturing demands, captured, and ready to be replayed.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["WARM_UP", "capture"]

WARM_UP = 3  # calls before a capture, as torch's notes on CUDA graphs have it
_Result = TypeVar("_Result")


def capture(call: Callable[[], _Result], *, warmed: Callable[[], object] | None = None) -> tuple[Any, _Result]:
    """Return the graph of a call, and what it gave: a replay writes new results into these same tensors.

    Args:
        call: reads tensors that stay where they are.
        warmed: called between warming up and the capture.

    Example:
        >>> if torch.cuda.is_available():
        ...     rows = torch.ones(2, device="cuda")
        ...     graph, doubled = capture(lambda: 2 * rows)
        ...     _ = rows.fill_(3.0)
        ...     graph.replay()
        ...     assert doubled.tolist() == [6.0, 6.0]
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    if warmed is not None:
        warmed()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result
