"""Names of inputs and outputs that nothing else in a graph has.

torch's exporter gives an input or output the name that is asked for even where a weight or an intermediate value has
it already (``weight``, ``linear``); the file is then invalid. Here the value inside gives way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from lrdiff_export.protobuf import messages

__all__ = ["placeholders", "rename_ports"]


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
    taken = set(_values(model)) | set(names.values())
    inside: dict[str, str] = {}
    for name in sorted(set(names.values()) & set(_values(model))):
        new = f"{name}.inside"
        while new in taken:
            new += "_"
        taken.add(new)
        inside[name] = new
    _apply(model, {**inside, **names})
    return inside


def _values(model: onnx.ModelProto) -> Iterable[str]:
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
