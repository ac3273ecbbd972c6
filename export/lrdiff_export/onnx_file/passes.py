"""Names of inputs and outputs that nothing else in a graph has.

torch's exporter gives an input or output the name that is asked for even where a weight or an intermediate value has
it already (``weight``, ``linear``); the file is then invalid. Here the value inside gives way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from lrdiff_export.onnx_file.protobuf import messages

__all__ = ["fresh_name", "placeholders", "rename_ports", "value_names"]


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
    _apply(model, {**inside, **names})
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


def _apply(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    for part in messages(model):
        if isinstance(part, onnx.NodeProto | onnx.FunctionProto):
            for ends in (part.input, part.output):
                ends[:] = [names.get(name, name) for name in ends]
        elif isinstance(part, onnx.ValueInfoProto | onnx.TensorProto):
            part.name = names.get(part.name, part.name)
