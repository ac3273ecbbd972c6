"""A tiny model that shows what a backend does with denormal numbers, which few models let through to their answers."""

from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from lrdiff_export.runtimes.protocol import Backend

__all__ = ["FLUSHED", "KEPT", "Probe", "denormals_of", "probe_model", "probe_rows"]

KEPT, FLUSHED = "kept", "flushed"
WIDTH = 8


class Probe(nn.Module):
    """Halves its input, and multiplies it by the identity matrix: both exact, also on denormal numbers.

    Example:
        >>> halves, same = Probe()(torch.tensor([[2.0] * 8]))
        >>> halves[0, 0].item(), same[0, 0].item()
        (1.0, 2.0)
    """

    identity: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("identity", torch.eye(WIDTH))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:  # [batch, 8] -> [batch, 8], [batch, 8]
        """Return half of the rows, and the rows."""
        return rows * 0.5, rows @ self.identity


def probe_model() -> bytes:
    """Return the probe as an ONNX file of opset 15, which every runtime of the table reads.

    Example:
        >>> len(probe_model()) < 1000
        True
    """
    ports = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])
        for name in ("rows", "halves", "same")
    }
    constants = [
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("identity", TensorProto.FLOAT, [WIDTH, WIDTH], np.eye(WIDTH).ravel().tolist()),
    ]
    nodes = [
        helper.make_node("Mul", ["rows", "half"], ["halves"], name="halve"),
        helper.make_node("MatMul", ["rows", "identity"], ["same"], name="multiply"),
    ]
    graph = helper.make_graph(nodes, "probe", [ports["rows"]], [ports["halves"], ports["same"]], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def probe_rows() -> np.ndarray:
    """Return rows ``[16, 8]`` from the smallest normal number down to a few units of the smallest denormal one."""
    sizes = np.logspace(-37.5, -44, 16 * WIDTH).reshape(16, WIDTH)
    signs = 1.0 - 2.0 * (np.arange(16 * WIDTH) % 2).reshape(16, WIDTH)
    return (sizes * signs).astype(np.float32)


def denormals_of(backend: Backend) -> str:
    """Run the probe and return ``kept``, or ``flushed`` where a denormal number became zero.

    Args:
        backend: in float32; others round them away.

    Raises:
        Exception: whatever the backend raises.

    Example:
        >>> from lrdiff_export.runtimes import BACKENDS
        >>> denormals_of(BACKENDS["eager"])
        'kept'
    """
    rows = probe_rows()
    halves, same = backend.prepare(probe_model() if backend.needs_onnx else Probe())(rows)
    # Bits, not values: with denormals switched off in this process the comparison would flush them, too.
    half = np.ldexp(rows.astype(np.float64), -1).astype(np.float32)
    for output, answer in ((halves, half), (same, rows)):
        bits = np.ascontiguousarray(output, np.float32).view(np.uint32) & 0x7FFFFFFF
        if ((bits == 0) & ((answer.view(np.uint32) & 0x7FFFFFFF) > 0)).any():
            return FLUSHED
    return KEPT
