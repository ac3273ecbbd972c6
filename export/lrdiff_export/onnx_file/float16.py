"""A file in float16 arithmetic whose first steps stay in float32.

ONNX Runtime's own converter casts every input to float16 before anything else, so that a raw column larger than 65 504
becomes infinite, and leaves its casts unsorted. Here the nodes to keep are kept, inputs and all.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["LARGEST_FLOAT16", "to_float16"]

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
# Their float inputs are sizes, scales or limits that the standard wants in float32, or they give float32 by definition.
_STAYS = frozenset({"Resize", "Range", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "RandomNormal"})


def to_float16(model: onnx.ModelProto, *, kept: Collection[str]) -> onnx.ModelProto:
    """Return the model with weights and arithmetic in float16, inputs and outputs as they were.

    Args:
        model: checked, without subgraphs.
        kept: names of nodes that stay in float32.

    Raises:
        ValueError: a node holds a graph of its own.

    Example:
        >>> from lrdiff_export.publish.targets import probe_model
        >>> half = to_float16(onnx.ModelProto.FromString(probe_model(opset=20, ir_version=9)), kept=())
        >>> [node.op_type for node in half.graph.node]
        ['Cast', 'Relu', 'Cast']
    """
    made = onnx.ModelProto()
    made.CopyFrom(onnx.shape_inference.infer_shapes(model))
    graph = made.graph
    floats = {
        v.name
        for v in (*graph.input, *graph.output, *graph.value_info)
        if v.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    weights = {tensor.name: tensor for tensor in graph.initializer}
    floats |= {name for name, tensor in weights.items() if tensor.data_type == TensorProto.FLOAT}
    half: dict[str, str] = {}  # float32 value -> its float16 twin
    single: set[str] = {v.name for v in graph.input} | set(weights)  # values that exist in float32
    outputs = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if any(
            attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute
        ):
            raise ValueError(f"{node.op_type} holds a graph of its own")
        narrow = node.name not in kept and node.op_type not in _STAYS
        for place, name in enumerate(node.input):
            if name not in floats:
                continue
            if narrow and name not in half:
                half[name] = f"{name}_float16"
                if name in weights:
                    graph.initializer.append(_half_tensor(weights[name], half[name]))
                else:
                    nodes.append(helper.make_node("Cast", [name], [half[name]], to=TensorProto.FLOAT16))
            elif not narrow and name not in single:
                nodes.append(helper.make_node("Cast", [half[name]], [name], to=TensorProto.FLOAT))
                single.add(name)
            if narrow:
                node.input[place] = half[name]
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in floats:
                continue
            if not narrow:
                single.add(name)
                continue
            half[name] = f"{name}_float16"
            node.output[place] = half[name]
            if name in outputs:
                nodes.append(helper.make_node("Cast", [half[name]], [name], to=TensorProto.FLOAT))
                single.add(name)
        if narrow:
            _narrow_attributes(node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    used = {name for node in graph.node for name in node.input} | outputs
    left = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
    return made


def _narrow_attributes(node: onnx.NodeProto) -> None:
    """What a node makes or casts to float32 becomes float16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half_tensor(attribute.t, attribute.t.name))


def _half_tensor(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """Masks of -3.4e38 become the most negative float16: infinity would make NaN of a row that is masked whole."""
    values = numpy_helper.to_array(tensor)
    clipped = np.where(np.isinf(values), values, np.clip(values, -LARGEST_FLOAT16, LARGEST_FLOAT16))
    return numpy_helper.from_array(clipped.astype(np.float16), name)
