"""Whether the weights in a file are those of its module, number by number: inputs show only weights that they meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

__all__ = ["changed_weights"]

_MOSTLY = 0.5  # share of a weight's numbers that tells whose numbers they are
_ROUNDINGS = 4  # of float32: a norm that is folded into the layer before it scales each of its channels once


def changed_weights(
    model: onnx.ModelProto,
    module: nn.Module,
    renamed: Mapping[str, str],
    program: torch.export.ExportedProgram | None = None,
) -> Iterator[str]:
    """Yield what is wrong with each weight that has its parameter's name and other numbers, one line each.

    A channel may be scaled as a whole, as by a batch norm that the exporter folds into a convolution. Vectors are left
    to verification, because folding makes others of them. Under another name, a weight of a linear layer is looked for
    by its numbers, transposed; others are left to verification.

    Args:
        model: the file.
        module: that it was made of.
        renamed: values that gave their name to an input or output: name in the file by name in torch's graph.
        program: torch's own graph of the module; without it, names alone are looked for.

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
    if program is not None:
        yield from _changed_transposed(model, program, own)


def _changed_transposed(
    model: onnx.ModelProto, program: torch.export.ExportedProgram, own: Mapping[str, nn.Parameter]
) -> Iterator[str]:
    """Yield a line for each weight of a linear layer that is in the file but for some of its numbers."""
    others: dict[tuple[int, ...], list[np.ndarray]] = {}
    for tensor in model.graph.initializer:
        if tensor.name not in own and len(tensor.dims) == 2 and tensor.data_location != TensorProto.EXTERNAL:
            others.setdefault(tuple(tensor.dims), []).append(numpy_helper.to_array(tensor))
    names, present = program.graph_signature.inputs_to_parameters, {one.name for one in model.graph.initializer}
    linear = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
    for name in dict.fromkeys(names.get(getattr(node.args[1], "name", "")) for node in linear):
        if name is None or name in present or name not in own:
            continue
        right = own[name].detach().cpu().numpy().T
        telling = (right != 0) & ~np.isnan(right)  # zeros stand in many a weight
        alike = [found for found in others.get(right.shape, ()) if found.dtype == right.dtype]
        shares = [np.mean(found[telling] == right[telling]) for found in alike if telling.any()]
        if shares and _MOSTLY < max(shares) < 1:
            yield f"weight {name!r} is not the module's"


def _unscaled(found: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    """Mask of the numbers that are not those of the module times one factor for each channel."""
    wide, right = (np.moveaxis(one, axis, 0).astype(np.float64) for one in (found, values))
    rows, flat = wide.reshape(len(wide), -1), right.reshape(len(right), -1)
    largest = np.abs(flat).argmax(axis=1)[:, None]
    divisor = np.take_along_axis(flat, largest, axis=1)
    factors = np.take_along_axis(rows, largest, axis=1) / np.where(divisor == 0, 1.0, divisor)
    wrong = np.abs(rows - factors * flat) > _ROUNDINGS * np.finfo(found.dtype).eps * np.abs(rows)
    return np.moveaxis(wrong.reshape(wide.shape), 0, axis)
