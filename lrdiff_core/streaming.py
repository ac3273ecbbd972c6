"""Training from a file that is read piece by piece: standardisation in one pass, then blocks of shuffled rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lrdiff_core.data.table import RowStream
from lrdiff_core.errors import DataError
from lrdiff_core.machine.memory import rows_in_parts
from lrdiff_core.model import TabularNet

__all__ = ["Moments", "fit_stream", "target_tensor", "training_blocks"]


class Moments:
    """Mean and variance of columns from batches, in float64, without a second look at any row.

    Chan, Golub and LeVeque's update: exact to rounding however far a column's mean is from zero, which a sum of
    squares is not.

    Source: Chan, Golub and LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances,
    Stanford STAN-CS-79-773, equation 2.1.

    Example:
        >>> moments = Moments(1)
        >>> for batch in ([[1.0], [2.0]], [[6.0]]):
        ...     moments.add(np.array(batch))
        >>> moments.rows, moments.mean.tolist(), moments.variance.round(6).tolist()
        (3, [3.0], [4.666667])
    """

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self.mean = np.zeros(columns)
        self._squares = np.zeros(columns)  # sum of squared distances from the mean

    def add(self, batch: np.ndarray) -> None:
        """Take in rows, float64 [rows, columns]."""
        rows = len(batch)
        if rows == 0:
            return
        mean = batch.mean(axis=0)
        distance = mean - self.mean
        total = self.rows + rows
        self._squares += ((batch - mean) ** 2).sum(axis=0) + distance**2 * (self.rows * rows / total)
        self.mean = self.mean + distance * (rows / total)
        self.rows = total

    @property
    def variance(self) -> np.ndarray:
        """Of the rows taken in, divided by their number, float64 [columns]."""
        found: np.ndarray = self._squares / max(1, self.rows)
        return found


def fit_stream(net: TabularNet, stream: RowStream, edges: Sequence[float]) -> int:
    """Fit the standardisation, and the target's scale, on all training rows of a stream in one pass.

    Args:
        net: fitted on the stream's sample already, whose medians fill what is missing; changed in place.
        stream: the rows.
        edges: rows whose draw is below the first are trained on.

    Returns:
        How many rows are trained on.

    Raises:
        DataError: a row cannot be read, or none is left.
    """
    moments, amounts = Moments(net.spec.sizes[0]), Moments(1)
    with torch.no_grad():
        for features, targets, drawn in stream.batches():
            training = drawn < edges[0]
            rows = torch.from_numpy(features[training])
            encoded = net.standardize.filled(rows if net.encode is None else net.encode(rows))
            moments.add(encoded.double().numpy())
            if net.spec.task == "regression":
                amounts.add(targets[training].astype(np.float64)[:, None])
    if not moments.rows:
        raise DataError("no row of the file has a target", help="name another target")
    net.standardize.set_statistics(moments.mean, np.sqrt(moments.variance))
    if net.spec.task == "regression":
        net.target_mean.fill_(amounts.mean[0])
        net.target_std.fill_(float(np.sqrt(amounts.variance[0])) or 1.0)
    return moments.rows


def training_blocks(
    net: TabularNet, stream: RowStream, edges: Sequence[float], *, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield standardized training rows and their targets; all blocks but the last hold whole batches.

    Args:
        net: with its standardisation fitted, on ``device``.
        stream: the rows.
        edges: rows whose draw is below the first are trained on.
        batch_size: rows a step.
        device: where training happens.
    """
    left: tuple[Tensor, Tensor] | None = None
    for features, targets, drawn in stream.batches():
        training = drawn < edges[0]
        with torch.no_grad():
            rows = torch.from_numpy(features[training]).to(device)
            inputs = rows_in_parts(net.preprocess, rows, help="free memory; results are the same")
            wanted = target_tensor(net, targets[training]).to(device)
        if left is not None:
            inputs, wanted = torch.cat([left[0], inputs]), torch.cat([left[1], wanted])
        whole = len(inputs) - len(inputs) % batch_size
        if whole:
            yield inputs[:whole], wanted[:whole]
        left = (inputs[whole:], wanted[whole:])
    if left is not None and len(left[0]):
        yield left


def target_tensor(net: TabularNet, targets: np.ndarray) -> Tensor:
    """Targets as the loss wants them: [rows, 1] float or [rows] int64.

    Args:
        net: its task, and its scale of the target.
        targets: int64 indices or float32, [rows].
    """
    target = torch.from_numpy(targets)
    if net.spec.task == "binary":
        return target.to(torch.float32)[:, None]
    if net.spec.task == "regression":
        mean, std = net.target_mean.to(target.device), net.target_std.to(target.device)
        return (target.to(torch.float32)[:, None] - mean) / std
    return target
