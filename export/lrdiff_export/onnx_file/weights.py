"""Whether the weights in a file are those of its module, number by number: inputs show only weights that they meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from torch import nn

__all__ = ["changed_weights"]

_ROUNDINGS = 4  # of float32: a norm that is folded into the layer before it scales each of its channels once


def changed_weights(model: onnx.ModelProto, module: nn.Module, renamed: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with each weight that has its parameter's name and other numbers, one line each.

    A channel may be scaled as a whole, as by a batch norm that the exporter folds into a convolution. Vectors are left
    to verification, because folding makes others of them, and so are weights under other names.

    Args:
        model: the file.
        module: that it was made of.
        renamed: values that gave their name to an input or output: name in the file by name in torch's graph.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> values = layer.weight.detach().numpy().copy()
        >>> def file(values): return onnx.ModelProto(graph=onnx.GraphProto(
        ...     initializer=[numpy_helper.from_array(values, "weight")]))
        >>> list(changed_weights(file(values), layer, {})), list(changed_weights(file(2 * values), layer, {}))
        ([], [])
        >>> values[1, 0] *= np.float32(1.001)
        >>> list(changed_weights(file(values), layer, {}))
        ["weight 'weight' is not the module's"]
    """
    own = {renamed.get(name, name): one for name, one in module.named_parameters(remove_duplicate=False)}
    for tensor in model.graph.initializer:
        right = own.get(tensor.name)
        if right is None or right.ndim < 2 or tensor.data_location == TensorProto.EXTERNAL:
            continue
        found, values = numpy_helper.to_array(tensor), right.detach().cpu().numpy()
        if found.shape != values.shape or found.dtype != values.dtype or found.tobytes() == values.tobytes():
            continue
        wrong = _unscaled(found, values, 0)
        if wrong.any() and _unscaled(found, values, 1).any():  # a transposed convolution has its channels second
            yield f"weight {tensor.name!r} is not the module's"


def _unscaled(found: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    """Mask of the numbers that are not those of the module times one factor for each channel."""
    wide, right = (np.moveaxis(one, axis, 0).astype(np.float64) for one in (found, values))
    rows, flat = wide.reshape(len(wide), -1), right.reshape(len(right), -1)
    largest = np.abs(flat).argmax(axis=1)[:, None]
    divisor = np.take_along_axis(flat, largest, axis=1)
    factors = np.take_along_axis(rows, largest, axis=1) / np.where(divisor == 0, 1.0, divisor)
    wrong = np.abs(rows - factors * flat) > _ROUNDINGS * np.finfo(found.dtype).eps * np.abs(rows)
    return np.moveaxis(wrong.reshape(wide.shape), 0, axis)
