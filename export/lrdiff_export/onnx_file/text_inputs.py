"""Words before a network: encoders of ``ai.onnx.ml`` give the codes that it takes, in a graph and out of it again."""

from __future__ import annotations

import json
from collections.abc import Iterator

import onnx
from onnx import helper

from lrdiff_core.errors import ModelFileError
from lrdiff_export.model.text_inputs import TextInputs
from lrdiff_export.onnx_file.load import model_inputs
from lrdiff_export.onnx_file.passes import fresh_name, rename_values, value_names

__all__ = ["KEY", "TEXT_DOMAIN", "add_text_inputs", "coded_rows", "network_of", "takes_text", "with_coded_rows"]

TEXT_DOMAIN = "ai.onnx.ml"
# LabelEncoder from strings to integers is the same in versions 2 and 3; 2 asks for no newer IR version than any opset.
TEXT_VERSION = 2
KEY = "lrdiff.text_inputs"


def add_text_inputs(model: onnx.ModelProto, text: TextInputs) -> None:
    """Let a network of one matrix ``[batch, columns]`` take numbers and words instead.

    Args:
        model: changed in place: its nodes stay as they are, others come before them. What is to be known of it is
            written into its metadata.
        text: the columns.

    Example:
        >>> model = onnx.parser.parse_model('''<ir_version: 9, opset_import: ["" : 20]>
        ...     g (float[batch, 2] features) => (float[batch, 2] y) { y = Relu(features) }''')
        >>> add_text_inputs(model, TextInputs.of(["colour", "age"], {"colour": ["blue", "red"]}))
        >>> [one.name for one in model.graph.input], [node.op_type for node in model.graph.node]
        (['features', 'colour'], ['LabelEncoder', 'Cast', 'Concat', 'Gather', 'Relu'])
    """
    (before,) = model_inputs(model)
    ports = [name for name, *_ in text.ports]
    taken = {*value_names(model), *ports}
    coded = fresh_name("coded_rows", taken)
    inside = {name: fresh_name(f"{name}.inside", taken) for name in sorted({*value_names(model)} & {*ports})}
    rename_values(model, {**inside, before.name: coded})
    graph = model.graph
    order = [*text.places, *(column.place for column in text.columns)]
    parts = [text.numbers] if text.places else []
    nodes = []
    for name, column in zip(text.inputs, text.columns, strict=True):
        code, number = fresh_name(f"{name}.code", taken), fresh_name(f"{name}.number", taken)
        numbers = list(range(1, len(column.words) + 1))
        nodes += [
            helper.make_node(
                "LabelEncoder", [name], [code], name=f"node_{code}", domain=TEXT_DOMAIN,
                keys_strings=list(column.words), values_int64s=numbers, default_int64=0,
            ),
            helper.make_node("Cast", [code], [number], name=f"node_{number}", to=onnx.TensorProto.FLOAT),
        ]  # fmt: skip
        parts.append(number)
    in_order = order == sorted(order)
    together = coded if in_order else fresh_name("words_last", taken)
    nodes.append(helper.make_node("Concat", parts, [together], name=f"node_{together}", axis=1))
    if not in_order:
        places = fresh_name("places", taken)
        back = [order.index(place) for place in range(len(order))]
        graph.initializer.append(helper.make_tensor(places, onnx.TensorProto.INT64, [len(back)], back))
        nodes.append(helper.make_node("Gather", [together, places], [coded], name=f"node_{coded}", axis=1))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    weights = [one for one in graph.input if one.name != coded]
    del graph.input[:]
    kinds = {"float32": onnx.TensorProto.FLOAT, "string": onnx.TensorProto.STRING}
    graph.input.extend(helper.make_tensor_value_info(name, kinds[dtype], shape) for name, dtype, shape in text.ports)
    graph.input.extend(weights)
    model.opset_import.append(helper.make_opsetid(TEXT_DOMAIN, TEXT_VERSION))
    model.ir_version = max(
        model.ir_version, helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    )
    entry = model.metadata_props.add()
    columns = {name: column.name for name, column in zip(text.inputs, text.columns, strict=True)}
    said = {"columns": columns, "coded_rows": coded, "width": len(order)}
    entry.key, entry.value = KEY, json.dumps(said, ensure_ascii=False, sort_keys=True)


def takes_text(model: onnx.ModelProto) -> bool:
    """Whether an input takes strings."""
    return any(one.type.tensor_type.elem_type == onnx.TensorProto.STRING for one in model_inputs(model))


def coded_rows(model: onnx.ModelProto) -> tuple[str, int]:
    """Return the name of the value that holds the codes, and the numbers beside them; and how many columns it has.

    Raises:
        ModelFileError: the file does not say so.
    """
    said = {entry.key: entry.value for entry in model.metadata_props}
    try:
        document = json.loads(said[KEY])
        name, width = str(document["coded_rows"]), int(document["width"])
    except (KeyError, ValueError, TypeError, RecursionError):
        name, width = "", 0
    if not any(name in node.output for node in model.graph.node):
        raise ModelFileError(
            "the model takes strings, and does not say where their codes are", help="export it again with lrdiff export"
        )
    return name, width


def with_coded_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that gives the coded rows, ``[batch, columns]``, as one more output."""
    (name, width), made = coded_rows(model), onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width]))
    return made


def network_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network of numbers behind the encoders: the same nodes and weights, with the coded rows as its input.

    Raises:
        ModelFileError: the file does not say where they are, or the encoders are used behind them, too.
    """
    (name, width), made = coded_rows(model), onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    before = set(_before(model, name))
    removed = [node for index, node in enumerate(model.graph.node) if index in before]
    kept = [node for index, node in enumerate(model.graph.node) if index not in before]
    del graph.node[:]
    graph.node.extend(kept)
    ports = [one.name for one in graph.input]
    del graph.input[:], graph.value_info[:]
    weights = list(graph.initializer)
    del graph.initializer[:]
    used = set(value_names(made))
    lost = {*ports, *(output for node in removed for output in node.output)} - {name, *(one.name for one in weights)}
    if lost & used:
        raise ModelFileError("what encodes its words is used further on", help="export it again with lrdiff export")
    graph.initializer.extend(one for one in weights if one.name in used)
    graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width]))
    return made


def _before(model: onnx.ModelProto, name: str) -> Iterator[int]:
    """Places of the nodes that a value is made by."""
    makers = {output: index for index, node in enumerate(model.graph.node) for output in node.output}
    todo, seen = [name], set()
    while todo:
        index = makers.get(todo.pop())
        if index is not None and index not in seen:
            seen.add(index)
            yield index
            todo += model.graph.node[index].input
