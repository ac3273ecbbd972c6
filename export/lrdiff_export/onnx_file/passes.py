"""Passes over a converted graph: optimisation, final names of inputs and outputs, constants repeated for each row.

Optimisation: onnxscript's rewriter takes every constant within 1e-8 of 0 for 0, and within 1e-5 of 1 for 1, so that
``x + 1e-8`` loses its guard against zero. Such constants are kept from it.

Names: torch's exporter gives an input or output the name that is asked for even where a weight or an intermediate
value has it already (``weight``, ``linear``); the file is then invalid. Here the value inside gives way.

Constants: ONNX Runtime's CPU kernels broadcast row by row. ``rows - mean`` over ten columns costs some 8 ns a row,
whatever the arithmetic costs, and took two thirds of the time of a 10-5-1 network from 8192 rows on. With the mean
repeated first (``Expand``) the subtraction is one loop over the same numbers, and gives the same bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import helper

from lrdiff_export.onnx_file.protobuf import messages

if TYPE_CHECKING:
    import onnx_ir

__all__ = [
    "WIDEST", "expand_constants", "fresh_name", "optimise", "placeholders", "rename_ports", "rename_values",
    "value_names",
]  # fmt: skip

NEARLY = 1e-3  # wider than any rewriter's tolerance

# Measured on one core over 1 to 512 columns: up to 64 the repeated constant is faster from 256 rows on (by 11 times for
# one column, 1.3 times for 64) and costs 0.5 us a call; at 128 it is level, beyond it is slower.
WIDEST = 64
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div"})


def optimise(program: torch.onnx.ONNXProgram) -> None:
    """Fold constants and remove what does nothing, as torch's exporter does, and keep every constant's value.

    Args:
        program: exported with ``optimize=False``; changed in place.
    """
    import onnx_ir  # here: it comes with onnxscript, which a machine that only runs models lacks

    graph = program.model.graph
    kept: list[tuple[onnx_ir.Value, onnx_ir.TensorProtocol]] = []
    for node in list(graph):
        constant = node.attributes["value"].value if node.op_type == "Constant" and "value" in node.attributes else None
        if constant is None or constant.size != 1 or not _nearly_nothing(constant.numpy()):
            continue
        value = node.outputs[0]
        stand_in = onnx_ir.Value(
            name=f"{value.name}.value",
            shape=onnx_ir.Shape(list(constant.shape)),
            type=onnx_ir.TensorType(constant.dtype),
        )
        graph.inputs.append(stand_in)
        onnx_ir.convenience.replace_all_uses_with(value, stand_in)
        kept.append((stand_in, constant))
    program.optimize()
    graph = program.model.graph
    for stand_in, constant in kept:
        graph.inputs.remove(stand_in)
        stand_in.const_value = constant
        graph.register_initializer(stand_in)


def _nearly_nothing(value: np.ndarray) -> bool:
    """Whether a number is close to 0 or 1, but neither."""
    if value.dtype.kind != "f":
        return False
    number = float(value.reshape(()))
    return number not in (0.0, 1.0) and (abs(number) <= NEARLY or abs(number - 1) <= NEARLY)


def placeholders(kind: str, count: int) -> list[str]:
    """Return names that no value of a graph has, because torch makes names of identifiers.

    Example:
        >>> placeholders("input", 2)
        ['<input 0>', '<input 1>']
    """
    return [f"<{kind} {index}>" for index in range(count)]


def rename_ports(model: onnx.ModelProto, names: Mapping[str, str]) -> dict[str, str]:
    """Give inputs and outputs their final names; whatever has one of them already gets another.

    Args:
        model: changed in place; subgraphs and functions follow.
        names: final name by placeholder.

    Returns:
        The values inside that were renamed: new name by old.

    Example:
        >>> graph = onnx.GraphProto(node=[onnx.NodeProto(op_type="Mul", input=["<input 0>", "weight"], output=["y"])])
        >>> model = onnx.ModelProto(graph=graph)
        >>> rename_ports(model, {"<input 0>": "weight"})
        {'weight': 'weight.inside'}
        >>> list(model.graph.node[0].input)
        ['weight', 'weight.inside']
    """
    there = set(value_names(model))
    taken = there | set(names.values())
    inside = {name: fresh_name(f"{name}.inside", taken) for name in sorted(there & set(names.values()))}
    rename_values(model, {**inside, **names})
    return inside


def fresh_name(wanted: str, taken: set[str]) -> str:
    """Return ``wanted``, or that with as many ``_`` as it takes to be new, and add it to ``taken``.

    Example:
        >>> fresh_name("relu", {"relu", "relu_"})
        'relu__'
    """
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted


def value_names(model: onnx.ModelProto) -> Iterable[str]:
    """Yield the name of every value of a model, those of subgraphs and functions too; some more than once."""
    for part in messages(model):
        if isinstance(part, onnx.NodeProto):
            yield from (*part.input, *part.output)
        elif isinstance(part, onnx.ValueInfoProto | onnx.TensorProto):
            yield part.name


def rename_values(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Give values other names, in subgraphs and functions, too.

    Args:
        model: changed in place.
        names: new name by old.
    """
    for part in messages(model):
        if isinstance(part, onnx.NodeProto | onnx.FunctionProto):
            for ends in (part.input, part.output):
                ends[:] = [names.get(name, name) for name in ends]
        elif isinstance(part, onnx.ValueInfoProto | onnx.TensorProto):
            part.name = names.get(part.name, part.name)


def expand_constants(model: onnx.ModelProto) -> int:
    """Put an ``Expand`` before each elementwise node of ``[batch, columns]`` and a constant of ``[columns]``.

    Args:
        model: changed in place; its values must carry their shapes, as those of torch's exporter do.

    Returns:
        The number of constants that are repeated.

    Example:
        >>> model = onnx.parser.parse_model('''<ir_version: 9, opset_import: ["" : 20]>
        ...     g (float[batch, 2] x) => (float[batch, 2] y) <float[2] mean = {1, 2}> { y = Sub(x, mean) }''')
        >>> expand_constants(model), [node.op_type for node in model.graph.node]
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
