"""Files made to break whoever reads them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def _value(name: str, shape: list[object]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


def _model(nodes: list[onnx.NodeProto], **options: object) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", [_value("x", ["batch", 2])], [_value("y", ["batch", 2])], **options)  # type: ignore
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    return model


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def nested(levels: int) -> bytes:
    """Attributes in graphs in attributes, written by hand: protobuf itself refuses to build so many levels."""
    data = b""
    for _ in range(levels):
        attribute = b"\x0a\x01b" + b"\x32" + _varint(len(data)) + data + b"\xa0\x01\x05"  # name, g, type GRAPH
        node = b"\x22\x02If" + b"\x2a" + _varint(len(attribute)) + attribute  # op_type, attribute
        data = b"\x0a" + _varint(len(node)) + node  # GraphProto.node
    return b"\x08\x09" + b"\x3a" + _varint(len(data)) + data + b"\x42\x04\x0a\x00\x10\x14"


def huge_declared() -> bytes:
    model = _model([helper.make_node("Add", ["x", "w"], ["y"])])
    model.graph.initializer.add(name="w", data_type=FLOAT, dims=[2**40, 2**20], raw_data=b"1234")
    return model.SerializeToString()


def huge_constant() -> bytes:
    """A few bytes that ask for 4 TiB when they are folded."""
    shape = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "shape")
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["c"]), helper.make_node("ReduceSum", ["c"], ["s"])]
    return _model([*nodes, helper.make_node("Add", ["x", "s"], ["y"])], initializer=[shape]).SerializeToString()


def large_at_run_time(x: str = "x", features: int = 2, y: str = "y", outputs: int = 2) -> bytes:
    """Loads at once, and asks for 2 GiB a row when it is run."""
    numbers = {"zero": 0, "one": 1, "outputs": outputs, "large": 2**28}
    constants = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in numbers.items()]
    nodes = [
        helper.make_node("Shape", [x], ["rows"], start=0, end=1),
        helper.make_node("Mul", ["rows", "large"], ["size"]),
        helper.make_node("Concat", ["size", "one"], ["sizes"], axis=0),
        helper.make_node("ReduceMax", [x], ["most"]),
        helper.make_node("Expand", ["most", "sizes"], ["many"]),
        helper.make_node("Sin", ["many"], ["waves"]),
        helper.make_node("ReduceMax", ["waves", "zero"], ["wave"]),
        helper.make_node("Add", [x, "wave"], ["sum"]),
        helper.make_node("Slice", ["sum", "zero", "outputs", "one"], [y]),
    ]
    ports = [_value(x, ["batch", features])], [_value(y, ["batch", outputs])]
    graph = helper.make_graph(nodes, "graph", *ports, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def endless_loop(x: str = "x", features: int = 2, y: str = "y", outputs: int = 2) -> bytes:
    """Loads at once, and runs for ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            _value("v", ["batch", features]),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), _value("w", ["batch", features])],
    )
    count = numpy_helper.from_array(np.array(2**62, np.int64), "count")
    true = numpy_helper.from_array(np.array(True), "true")
    ends = numpy_helper.from_array(np.array([outputs], np.int64), "ends")
    zero, one = (numpy_helper.from_array(np.array([value], np.int64), f"i{value}") for value in (0, 1))
    nodes = [
        helper.make_node("Loop", ["count", "true", x], ["looped"], body=body),
        helper.make_node("Slice", ["looped", "i0", "ends", "i1"], [y]),
    ]
    constants = [count, true, ends, zero, one]
    graph = helper.make_graph(
        nodes, "graph", [_value(x, ["batch", features])], [_value(y, ["batch", outputs])], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


def endless_if(nodes: list[onnx.NodeProto], **numbers: object) -> bytes:
    """Answers its rows as they are, and runs for ever where nodes make ``yes`` true.

    Args:
        nodes: that make it, of ``x`` and of numbers.
        numbers: by name.
    """
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            _value("v", ["batch", 2]),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), _value("w", ["batch", 2])],
    )
    loop = helper.make_node("Loop", ["", "true", "x"], ["looped"], body=body)
    then = helper.make_graph([loop], "then", [], [_value("looped", ["batch", 2])])
    same = helper.make_node("Identity", ["x"], ["same"])
    otherwise = helper.make_graph([same], "otherwise", [], [_value("same", ["batch", 2])])
    choose = helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=otherwise)
    constants = [numpy_helper.from_array(np.array(value), name) for name, value in {"true": True, **numbers}.items()]
    return _model([*nodes, choose], initializer=constants).SerializeToString()


def endless_above(rows: int) -> bytes:
    """Runs for ever on more rows."""
    size = helper.make_node("Size", ["x"], ["size"])
    return endless_if([size, helper.make_node("Greater", ["size", "most"], ["yes"])], most=2 * rows)


def endless_by_chance(chance: float) -> bytes:
    """Runs for ever in a share of its calls, whatever it is fed."""
    draw = helper.make_node("RandomUniform", [], ["drawn"], shape=[1])
    return endless_if([draw, helper.make_node("Less", ["drawn", "chance"], ["yes"])], chance=np.float32([chance]))


def external(location: str) -> bytes:
    model = _model([helper.make_node("Add", ["x", "w"], ["y"])])
    tensor = model.graph.initializer.add(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return model.SerializeToString()


def cyclic() -> bytes:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return _model([*nodes, helper.make_node("Relu", ["b"], ["y"])]).SerializeToString()


def recursive_function() -> bytes:
    model = _model([helper.make_node("F", ["x"], ["y"], domain="own")])
    model.opset_import.append(helper.make_opsetid("own", 1))
    body = [helper.make_node("F", ["a"], ["b"], domain="own")]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, imports))
    return model.SerializeToString()


WHOLE = _model([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()
HOSTILE: dict[str, bytes] = {
    "truncated": WHOLE[:-9],
    "empty": b"",
    "random": np.random.default_rng(0).bytes(4096),
    "zeros": bytes(4096),
    "huge declared sizes": huge_declared(),
    "huge constant": huge_constant(),
    "endless loop": endless_loop(),
    "external data outside": external("../../../etc/passwd"),
    "external data, absolute": external("/etc/passwd"),
    "cyclic": cyclic(),
    "recursive function": recursive_function(),
    "unknown operator": _model([helper.make_node("Nonsense", ["x"], ["y"])]).SerializeToString(),
    "unknown domain": _model([helper.make_node("Relu", ["x"], ["y"], domain="evil")]).SerializeToString(),
    "10 000 levels": nested(10_000),
    "90 levels": nested(90),
}
