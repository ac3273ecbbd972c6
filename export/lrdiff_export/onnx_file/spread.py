"""Constants of one short row, such as the means of ten columns, repeated for each row before they meet the rows.

ONNX Runtime's CPU kernels broadcast row by row: ``rows - mean`` over ten columns costs some 8 ns a row whatever the
arithmetic costs, and took two thirds of the time of a 10-5-1 network from 8192 rows on. Repeated first (``Expand``),
the subtraction is one loop over all numbers: the same arithmetic on the same numbers, and so the same bits.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from lrdiff_export.onnx_file.passes import fresh_name, value_names

__all__ = ["WIDEST", "spread_rows"]

# Measured on one core over 1 to 512 columns: up to 64 the repeated constant is faster from 256 rows on (by 11 times for
# one column, 1.3 times for 64) and costs 0.5 us a call; at 128 it is level, beyond it is slower.
WIDEST = 64
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div"})


def spread_rows(model: onnx.ModelProto) -> int:
    """Put an ``Expand`` before each elementwise node of ``[batch, columns]`` and a constant of ``[columns]``.

    Args:
        model: changed in place; its values must carry their shapes, as those of torch's exporter do.

    Returns:
        The number of constants that are repeated.

    Example:
        >>> model = onnx.parser.parse_model('''<ir_version: 9, opset_import: ["" : 20]>
        ...     g (float[batch, 2] x) => (float[batch, 2] y) <float[2] mean = {1, 2}> { y = Sub(x, mean) }''')
        >>> spread_rows(model), [node.op_type for node in model.graph.node]
        (1, ['Shape', 'Expand', 'Sub'])
    """
    graph = model.graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {value.name: _free_rows(value) for value in (*graph.input, *graph.value_info)}
    taken = set(value_names(model))
    nodes: list[onnx.NodeProto] = []
    sizes: dict[tuple[str, int], str] = {}  # the value that holds a shape, by its free and its fixed dimension
    count = 0
    for node in graph.node:
        place = _constant_of(node, constants)
        shape = None if place is None else shapes.get(node.input[1 - place])
        if place is not None and shape is not None and constants[node.input[place]] in ((shape[1],), (1, shape[1])):
            if shape not in sizes:
                sizes[shape] = _add(nodes, "Shape", [node.input[1 - place]], f"{node.output[0]}.shape", taken)
            inputs = [node.input[place], sizes[shape]]
            node.input[place] = _add(nodes, "Expand", inputs, f"{node.output[0]}.rows", taken)
            count += 1
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _add(nodes: list[onnx.NodeProto], kind: str, inputs: list[str], name: str, taken: set[str]) -> str:
    """Append a node and return the name of its output, which nothing else has."""
    output = fresh_name(name, taken)
    nodes.append(helper.make_node(kind, inputs, [output], name=f"node_{output}"))
    return output


def _constant_of(node: onnx.NodeProto, constants: Collection[str]) -> int | None:
    """Which of the two inputs of an elementwise node is a constant, where one is."""
    if node.op_type not in _ELEMENTWISE or node.domain not in ("", "ai.onnx"):
        return None
    places = [place for place, name in enumerate(node.input) if name in constants]
    return places[0] if len(places) == 1 else None


def _free_rows(value: onnx.ValueInfoProto) -> tuple[str, int] | None:
    """Name of the free dimension and size of the other one, where a value is ``[free, fixed]`` and narrow."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 2 or not dims[0].dim_param or not 1 <= dims[1].dim_value <= WIDEST:
        return None
    return dims[0].dim_param, dims[1].dim_value
