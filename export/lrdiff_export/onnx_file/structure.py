"""Whether a file has the constants and attributes of the program that it was made of, before any input is tried.

torch's exporter drops some (the divisor of an average pool), and onnxscript's rewriter takes numbers near 0 for 0. Both
graphs are walked together: where a value has the same name in both, what lies between it and the next such values has
to hold the same numbers. What is compared: the constants of :data:`CONSTANTS` and the attributes of :data:`ATTRIBUTES`.
Everything else, and what the exporter has fused into weights, is left to the inputs that verification tries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx
from torch._ops import OpOverload

from lrdiff_export.model.operators import operator_name

__all__ = ["ATTRIBUTES", "CONSTANTS", "structural_differences"]

# Operators whose numbers have to be in the file, with those that do nothing there.
CONSTANTS: Mapping[str, frozenset[float]] = {
    **{name: frozenset({0.0}) for name in ("add", "sub", "rsub", "clamp", "clamp_min", "clamp_max", "hardtanh")},
    **{name: frozenset({0.0, 1.0}) for name in ("mul", "div", "fmod", "remainder", "masked_fill")},
    **{name: frozenset({0.0}) for name in ("eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum")},
    "pow": frozenset({0.0, 1.0, 2.0, 0.5, -1.0, -0.5}),  # which have operators of their own
    **{f"avg_pool{n}d": frozenset() for n in (1, 2, 3)},  # divisor_override alone
}
_LIMITS = frozenset({"clamp", "clamp_min", "clamp_max", "hardtanh", "relu"})
_WEIGHTED = frozenset({"linear", "addmm", "mm", "matmul", "bmm", "_native_batch_norm_legit_no_training"})


def _twice(value: Sequence[int], like: Sequence[int]) -> list[int]:
    """Padding in front and behind."""
    return 2 * _each(value, like)


def _each(value: Sequence[int], like: Sequence[int]) -> list[int]:
    """One number a dimension; one stands for all, none for the size of the kernel."""
    numbers = list(value) or list(like)
    return numbers * len(like) if len(numbers) == 1 else numbers


@dataclass(frozen=True, kw_only=True)
class _Attribute:
    """One argument in PyTorch, and what it is in ONNX."""

    argument: str
    name: str
    convert: Callable[[Any, Sequence[int]], Any] = lambda value, like: value


_POOL = (
    _Attribute(argument="kernel_size", name="kernel_shape", convert=_each),
    _Attribute(argument="stride", name="strides", convert=_each),
    _Attribute(argument="padding", name="pads", convert=_twice),
    _Attribute(argument="ceil_mode", name="ceil_mode", convert=lambda value, like: int(value)),
)
_COUNT = _Attribute(argument="count_include_pad", name="count_include_pad", convert=lambda value, like: int(value))
_DILATION = _Attribute(argument="dilation", name="dilations", convert=_each)
_CONVOLUTION = (
    _Attribute(argument="stride", name="strides", convert=_each),
    _Attribute(argument="padding", name="pads", convert=_twice),
    _DILATION,
    _Attribute(argument="groups", name="group"),
)
_EPS = (_Attribute(argument="eps", name="epsilon"),)
# PyTorch's operator: ONNX's, and the attributes that have to be the same.
ATTRIBUTES: Mapping[str, tuple[str, tuple[_Attribute, ...]]] = {
    **{f"avg_pool{n}d": ("AveragePool", (*_POOL, _COUNT)) for n in (1, 2, 3)},
    **{f"max_pool{n}d": ("MaxPool", (*_POOL, _DILATION)) for n in (1, 2, 3)},
    **{f"conv{n}d": ("Conv", _CONVOLUTION) for n in (1, 2, 3)},
    "leaky_relu": ("LeakyRelu", (_Attribute(argument="negative_slope", name="alpha"),)),
    "gelu": ("Gelu", (_Attribute(argument="approximate", name="approximate", convert=lambda v, like: v.encode()),)),
    "layer_norm": ("LayerNormalization", _EPS),
    "group_norm": ("InstanceNormalization", _EPS),
    "_native_batch_norm_legit_no_training": ("BatchNormalization", _EPS),
}


def structural_differences(
    program: torch.export.ExportedProgram, model: onnx.ModelProto, renamed: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return what a file lost of the program that it was made of, one line each.

    Args:
        program: torch's graph.
        model: the file made of it.
        renamed: values inside that have another name in the file.

    Example:
        >>> from lrdiff_export.model.prepared import prepare
        >>> from lrdiff_export.onnx_file.convert import convert
        >>> class Shifted(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.exp(x + 0.25)
        >>> converted = convert(prepare(Shifted(), torch.ones(2, 3)))
        >>> converted.model.graph.initializer[0].CopyFrom(
        ...     onnx.numpy_helper.from_array(torch.tensor(0.5).numpy(), converted.model.graph.initializer[0].name)
        ... )
        >>> structural_differences(converted.program, converted.model)
        ('add: 0.25 is not in the file',)
    """
    return tuple(_Graphs(program, model, renamed or {}).differences())


class _Graphs:
    """Both graphs, and which values are the same."""

    def __init__(
        self, program: torch.export.ExportedProgram, model: onnx.ModelProto, renamed: Mapping[str, str]
    ) -> None:
        self.model = model
        self.made = {name: node for node in model.graph.node for name in node.output}
        self.constants = {one.name: one for one in model.graph.initializer}
        self.names = _names(program, model, renamed)
        there = {*self.made, *self.constants, *(one.name for one in model.graph.input)}
        self.shared = {node: name for node, name in self.names.items() if name in there}
        self.ends = set(self.shared.values())
        self.varies = _that_follow_inputs(program)
        self.found = _with_equals(program, set(self.shared))

    def differences(self) -> Iterator[str]:
        for node, name in self.shared.items():
            if node.op == "call_function" and name in self.made and node in self.varies:
                ours, theirs = self._program_part(node), self._file_part(name)
                yield from self._lost_constants(node, ours, theirs)
                yield from _changed_attributes(ours, theirs)

    def _program_part(self, last: fx.Node) -> list[fx.Node]:
        """The nodes from a value back to the next ones that the file has, too."""
        found, waiting = [last], list(last.all_input_nodes)
        while waiting:
            node = waiting.pop()
            if node not in self.found and node in self.varies and node not in found:
                found.append(node)
                waiting += node.all_input_nodes
        return [node for node in found if isinstance(node.target, OpOverload)]

    def _file_part(self, last: str) -> list[onnx.NodeProto]:
        found, waiting, seen = [self.made[last]], list(self.made[last].input), {last}
        while waiting:
            name = waiting.pop()
            if name in self.made and name not in self.ends and name not in seen:
                found.append(self.made[name])
                waiting += self.made[name].input
            seen.add(name)
        return found

    def _lost_constants(
        self, last: fx.Node, ours: Sequence[fx.Node], theirs: Sequence[onnx.NodeProto]
    ) -> Iterator[str]:
        fused = any(_name(node) in _WEIGHTED or _name(node).startswith("conv") for node in ours)
        ours = [node for node in ours if node is last or not fused]
        if sum(_name(node) in _LIMITS for node in ours) > 1:  # which the rewriter makes one of
            ours = [node for node in ours if _name(node) not in _LIMITS]
        wanted = [(node, number) for node in ours for number in _numbers(node)]
        there = self._numbers_of(theirs) if wanted else []
        for node, number in wanted:
            forms = (number, -number, 1 / number)
            if not any(math.isclose(one, form, rel_tol=1e-6, abs_tol=0.0) for one in there for form in forms):
                yield f"{node.name}: {number:g} is not in the file"

    def _numbers_of(self, nodes: Sequence[onnx.NodeProto]) -> list[float]:
        found: list[float] = []
        for node in nodes:
            tensors = [self.constants[name] for name in node.input if name in self.constants]
            for attribute in node.attribute:
                value = onnx.helper.get_attribute_value(attribute)
                if isinstance(value, onnx.TensorProto):
                    tensors.append(value)
                elif isinstance(value, float):
                    found.append(float(value))
            found += [_only(one) for one in tensors if math.prod(one.dims) == 1 and not one.external_data]
        return found


def _changed_attributes(ours: Sequence[fx.Node], theirs: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in ours:
        kind, attributes = ATTRIBUTES.get(_name(node), ("", ()))
        alike = [one for one in ours if ATTRIBUTES.get(_name(one), ("",))[0] == kind]
        made = [one for one in theirs if one.op_type == kind]
        if len(alike) != 1 or len(made) != 1:
            continue
        values = {one.name: onnx.helper.get_attribute_value(one) for one in made[0].attribute}
        arguments = _arguments(node)
        like = values.get("kernel_shape", ())
        for one in attributes:
            value = arguments.get(one.argument)
            if one.name == "pads" and any("pad" in _name(other) for other in ours):
                continue  # the rewriter makes a pad part of the convolution behind it
            if one.name not in values or value is None or isinstance(value, str) != (one.argument == "approximate"):
                continue
            right = one.convert(value, like)
            same = values[one.name] == right
            if isinstance(right, float):
                same = math.isclose(values[one.name], right, rel_tol=1e-6)
            if not same:
                yield f"{node.name}: {one.argument} is {value}, {one.name} in the file {values[one.name]}"


def _name(node: fx.Node) -> str:
    return operator_name(node.target)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name, defaults too."""
    assert isinstance(node.target, OpOverload)
    schema = node.target._schema.arguments
    given = {one.name: value for one, value in zip(schema, node.args, strict=False)}
    return {one.name: node.kwargs.get(one.name, given.get(one.name, one.default_value)) for one in schema}


def _numbers(node: fx.Node) -> list[float]:
    """The constants of a call that have to be in the file."""
    name = _name(node)
    value = node.meta.get("val")
    if name not in CONSTANTS or not isinstance(value, Tensor) or not _has_floats(node):
        return []
    arguments = _arguments(node)
    if arguments.get("alpha") == 1:
        del arguments["alpha"]
    if name.startswith("avg_pool"):
        kernel, divisor = arguments["kernel_size"], arguments.get("divisor_override")
        size = math.prod(_each(kernel, range(int(name[-2]))))
        arguments = {} if divisor == size and not any(arguments["padding"]) else {"divisor": divisor}
    numbers = [float(one) for one in arguments.values() if isinstance(one, int | float) and not isinstance(one, bool)]
    largest = float(torch.finfo(torch.float32).max)
    return [one for one in numbers if one not in CONSTANTS[name] and math.isfinite(one) and abs(one) < largest]


def _has_floats(node: fx.Node) -> bool:
    values = [one.meta.get("val") for one in node.all_input_nodes]
    return any(isinstance(one, Tensor) and one.is_floating_point() for one in values)


def _only(tensor: onnx.TensorProto) -> float:
    return float(numpy_helper.to_array(tensor).reshape(-1)[0])


def _names(
    program: torch.export.ExportedProgram, model: onnx.ModelProto, renamed: Mapping[str, str]
) -> dict[fx.Node, str]:
    """The name in the file of each node's value."""
    names = {node: renamed.get(node.name, node.name) for node in program.graph.nodes}
    by_name = {node.name: node for node in program.graph.nodes}
    initial = {one.name for one in model.graph.initializer}
    inputs = [one.name for one in model.graph.input if one.name not in initial]
    users = [by_name[str(name)] for name in program.graph_signature.user_inputs if str(name) in by_name]
    names |= dict(zip(users, inputs, strict=False))
    outputs = [by_name.get(str(name)) for name in program.graph_signature.user_outputs]
    names |= {node: one.name for node, one in zip(outputs, model.graph.output, strict=False) if node is not None}
    return names


def _with_equals(program: torch.export.ExportedProgram, shared: set[fx.Node]) -> set[fx.Node]:
    """Nodes that are shared, and those that compute the same once more, which the rewriter makes one of."""
    first: dict[fx.Node, fx.Node] = {}
    known: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        same = fx.map_arg((node.args, node.kwargs), lambda one: first.get(one, one))
        key = f"{node.target} {same}" if node.op == "call_function" else node.name
        first[node] = known.setdefault(key, node)
    there = {first[node] for node in shared}
    return {node for node in first if first[node] in there}


def _that_follow_inputs(program: torch.export.ExportedProgram) -> set[fx.Node]:
    """Nodes whose values are not constants, which the exporter folds."""
    users = set(map(str, program.graph_signature.user_inputs))
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        if (node.op == "placeholder" and node.name in users) or any(one in found for one in node.all_input_nodes):
            found.add(node)
    return found
