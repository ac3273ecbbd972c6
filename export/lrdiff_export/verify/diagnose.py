"""Which node is the first to be wrong by itself, and which only passes on what it was given.

All intermediate values of the file come from one inference call. Each step of torch's own graph is then computed in
float64 *from the runtime's values of its inputs*: what the runtime's output differs by is the step's own error. What
that differs from the answer to the right inputs by is inherited. A step's own error may be as large as that of eager
float32 and of half an ULP of jitter in its inputs explain, the same rule as for whole models
(:mod:`lrdiff_export.verify.tolerance`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from lrdiff_core.errors import LrdiffError, ModelFileError
from lrdiff_export.model.float64 import float64_throughout
from lrdiff_export.model.prepared import Positional
from lrdiff_export.onnx_file.convert import Converted
from lrdiff_export.records import first_line, json_ready
from lrdiff_export.runtimes.predictor import open_session
from lrdiff_export.verify.effort import SCALES
from lrdiff_export.verify.inputs import Battery
from lrdiff_export.verify.rows import scaled_rows, some_rows
from lrdiff_export.verify.tolerance import allowed_error

__all__ = ["Diagnosis", "NodeError", "diagnose", "node_errors"]

ROWS = 64
_HALF_ULP = float(np.finfo(np.float32).eps) / 2


@dataclass(frozen=True, kw_only=True)
class NodeError:
    """One value of the graph.

    Attributes:
        value: its name, in the file and in torch's graph.
        operator: of the ONNX node that makes it.
        module: the torch module that it came from, such as ``encoder.layer.0.attention (Linear)``.
        own: error of this step alone, in eps units at the scale of the value.
        inherited: what the errors of its inputs make of it, in the same units.
        allowed: the step's own budget.
    """

    value: str
    operator: str
    module: str
    own: float
    inherited: float
    allowed: float

    @property
    def at_fault(self) -> bool:
        """Whether its own error is too large."""
        return self.own > self.allowed


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Where a file first goes wrong.

    Attributes:
        first: the first step at fault.
        nodes: every step that could be compared, in the order of the graph.
    """

    first: NodeError
    nodes: tuple[NodeError, ...]

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        one = self.first
        return (
            f"the first node at fault is {one.operator} {one.value!r} from {one.module}: "
            f"own error {one.own:.3g} eps of {one.allowed:.3g} allowed, inherited {one.inherited:.3g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; errors that are not finite become None."""
        return json_ready(self)


def diagnose(converted: Converted, battery: Battery) -> Diagnosis | None:
    """Return the first node whose own error is too large; None if no single one is.

    Args:
        converted: the file, with torch's graph of it.
        battery: of the module it should answer as; its weights are what counts.
    """
    if not battery.prepared.batched:
        return None
    for rows in _rows_to_try(battery):
        finite = np.ones(len(rows[0]), bool)
        for one in rows:
            if one.dtype.kind == "f":
                finite &= np.isfinite(one.reshape(len(one), -1)).all(axis=1)
        if finite.sum() < 2:
            continue
        try:
            nodes = node_errors(converted, [one[finite] for one in rows], battery.prepared.module)
        except LrdiffError:  # what does not load or run cannot be taken apart; the report says why it does not
            return None
        first = next((node for node in nodes if node.at_fault), None)
        if first is not None:
            return Diagnosis(first=first, nodes=tuple(nodes))
    return None


def _rows_to_try(battery: Battery) -> Iterator[list[np.ndarray]]:
    """Rows of ordinary size first: among much larger ones a small fault is lost."""
    cases = list(battery.ordinary())
    yield [np.concatenate([case.feeds[i][:ROWS] for case in cases]) for i in range(len(battery.rows))]
    if any(one.dtype.kind == "f" for one in battery.rows):
        for scale in SCALES:
            yield list(scaled_rows(some_rows(battery.rows, ROWS), scale))


def node_errors(converted: Converted, rows: Sequence[np.ndarray], module: torch.nn.Module) -> list[NodeError]:
    """Compare every value that file and torch's graph both have, on the same rows.

    Args:
        converted: the file, with torch's graph of it.
        rows: one array an input, two rows or more, finite.
        module: whose weights are right; of the same structure as the one that was converted.

    Raises:
        ModelFileError: ONNX Runtime does not load or run the file.

    Example:
        >>> from lrdiff_export.model.prepared import prepare
        >>> from lrdiff_export.onnx_file.convert import convert
        >>> converted = convert(prepare(torch.nn.Linear(3, 1), torch.zeros(1, 3)))
        >>> rows = [np.ones((2, 3), np.float32)]
        >>> [node.module for node in node_errors(converted, rows, converted.prepared.module)]
        ['the module itself (Linear)']
    """
    makers, actual = _intermediates(converted, rows)
    graph = converted.program.graph_module
    right = _Steps(graph, converted, module, torch.float64)
    single = _Steps(graph, converted, module, torch.float32)
    found: list[NodeError] = []
    true: dict[str, Any] = {}  # from right inputs throughout
    seen: dict[str, Any] = {}  # the runtime's value where there is one, else computed from its values
    for place, array in zip(right.user_inputs, rows, strict=True):
        true[place] = seen[place] = torch.tensor(array)
    for node in graph.graph.nodes:
        if node.op == "output" or node.name in true:
            continue
        if node.op != "call_function":
            true[node.name] = seen[node.name] = right.constant(node)
            continue
        true[node.name] = right.step(node, true)
        expected = right.step(node, seen)
        value = converted_name(node, converted)
        given = actual.get(value)
        if given is None or not isinstance(expected, Tensor) or tuple(given.shape) != tuple(expected.shape):
            seen[node.name] = expected
            continue
        seen[node.name] = torch.from_numpy(given)
        if expected.is_floating_point():
            unit = _unit(true[node.name])
            jitter = right.step(node, {name: _moved(one) for name, one in seen.items() if name != node.name})
            eager = single.step(node, seen)
            allowed = allowed_error(_distance(eager, expected, unit), _distance(jitter, expected, unit))
        else:
            unit, allowed = 1.0, 0.0
        found.append(
            NodeError(
                value=value,
                operator=makers[value],
                module=_module_of(node, wrapped=isinstance(converted.prepared.exported, Positional)),
                own=_distance(seen[node.name], expected, unit),
                inherited=_distance(expected, true[node.name], unit),
                allowed=allowed,
            )
        )
    return found


def _intermediates(converted: Converted, rows: Sequence[np.ndarray]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Run the file once with every value as an output; return who makes each, and the values."""
    model = onnx.ModelProto()
    model.CopyFrom(converted.model)
    makers = {name: node.op_type for node in model.graph.node for name in node.output if name}
    # Values that torch's graph does not have can be compared with nothing, and may be of types that NumPy lacks.
    known = {converted_name(node, converted) for node in converted.program.graph_module.graph.nodes}
    given = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in makers if name in known - given)
    session = open_session(converted.serialised(model), optimise=False)
    feeds = dict(zip(converted.prepared.input_names, rows, strict=True))
    names = [output.name for output in session.get_outputs()]
    try:
        values = session.run(names, feeds)
    except Exception as problem:  # its exceptions share no base below Exception
        raise ModelFileError(f"onnxruntime failed: {first_line(problem)}", help="see the report") from problem
    return makers, {name: value for name, value in zip(names, values, strict=True) if isinstance(value, np.ndarray)}


class _Steps:
    """Runs single steps of an exported graph in one precision, with the weights of a module."""

    def __init__(
        self, graph: fx.GraphModule, converted: Converted, module: torch.nn.Module, dtype: torch.dtype
    ) -> None:
        self.graph = graph
        self.dtype = dtype
        signature = converted.program.graph_signature
        self.user_inputs = tuple(str(name) for name in signature.user_inputs)
        weights = dict(module.state_dict(keep_vars=False))
        constants = dict(converted.program.constants)
        targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._constants: dict[str, Any] = {
            name: weights.get(target, constants.get(target)) for name, target in targets.items()
        }
        self._constants |= {
            name: constants.get(target) for name, target in signature.inputs_to_lifted_tensor_constants.items()
        }

    def constant(self, node: fx.Node) -> Any:
        """Return a weight, buffer or constant that a placeholder or attribute stands for."""
        if node.op == "placeholder":
            return self._constants.get(node.name)
        return getattr(self.graph, str(node.target))

    def step(self, node: fx.Node, values: dict[str, Any]) -> Any:
        """Run one node on values by name, floating ones cast to this precision."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: self._cast(values.get(one.name)))
        assert callable(node.target)
        with torch.no_grad():
            if self.dtype != torch.float64:
                return node.target(*args, **kwargs)
            with float64_throughout():
                return node.target(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self.dtype)
        return value


def converted_name(node: fx.Node, converted: Converted) -> str:
    """Return the file's name for a value of torch's graph: its own, but for outputs and what gave way to a port."""
    outputs = [spec.arg.name for spec in converted.program.graph_signature.output_specs if hasattr(spec.arg, "name")]
    if node.name in outputs:
        return converted.prepared.output_names[outputs.index(node.name)]
    return converted.renamed.get(node.name, node.name)


def _module_of(node: fx.Node, *, wrapped: bool) -> str:
    """The innermost module on the node's stack, with its class."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the module itself"
    path, kind = stack[-1]
    name = str(kind).rpartition(".")[2].rstrip("'>")
    path = str(path).removeprefix("inner").lstrip(".") if wrapped else str(path)
    return f"{path} ({name})" if path else f"the module itself ({name})"


def _moved(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    signs = 1.0 - 2.0 * (torch.arange(value.numel()) % 2).reshape(value.shape)
    return value.double() * (1.0 + _HALF_ULP * signs)


def _unit(value: Tensor) -> float:
    finite = value.double()[torch.isfinite(value)]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return max(float(np.finfo(np.float32).eps) * scale, float(np.finfo(np.float32).tiny))


def _distance(one: Any, other: Any, unit: float) -> float:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return 0.0
    first, second = one.double(), other.double()
    both = torch.isfinite(first) & torch.isfinite(second)
    if not both.any():
        return 0.0
    return float((first[both] - second[both]).abs().max()) / unit
