"""Does the gate find faults that are planted in exported files, and let healthy ones through?

``python -m benchmarks.mutate_exports --count 1000 [--healthy 200] [--out FILE.md] [--record FILE.json]`` exports
architectures of :mod:`benchmarks.export_architectures`, plants one seeded fault at a time in the graph or its weights,
and runs the verification that every export has to pass. A mutant is

- *refused* where the file is not valid, does not load, holds other weights or constants, or is not verified;
- *equivalent* where its answers to rows that the verification has not seen are those of the healthy file, bit for bit
  or within the noise of float32: integers are equal, and the errors against float64 at most eight times those of the
  healthy file, or eight eps of the output's scale;
- *missed* otherwise.

The rule for equivalence knows none of the budgets of the verification.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.export_architectures import ARCHITECTURES, Architecture
from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.record import PageFiles, add_page_options, read_record
from lrdiff_bench.system.machine import provenance
from lrdiff_core.errors import LrdiffError
from lrdiff_export.model.prepared import prepare
from lrdiff_export.onnx_file.convert import Converted, convert
from lrdiff_export.onnx_file.structure import structural_differences
from lrdiff_export.onnx_file.weights import changed_weights
from lrdiff_export.runtimes.predictor import open_session
from lrdiff_export.verify.inputs import Battery
from lrdiff_export.verify.verify import run_battery

__all__ = ["KINDS", "Subject", "mutants", "page"]

MUTATIONS: Mapping[str, Any] = {"format": "lrdiff.export_mutations", "version": 1}
ENDS = ("refused", "same bits", "within noise", "missed")
OTHER_ROWS = 512  # that the verification has not seen, where a row costs little
SCALES = (1.0, 0.3, 3.0, 30.0)  # by turns
NOISE = 8.0  # times the error of the healthy file, or eps of the output's scale

# Operators that take and give the same, and that a bug might put in the place of one another.
_SWAPS: dict[str, tuple[str, ...]] = {
    "Add": ("Sub", "Mul"), "Sub": ("Add",), "Mul": ("Add", "Div"), "Div": ("Mul",), "Max": ("Min",), "Min": ("Max",),
    "Relu": ("Identity", "Abs", "Elu", "LeakyRelu"), "Sigmoid": ("Tanh", "HardSigmoid"), "Tanh": ("Sigmoid", "Erf"),
    "Gelu": ("Relu", "Elu"), "Erf": ("Tanh",), "Exp": ("Softplus",), "Elu": ("Selu", "Relu"), "Sqrt": ("Abs",),
    "HardSwish": ("Relu",), "HardSigmoid": ("Sigmoid",), "Softmax": ("LogSoftmax",), "LogSoftmax": ("Softmax",),
    "Greater": ("GreaterOrEqual", "Less"), "GreaterOrEqual": ("Greater",), "Less": ("LessOrEqual", "Greater"),
    "LessOrEqual": ("Less",), "Equal": ("GreaterOrEqual",), "And": ("Or",), "Or": ("And",), "Not": ("Identity",),
    "Floor": ("Ceil", "Round"), "Round": ("Floor", "Ceil"), "Ceil": ("Floor",), "Neg": ("Identity", "Abs"),
    "ReduceMean": ("ReduceSum", "ReduceMax"), "ReduceSum": ("ReduceMean",), "ReduceMax": ("ReduceMin",),
    "ArgMax": ("ArgMin",), "ArgMin": ("ArgMax",), "Reciprocal": ("Identity",), "Abs": ("Identity",),
    "GlobalAveragePool": ("GlobalMaxPool",), "Log": ("Identity",), "Cos": ("Sin",), "Sin": ("Cos",),
}  # fmt: skip
_COMPARES = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Clip", "Where", "Max", "Min"})
_STRINGS = {"none": "tanh", "tanh": "none", "forward": "reverse", "constant": "edge", "NOTSET": "SAME_UPPER"}


class UnfitError(Exception):
    """A model holds nothing that a kind of fault could be planted in."""


Mutation = Callable[[onnx.ModelProto, random.Random], str]
KINDS: dict[str, Mutation] = {}


def _kind(name: str) -> Callable[[Mutation], Mutation]:
    def register(one: Mutation) -> Mutation:
        KINDS[name] = one
        return one

    return register


def _nodes(model: onnx.ModelProto) -> list[NodeProto]:
    """Every node, those of branches too."""
    found: list[NodeProto] = []
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            found.append(node)
            graphs += [one.g for one in node.attribute if one.type == onnx.AttributeProto.GRAPH]
    return found


def _constants(model: onnx.ModelProto) -> list[TensorProto]:
    """Initializers and the values of Constant nodes."""
    values = [one for node in _nodes(model) if node.op_type == "Constant" for one in node.attribute]
    return [*model.graph.initializer, *(one.t for one in values if one.HasField("t"))]


def _pick(random_: random.Random, found: Sequence[object]) -> object:
    if not found:
        raise UnfitError
    return random_.choice(list(found))


def _set(tensor: TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _scaled(model: onnx.ModelProto, random_: random.Random, share: float) -> str:
    """One number of a weight, of those that matter: not among the smallest half of its tensor."""
    found = [one for one in _constants(model) if one.data_type == TensorProto.FLOAT and np.prod(one.dims) > 1]
    tensor = _pick(random_, [one for one in found if numpy_helper.to_array(one).any()])
    assert isinstance(tensor, TensorProto)
    values = numpy_helper.to_array(tensor).copy()
    sizes = np.abs(values).ravel()
    place = random_.choice(np.flatnonzero((sizes >= np.median(sizes)) & (sizes > 0)).tolist())
    values.flat[place] *= np.float32(1 + share)
    _set(tensor, values)
    return f"{tensor.name}[{place}]"


@_kind("weight off by 0.1 %")
def _weight_little(model: onnx.ModelProto, random_: random.Random) -> str:
    return _scaled(model, random_, 1e-3)


@_kind("weight off by 1 %")
def _weight(model: onnx.ModelProto, random_: random.Random) -> str:
    return _scaled(model, random_, 1e-2)


@_kind("operator")
def _operator(model: onnx.ModelProto, random_: random.Random) -> str:
    node = _pick(random_, [one for one in _nodes(model) if one.op_type in _SWAPS])
    assert isinstance(node, NodeProto)
    before = node.op_type
    node.op_type = random_.choice(_SWAPS[before])
    if node.op_type in ("Identity", "Abs", "Relu", "Elu", "LeakyRelu", "Selu", "Tanh", "Sigmoid", "HardSigmoid"):
        del node.attribute[:]
    return f"{before} to {node.op_type} at {node.output[0]}"


@_kind("attribute")
def _attribute(model: onnx.ModelProto, random_: random.Random) -> str:
    skipped = ("axis", "axes", "to", "value", "saturate")
    kinds = (onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOAT, onnx.AttributeProto.STRING)
    found = [(n, a) for n in _nodes(model) for a in n.attribute if a.name not in skipped and a.type in kinds]
    node, one = _pick(random_, found)  # type: ignore[misc]
    before = helper.get_attribute_value(one)
    if one.type == onnx.AttributeProto.INT:
        one.i = 1 - one.i if one.i in (0, 1) else one.i + random_.choice((-1, 1))
    elif one.type == onnx.AttributeProto.INTS:
        place = random_.randrange(len(one.ints))
        other = (place + 1) % len(one.ints)
        if one.name == "perm" and other != place:
            one.ints[place], one.ints[other] = one.ints[other], one.ints[place]
        else:
            one.ints[place] += 1
    elif one.type == onnx.AttributeProto.FLOAT:
        one.f *= random_.choice((1.01, 10.0, 0.1))
    else:
        text = one.s.decode()
        if text not in _STRINGS:
            raise UnfitError
        one.s = _STRINGS[text].encode()
    return f"{one.name} of {node.op_type} at {node.output[0]}, was {before!r}"


@_kind("constant")
def _constant(model: onnx.ModelProto, random_: random.Random) -> str:
    small = [one for one in _constants(model) if np.prod(one.dims) <= 4]
    tensor = _pick(random_, [one for one in small if one.data_type in (TensorProto.FLOAT, TensorProto.INT64)])
    assert isinstance(tensor, TensorProto)
    values = numpy_helper.to_array(tensor).copy()
    if not values.size:
        raise UnfitError
    place = random_.randrange(values.size)
    before = values.flat[place]
    if values.dtype.kind == "f":
        values.flat[place] = random_.choice((before * np.float32(1.01), -before, before + np.float32(1e-3)))
    else:
        values.flat[place] += random_.choice((-1, 1))
    _set(tensor, values)
    return f"{tensor.name}, {before} to {values.flat[place]}"


@_kind("axis")
def _axis(model: onnx.ModelProto, random_: random.Random) -> str:
    inside = [(node, one) for node in _nodes(model) for one in node.attribute if one.name == "axis"]
    constants = {one.name: one for one in model.graph.initializer}
    given = [
        (node, constants[node.input[1]])
        for node in _nodes(model)
        if (node.op_type.startswith("Reduce") or node.op_type in ("Squeeze", "Unsqueeze", "CumSum"))
        and len(node.input) > 1
        and node.input[1] in constants
    ]
    node, one = _pick(random_, [*inside, *given])  # type: ignore[misc]
    if isinstance(one, onnx.AttributeProto):
        one.i += random_.choice((-1, 1))
        return f"axis of {node.op_type} at {node.output[0]}, to {one.i}"
    fresh = TensorProto()  # others may share the constant
    fresh.CopyFrom(one)
    fresh.name = f"{node.output[0]}.other_axis"
    _set(fresh, numpy_helper.to_array(one) + random_.choice((-1, 1)))
    model.graph.initializer.append(fresh)
    node.input[1] = fresh.name
    return f"axes of {node.op_type} at {node.output[0]}"


@_kind("threshold")
def _threshold(model: onnx.ModelProto, random_: random.Random) -> str:
    constants = {one.name: one for one in model.graph.initializer}
    constants |= {
        node.output[0]: one.t for node in _nodes(model) if node.op_type == "Constant" for one in node.attribute
    }
    found = [
        (node, place)
        for node in _nodes(model)
        if node.op_type in _COMPARES
        for place, name in enumerate(node.input)
        if name in constants and constants[name].data_type in (TensorProto.FLOAT, TensorProto.INT64)
    ]
    node, place = _pick(random_, found)  # type: ignore[misc]
    one = constants[node.input[place]]
    values = numpy_helper.to_array(one)
    fresh = TensorProto(name=f"{node.output[0]}.moved")
    if values.dtype.kind == "f":
        further = values * np.float32(1.01), values + np.float32(1e-3), np.nextafter(values, np.float32(9e9))
        moved = random_.choice(further)
    else:
        moved = values + 1
    _set(fresh, np.asarray(moved, values.dtype))
    model.graph.initializer.append(fresh)
    node.input[place] = fresh.name
    return f"threshold of {node.op_type} at {node.output[0]}, was {values.ravel()[:1]}"


@_kind("dtype")
def _dtype(model: onnx.ModelProto, random_: random.Random) -> str:
    """A weight or a value between two nodes is rounded to 16 bits on its way, or an integer to 8."""
    types = {one.name: one.type.tensor_type.elem_type for one in model.graph.value_info}
    types |= {one.name: one.data_type for one in model.graph.initializer}
    types |= {one.name: one.type.tensor_type.elem_type for one in model.graph.input}
    wanted = {TensorProto.FLOAT: (TensorProto.FLOAT16,), TensorProto.INT64: (TensorProto.INT8,)}
    found = [
        (index, place)
        for index, node in enumerate(model.graph.node)
        for place, name in enumerate(node.input)
        if types.get(name) in wanted
    ]
    index, place = _pick(random_, found)  # type: ignore[misc]
    node = model.graph.node[index]
    name = node.input[place]
    narrow = random_.choice(wanted[types[name]])
    label = f"{node.output[0]}.{place}"
    down = helper.make_node("Cast", [name], [f"{label}.narrow"], to=narrow)
    up = helper.make_node("Cast", [f"{label}.narrow"], [f"{label}.wide"], to=types[name])
    node.input[place] = f"{label}.wide"
    model.graph.node.insert(index, up)
    model.graph.node.insert(index, down)
    return f"{name} in {TensorProto.DataType.Name(narrow)} on its way to {node.op_type}"


@_kind("wiring")
def _wiring(model: onnx.ModelProto, random_: random.Random) -> str:
    nodes = [one for one in _nodes(model) if len(one.input) >= 2 and all(one.input[:2])]
    node = _pick(random_, [one for one in nodes if one.input[0] != one.input[1]])
    assert isinstance(node, NodeProto)
    node.input[0], node.input[1] = node.input[1], node.input[0]
    return f"inputs of {node.op_type} at {node.output[0]} swapped"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An exported architecture with everything that its mutants are judged by, computed once.

    Attributes:
        name: of the architecture.
        converted: its file.
        battery: what the gate runs.
        rows: that the battery has not seen, one array an input.
        answers: to them, in float64.
        healthy: outputs of the healthy file for them.
    """

    name: str
    converted: Converted
    battery: Battery
    rows: tuple[np.ndarray, ...]
    answers: list[np.ndarray]
    healthy: list[np.ndarray]

    @classmethod
    def of(cls, name: str, seed: int) -> Subject:
        """Export one architecture, with weights of its own for each seed."""
        one = ARCHITECTURES[name]
        converted, battery = _exported(one, seed)
        assert run_battery(converted.data, battery).passed, f"{name} is refused as it is"
        rows = _other_rows(one, battery, seed)
        healthy = _run(converted.data, rows, battery)
        answers = battery.reference.on(rows).answers
        return cls(name=name, converted=converted, battery=battery, rows=rows, answers=answers, healthy=healthy)

    def equivalent(self, data: bytes) -> str:
        """Say how a mutant that was verified is equivalent; nothing where it is not."""
        found = _run(data, self.rows, self.battery)
        bits = [one.tobytes() == other.tobytes() for one, other in zip(found, self.healthy, strict=True)]
        if all(bits):
            return "same bits"
        for one, other, right in zip(found, self.healthy, self.answers, strict=True):
            if one.dtype.kind != "f":
                if (one != other).any():
                    return ""
                continue
            both = np.isfinite(other) & np.isfinite(right)
            if (np.isfinite(one) != np.isfinite(other)).any():
                return ""
            # Row by row: among rows of 30 times the size the error of an ordinary one is lost.
            for ours, theirs, true, kept in zip(one, other, right, both, strict=True):
                scale = float(np.abs(true[kept]).max(initial=0.0))
                noise = max(float(np.abs(theirs - true)[kept].max(initial=0.0)), scale * np.finfo(np.float32).eps)
                if float(np.abs(ours - true)[kept].max(initial=0.0)) > NOISE * noise:
                    return ""
        return "within noise"


def _exported(one: Architecture, seed: int) -> tuple[Converted, Battery]:
    by_name = "input_ids" in one.rows
    tensors = {key: torch.tensor(rows[:2]) for key, rows in one.rows.items()}
    prepared = prepare(
        one.module(seed),
        tensors if by_name else tuple(tensors.values()),
        input_names=None if by_name else tuple(tensors),
        output_names=one.outputs,
        **one.options,
    )
    converted = convert(prepared)
    return converted, Battery(prepared, tuple(one.rows.values()), converted.batches)


def _other_rows(one: Architecture, battery: Battery, seed: int) -> tuple[np.ndarray, ...]:
    """Rows of the same kind: each feature from rows drawn anew, and some of them larger or smaller."""
    drawn = np.random.default_rng(1000 + seed)
    rows = tuple(one.rows.values())
    count = max(8, int(OTHER_ROWS * battery.effort.share))
    sizes = np.resize(np.array(SCALES), count)
    made = []
    for given in rows:
        whole = given[drawn.integers(0, len(given), count)]
        if given.dtype.kind == "f" and not np.array_equal(given, np.round(given)) and not one.options:
            other = given[drawn.integers(0, len(given), count)]
            share = drawn.random((count, *[1] * (given.ndim - 1)))
            whole = whole * share + other * (1 - share)
            whole = whole * sizes.reshape(-1, *[1] * (given.ndim - 1))
        made.append(whole.astype(given.dtype))
    try:
        battery.reference.on(tuple(made))
    except LrdiffError:  # it asserts a range, or has codes among its columns
        places = drawn.integers(0, len(rows[0]), count)
        return tuple(given[places] for given in rows)
    return tuple(made)


def _run(data: bytes, rows: Sequence[np.ndarray], battery: Battery) -> list[np.ndarray]:
    session = open_session(data)
    names = [one.name for one in session.get_inputs()]
    if battery.prepared.batched:
        return [np.asarray(one) for one in session.run(None, dict(zip(names, rows, strict=True)))]
    samples = zip(*rows, strict=True)
    found = [session.run(None, dict(zip(names, map(np.asarray, one), strict=True))) for one in samples]
    return [np.stack(several) for several in zip(*found, strict=True)]


def _verdict(subject: Subject, mutant: onnx.ModelProto) -> str:
    """Do as the gate does."""
    data = subject.converted.serialised(mutant)
    if data == subject.converted.data:
        return "same bits"
    try:
        onnx.checker.check_model(mutant, full_check=True)
    except Exception:  # noqa: BLE001 - whatever it raises, the gate refuses the file
        return "refused"
    healthy = subject.converted
    if structural_differences(healthy.program, mutant, healthy.renamed):
        return "refused"
    if any(changed_weights(mutant, healthy.prepared.exported, healthy.renamed, healthy.program)):
        return "refused"
    try:
        if not run_battery(data, subject.battery).passed:
            return "refused"
    except LrdiffError:
        return "refused"
    return subject.equivalent(data) or "missed"


def mutants(subject: Subject, kinds: Sequence[str], seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield for each kind of fault what was planted and what became of it; nothing where the model has no place for it.

    Args:
        subject: the healthy file.
        kinds: of faults, one mutant each.
        seed: of all of them.
    """
    for number, kind in enumerate(kinds):
        random_ = random.Random(f"{seed} {subject.name} {kind} {number}")
        mutant = onnx.ModelProto()
        mutant.CopyFrom(subject.converted.model)
        try:
            what = KINDS[kind](mutant, random_)
        except UnfitError:
            continue
        yield kind, what, _verdict(subject, mutant)


@dataclass(kw_only=True)
class Found:
    """What has been found so far.

    Attributes:
        seed: of all faults.
        counts: mutants by kind of fault and end.
        missed: one line each.
        healthy: exports with other weights.
        refused: of those, one line each.
    """

    seed: int
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    healthy: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def planted(self) -> int:
        """Number of faults."""
        return sum(self.counts.values())

    def document(self, where: Mapping[str, Any]) -> dict[str, Any]:
        """As a record; ``where`` is the command and its provenance."""
        rows = [{"fault": kind, **{end: self.counts[kind, end] for end in ENDS}} for kind in KINDS]
        found = {"missed": self.missed, "healthy": self.healthy, "refused": self.refused, "seed": self.seed}
        return {**MUTATIONS, **where, "quick": False, **found, "rows": rows}


def page(document: Mapping[str, Any]) -> str:
    """The page of docs/results."""
    rows = [(row["fault"], [row[end] for end in ENDS]) for row in document["rows"]]
    rows.append(("all", [sum(counts) for counts in zip(*(counts for _, counts in rows), strict=True)]))
    lines = [
        "# Faults planted in exported files",
        "",
        render("written_by.md", **document).rstrip(),
        "",
        (__doc__ or "").partition("\n\n")[2].partition("A mutant is")[2].strip().join(("A mutant is\n\n", "")),
        "",
        "| fault | planted | refused | equivalent: same bits | equivalent: within noise | missed |",
        "|---|---|---|---|---|---|",
        *(f"| {kind} | {sum(counts)} | {' | '.join(map(str, counts))} |" for kind, counts in rows),
    ]
    total, missing = sum(rows[-1][1]), rows[-1][1][ENDS.index("missed")]
    lines += [
        "",
        f"{total - missing} of {total} ({(total - missing) / max(total, 1):.1%}) were refused or are equivalent. Of "
        f"{document['healthy']} healthy exports with other weights {len(document['refused'])} were refused.",
    ]
    for title, several in (("Missed:", document["missed"]), ("Healthy and refused:", document["refused"])):
        if several:
            lines += ["", title, "", *(f"- {one}" for one in several)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="faults to plant")
    parser.add_argument("--healthy", type=int, default=0, help="healthy exports with other weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="NAME", help="models whose names hold this")
    add_page_options(parser)
    given = parser.parse_args(arguments)
    files = PageFiles.of(given)
    if files.source is not None:
        files.write(page(read_record(files.source, **MUTATIONS)))
        return 0
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = [
        name
        for name, one in ARCHITECTURES.items()
        if one.kept and (not given.only or any(part in name for part in given.only))
    ]
    found = Found(seed=given.seed)
    where = {"command": as_given(), **provenance("onnx", "onnxscript", "onnxruntime")}
    for turn, name in enumerate(names if given.count else ()):
        begun = time.process_time()
        share = -(-(given.count - found.planted) // (len(names) - turn))
        _plant(found, name, share, turn)
        print(f"{name:<34} {found.planted} planted, {time.process_time() - begun:.0f} s", flush=True)
        files.write(page(files.keep(found.document(where))))
    for number in range(given.healthy):
        _export_healthy(found, names[number % len(names)], 1 + number // len(names))
        files.write(page(files.keep(found.document(where))))
    print(page(found.document(where)))
    return 0


def _plant(found: Found, name: str, share: int, turn: int) -> None:
    """Plant so many faults in one architecture, each kind in its turn."""
    subject = Subject.of(name, found.seed)
    kinds = (list(KINDS) * (2 * share))[turn % len(KINDS) :]
    for done, (kind, what, end) in enumerate(mutants(subject, kinds, found.seed), 1):
        found.counts[kind, end] += 1
        if end == "missed":
            found.missed.append(f"{name}, {kind}: {what}")
            print(found.missed[-1], flush=True)
        if done >= share:
            return


def _export_healthy(found: Found, name: str, seed: int) -> None:
    try:
        converted, battery = _exported(ARCHITECTURES[name], seed)
        report = run_battery(converted.data, battery)
        problem = "" if report.passed else report.problems[0]
    except LrdiffError as error:
        problem = str(error)
    found.healthy += 1
    if problem:
        found.refused.append(f"{name}, seed {seed}: {problem}")
        print(found.refused[-1], flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
