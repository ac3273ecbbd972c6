"""Wrong files that look right: each kind of fault in ten forms, all of which must be seen, and no healthy one refused.

A module here gives many outputs, one a form, so that one conversion and one verification judge all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from lrdiff_core.errors import CheckFailed, ConfigError, DataError, InputError
from lrdiff_export import (
    Allowance,
    Battery,
    OnnxPredictor,
    VerificationFailed,
    export,
    read_model_card,
    verify_onnx,
)
from lrdiff_export.model.prepared import prepare
from lrdiff_export.onnx_file.convert import convert
from lrdiff_export.onnx_file.structure import structural_differences
from lrdiff_export.verify.verify import run_battery

Function = Callable[..., Tensor]
Mutation = Callable[[onnx.ModelProto], None]


class Forms(nn.Module):
    """Gives what each of several functions makes of the module and its inputs."""

    def __init__(self, forms: Mapping[str, Function], **buffers: Tensor) -> None:
        super().__init__()
        self.forms = dict(forms)
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(form(self, *inputs) for form in self.forms.values())


class One(Forms):
    """The same with one output."""

    def __init__(self, form: Function, **buffers: Tensor) -> None:
        super().__init__({"output": form}, **buffers)

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(*inputs)[0]


class Tried:
    """A module that is converted once, with one battery for every file that is made of it."""

    def __init__(self, module: Forms, rows: Any) -> None:
        arrays = rows if isinstance(rows, tuple) else (rows,)
        example = tuple(torch.tensor(one[:2]) for one in arrays)
        converted = convert(prepare(module, example, output_names=tuple(module.forms)))
        self.names, self.data = tuple(module.forms), converted.data
        self.battery = Battery(converted.prepared, arrays, converted.batches)

    def wrong(self, mutate: Mutation | None = None) -> set[str]:
        """Return the outputs that verification refuses, of the file as it is or spoilt."""
        model = onnx.ModelProto.FromString(self.data)
        if mutate is not None:
            mutate(model)
        problems = run_battery(model.SerializeToString(), self.battery).problems
        return {name for name in self.names if any(repr(name) in problem for problem in problems)}


def edited(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Mutation:
    """A mutation of one initializer, or of all that ``name`` ends."""

    def mutate(model: onnx.ModelProto) -> None:
        found = [one for one in model.graph.initializer if one.name.endswith(name)]
        assert found, [one.name for one in model.graph.initializer]
        for one in found:
            values = change(numpy_helper.to_array(one).copy())
            one.CopyFrom(numpy_helper.from_array(np.asarray(values, numpy_helper.to_array(one).dtype), one.name))

    return mutate


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# Both sides of every comparison below come out equal for many of these rows.
GRID = np.stack([np.resize(np.arange(6.0), 300), np.repeat(np.arange(0.0, 60.0, 10.0), 50)], 1).astype(np.float32)
RULES: dict[str, Function] = {
    "ge": lambda m, x: x[:, :1] >= m.ratio * x[:, 1:2],
    "gt": lambda m, x: x[:, :1] > m.ratio * x[:, 1:2],
    "le": lambda m, x: x[:, :1] <= m.ratio * x[:, 1:2],
    "eq": lambda m, x: x[:, :1] == m.ratio * x[:, 1:2],
    "floor": lambda m, x: torch.floor(x[:, :1] / m.ratio),
    "ceil": lambda m, x: torch.ceil(x[:, :1] / m.ratio),
    "round": lambda m, x: torch.round(x[:, :1] * m.ratio * 5),
    "trunc": lambda m, x: torch.trunc(x[:, 1:2] * m.ratio),
    "sign": lambda m, x: torch.sign(x[:, :1] - m.ratio * x[:, 1:2]),
    "to int": lambda m, x: (x[:, 1:2] * m.ratio).int().float(),
    "eps of the dtype": lambda m, x: (x[:, :1] - 1).clamp(min=torch.finfo(x.dtype).eps).log(),
    "tiny of the dtype": lambda m, x: torch.where(x > torch.finfo(x.dtype).tiny, x, -1.0),
}


@pytest.mark.slow
def test_places_where_float32_and_float64_disagree_blind_no_output() -> None:
    """One such place was the measure of the whole output: a file that was 3 % off everywhere agreed."""
    forms = {name: lambda m, x, rule=rule: 10 * rule(m, x).float() + m.scale * x for name, rule in RULES.items()}
    module = Forms(forms, ratio=torch.tensor(0.1), scale=torch.ones(1))
    tried = Tried(module, GRID[::3])
    assert tried.wrong() == set()
    assert tried.wrong(edited("scale", lambda scale: scale * 1.03)) == set(RULES)
    other_branch = tried.wrong(edited("ratio", lambda ratio: np.nextafter(ratio, np.float32(1))))
    assert other_branch >= {"ge", "eq", "sign"}  # in float64 the file's branch is as good as eager's


GUARDS: dict[str, Function] = {
    f"{name} {guard}": lambda m, total, count, form=form, guard=guard: form(total, count, guard)
    for guard in (1e-8, 1e-9, 1e-12)
    for name, form in {
        "sum": lambda total, count, guard: total / (count + guard),
        "sum from the left": lambda total, count, guard: total / (guard + count),
        "difference": lambda total, count, guard: total / (count - guard),
        "logarithm": lambda total, count, guard: torch.log(count + guard) + total,
        "root": lambda total, count, guard: total / torch.sqrt(count + guard),
    }.items()
}


@pytest.mark.slow
def test_a_small_constant_that_guards_against_zero_is_kept_and_its_loss_is_seen() -> None:
    """onnxscript's rewriter takes 1e-8 for 0: a row whose mask hides everything was NaN, and never tried."""
    ids = np.random.default_rng(0).integers(0, 7, (40, 5))
    mask = np.random.default_rng(1).integers(0, 2, (40, 5))
    mask[:, 0] = 1  # no row given is empty

    class Pooled(Forms):
        def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
            total = (self.table[ids] * mask[..., None].float()).sum(1)
            return super().forward(total, mask.float().sum(1, keepdim=True))

    module = Pooled(GUARDS, table=torch.from_numpy(normal(7, 4)))
    tried = Tried(module, (ids, mask))
    assert tried.wrong() == set()
    assert tried.wrong(edited(".value", np.zeros_like)) == set(GUARDS)


def test_a_factor_next_to_one_is_kept() -> None:
    module = Forms({"output": lambda m, x: (x * 1.000009 - x) * 1e5})
    assert Tried(module, normal(40, 3)).wrong() == set()


@pytest.mark.slow
def test_an_option_that_the_exporter_forgets_is_seen() -> None:
    """Without any input: where the pool is multiplied by nothing that is tried, the numbers would agree."""
    module = One(lambda m, x: functional.avg_pool2d(x, 2, divisor_override=3) * (x[:, :, :1, :1] > 1e30))
    with pytest.raises(InputError, match="a file that is another program: avg_pool2d: 3 is not in the file"):
        export(module, torch.tensor(normal(2, 2, 4, 4)), out=Path("never.onnx"))
    assert Tried(One(lambda m, x: functional.avg_pool2d(x, 2, divisor_override=4)), normal(9, 2, 4, 4)).wrong() == set()


class Structured(nn.Module):
    """Constants and attributes of all kinds that are compared, one of each, none of which could stand for another."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2)
        self.layer, self.groups = nn.LayerNorm(4, eps=1e-4), nn.GroupNorm(2, 4, eps=2e-4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.convolution(images)
        x = self.groups(functional.leaky_relu(x, 0.21) + functional.gelu(x, approximate="tanh") / (x.abs() + 1e-8))
        x = functional.max_pool2d(x, 3, stride=1, padding=1) - functional.avg_pool2d(x, 3, stride=1, padding=1)
        x = self.layer(x.mean((2, 3)).clamp(-2.5, 2.25) ** 3 * 3.5 - 0.125)
        return torch.where(x > 0.375, x, x.masked_fill(x == 0.0625, 7.0).fmod(0.75))


ATTRIBUTES = {
    ("Conv", "strides"), ("Conv", "pads"), ("Conv", "dilations"), ("LeakyRelu", "alpha"), ("Gelu", "approximate"),
    ("InstanceNormalization", "epsilon"), ("LayerNormalization", "epsilon"), ("MaxPool", "kernel_shape"),
    ("MaxPool", "pads"), ("AveragePool", "strides"), ("AveragePool", "count_include_pad"),
}  # fmt: skip
CONSTANTS = {1e-8, -2.5, 2.25, 3.0, 3.5, 0.125, 0.375, 0.0625, 7.0, 0.75}


@pytest.mark.slow
def test_constants_and_attributes_of_file_and_program_are_compared() -> None:
    torch.manual_seed(0)
    converted = convert(prepare(Structured(), torch.randn(2, 2, 8, 8)))
    seen: dict[str, list[str]] = {}

    def differences(spoilt: onnx.ModelProto) -> tuple[str, ...]:
        return structural_differences(converted.program, spoilt, converted.renamed)

    def copy() -> onnx.ModelProto:
        return onnx.ModelProto.FromString(converted.model.SerializeToString())

    for index, node in enumerate(converted.model.graph.node):
        for place, one in enumerate(node.attribute):
            if (node.op_type, one.name) in ATTRIBUTES:
                value, spoilt = onnx.helper.get_attribute_value(one), copy()
                other = b"none" if one.name == "approximate" else np.add(value, 1).tolist()
                spoilt.graph.node[index].attribute[place].CopyFrom(onnx.helper.make_attribute(one.name, other))
                seen.setdefault(f"{node.op_type} {one.name}", []).extend(differences(spoilt))
    for index, one in enumerate(converted.model.graph.initializer):
        value = numpy_helper.to_array(one)
        if value.size == 1 and value.dtype == np.float32 and any(np.isclose(value, v, rtol=1e-6) for v in CONSTANTS):
            spoilt = copy()
            spoilt.graph.initializer[index].CopyFrom(numpy_helper.from_array(value + np.float32(0.01), one.name))
            seen.setdefault(f"{float(value.reshape(())):.4g}", []).extend(differences(spoilt))
    wanted = {*(" ".join(pair) for pair in ATTRIBUTES), *(f"{one:.4g}" for one in CONSTANTS)}
    assert {name: found for name, found in seen.items() if not found} == {}
    assert wanted - set(seen) == set()
    without = copy()
    (place,) = (i for i, n in enumerate(without.graph.node) if any(one.endswith(".value") for one in n.input))
    gone = without.graph.node[place]
    for node in without.graph.node:
        node.input[:] = [gone.input[0] if name == gone.output[0] else name for name in node.input]
    del without.graph.node[place]
    assert [one.partition(": ")[2] for one in differences(without)] == ["1e-08 is not in the file"]


BATCHES: dict[str, tuple[Callable[[Tensor], bool], int | type[Exception] | None]] = {
    "more than 1024": (lambda x: x.shape[0] > 1024, 1024),
    "more than 2000": (lambda x: x.shape[0] > 2000, 2000),
    "at least 65": (lambda x: x.shape[0] >= 65, 64),
    "many numbers": (lambda x: x.numel() > 4000, 2000),
    "between": (lambda x: 90 < x.shape[0] < 2000, 90),
    "more than 3": (lambda x: x.shape[0] > 3, InputError),
    "one": (lambda x: x.shape[0] == 1, VerificationFailed),
    "fifty": (lambda x: x.shape[0] == 50, VerificationFailed),
    "not fifty-one": (lambda x: x.shape[0] != 51, VerificationFailed),
    "every fourth": (lambda x: x.shape[0] % 4 == 0, VerificationFailed),
    "none": (lambda x: x.shape[0] >= 0, None),
}


def slow_but_for(quick: set[str], names: Iterable[str]) -> list[Any]:
    """Parameters, of which the others run with ``make slow``."""
    return [one if one in quick else pytest.param(one, marks=pytest.mark.slow) for one in names]


@pytest.mark.parametrize("name", slow_but_for({"more than 1024", "more than 3", "fifty", "none"}, BATCHES))
def test_a_branch_on_the_size_of_the_batch_is_stated_and_checked_or_refused(name: str, tmp_path: Path) -> None:
    condition, expected = BATCHES[name]
    module = One(lambda m, x: x * 2 if condition(x) else x * 3)
    file = tmp_path / "model.onnx"
    if isinstance(expected, type):
        with pytest.raises(expected):
            export(module, torch.tensor(GRID[:2]), out=file, rows=GRID, golden=False)
        assert not file.exists()
        return
    report = export(module, torch.tensor(GRID[:2]), out=file, rows=GRID, golden=False)
    assert report.verification.domain.most_batch == read_model_card(file)["domain"].get("most_batch") == expected
    predictor, rows = OnnxPredictor(file), np.resize(GRID, ((expected or 3000) + 1, 2))
    right = module(torch.tensor(rows[:-1])).numpy()
    np.testing.assert_array_equal(predictor.run(rows[:-1])["output"], right)
    if expected is not None:
        with pytest.raises(DataError, match=f"a batch has {expected + 1} rows, the model takes at most {expected}"):
            predictor.run(rows)
    assert verify_onnx(file, module, rows=GRID).passed


THRESHOLDS: dict[str, Function] = {
    "greater": lambda m, x: torch.where(x > m.limit, 1.0, x / 1e3),
    "less": lambda m, x: (x < m.limit).long(),
    "at least": lambda m, x: (x >= m.limit).float(),
    "floor of a quotient": lambda m, x: m.table[torch.floor(x / m.step).long().clamp(0, 63)[:, 0]],
    "whole part": lambda m, x: (x / m.step).int(),
    "ceiling": lambda m, x: torch.ceil(x * m.step),
    "rounded": lambda m, x: torch.round(x / m.step),
    "buckets": lambda m, x: torch.bucketize(x, m.edges),
    "index": lambda m, x: m.table[(x / m.step).clamp(0, 63).long()[:, 0]],
    "sign": lambda m, x: torch.sign(x - m.limit),
    "two sides": lambda m, x: (x > m.limit) ^ (x > 2 * m.limit),
}


@pytest.mark.slow
def test_a_threshold_that_is_off_by_one_unit_in_the_last_place_is_seen() -> None:
    rows = np.random.default_rng(0).uniform(0, 23, (60, 1)).astype(np.float32)  # on no threshold
    limits = {"limit": torch.tensor(7.3), "step": torch.tensor(0.37), "edges": torch.arange(1, 20) * 0.73}
    module = Forms(THRESHOLDS, table=torch.arange(64.0)[:, None] ** 2, **limits)
    tried = Tried(module, rows)
    assert tried.wrong() == set()

    def mutate(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if any(np.isin(values, one).all() for one in limits.values()):
                tensor.CopyFrom(numpy_helper.from_array(np.nextafter(values, np.float32(100)), tensor.name))

    assert tried.wrong(mutate) == set(THRESHOLDS)


MEETS_NAN: dict[str, Function] = {
    "largest": lambda m, x: torch.where(x.amax(1).isnan(), -1.0, x.amax(1)),
    "pooled": lambda m, x: torch.nan_to_num(functional.max_pool1d(x[:, None], 2)[:, 0], nan=-5.0),
    "filled": lambda m, x: torch.where(x.isnan(), 0.5, x) * 2,
    "clipped": lambda m, x: torch.nan_to_num(x.clamp(-1, 1), nan=3.0),
    "rectified": lambda m, x: x.relu().nan_to_num(2.0),
    "smaller of two": lambda m, x: torch.minimum(x, x.flip(1)).nan_to_num(2.0),
    "compared": lambda m, x: torch.where(x > 0, x, 0.0),
    "infinite": lambda m, x: torch.where(torch.isinf(x), 1.0, x),
    "counted": lambda m, x: x.isnan().sum(1),
    "sorted": lambda m, x: x.sort(1)[0].nan_to_num(9.0),
}


@pytest.mark.slow
def test_a_single_nan_is_answered_as_the_module_answers_it() -> None:
    """ONNX Runtime's ReduceMax and MaxPool pass over a NaN, where PyTorch keeps it."""
    assert Tried(Forms(MEETS_NAN), normal(40, 6)).wrong() == {"largest", "pooled"}


def test_a_label_that_differs_for_a_nan_alone_takes_nan_out_of_the_domain(tmp_path: Path) -> None:
    rows, file = normal(40, 6), tmp_path / "model.onnx"
    report = export(One(lambda m, x: x.argmax(1)), torch.tensor(rows[:2]), out=file, rows=rows, golden=False)
    assert report.verification.domain.finite
    predictor = OnnxPredictor(file)
    np.testing.assert_array_equal(predictor.run(rows)["output"], rows.argmax(1))
    for value in (np.nan, np.inf):
        rows[3, 2] = value
        with pytest.raises(DataError, match="input 'features' holds NaN or infinity"):
            predictor.run(rows)


INTEGERS: dict[str, tuple[Function, bool]] = {  # and whether ONNX Runtime is right for integers of any size
    "power": (lambda m, a, b: a**b, False),
    "sum of floats": (lambda m, a, b: (a + b).float(), True),
    "product": (lambda m, a, b: a * b, True),
    "polynomial": (lambda m, a, b: a * a - 3 * b, True),
    "quotient": (lambda m, a, b: a // (b + 1), True),
    "true quotient": (lambda m, a, b: a / (b + 1), True),
    "remainder": (lambda m, a, b: a % (b + 1), True),
    "distance": (lambda m, a, b: (a - b).abs(), True),
    "equal": (lambda m, a, b: a == b, True),
    "limited": (lambda m, a, b: a.clamp(0, 5) + b, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("right", [True, False])
def test_integers_of_every_size_are_tried(right: bool, tmp_path: Path) -> None:
    rows = tuple(np.random.default_rng(0).integers(0, high, (40, 3)) for high in (9, 4))
    forms = {name: form for name, (form, healthy) in INTEGERS.items() if healthy is right}
    file = tmp_path / "model.onnx"
    module, example = Forms(forms), tuple(torch.tensor(one[:2]) for one in rows)
    names = {"input_names": ["a", "b"], "output_names": tuple(forms)}
    domain = export(module, example, out=file, rows=rows, golden=False, **names).verification.domain
    assert (domain.ranges == {}) is right
    predictor = OnnxPredictor(file)
    large = (np.full((2, 3), 2**40 + 1), rows[1][:2])
    if right:
        answers = predictor.run(*large)
        for name, answer in zip(forms, module(*map(torch.tensor, large)), strict=True):
            np.testing.assert_array_equal(answers[name], answer)
    else:
        assert predictor.run(*rows)["power"].tolist() == (rows[0] ** rows[1]).tolist()
        with pytest.raises(DataError, match=r"input 'a' reaches from \d+ to \d+, the file is proven from 0 to"):
            predictor.run(*large)


@pytest.mark.slow
def test_an_allowance_that_is_given_is_applied_without_classes_too(tmp_path: Path) -> None:
    rows = normal(1000, 6)
    torch.manual_seed(0)
    scores, number = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), nn.Linear(6, 1)
    options: dict[str, Any] = {"rows": rows, "variants": ["int8"], "golden": False}
    example = torch.tensor(rows[:2])
    with pytest.raises(CheckFailed, match=r"^variant int8 loses too much: .*\d of 1000 decisions flipped, 0.00% are"):
        export(scores, example, out=tmp_path / "a.onnx", allowance=Allowance(flipped=0.0), **options)
    with pytest.raises(ConfigError, match="flipped is given, and nothing says what the decisions are"):
        export(number, example, out=tmp_path / "b.onnx", allowance=Allowance(flipped=0.0), **options)
    assert export(number, example, out=tmp_path / "c.onnx", **options).variants[0].flipped is None
    (variant,) = export(scores, example, out=tmp_path / "d.onnx", allowance=Allowance(flipped=0.5), **options).variants
    assert variant.flipped is not None
    assert variant.flipped > 0


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.inner = kind(3, 4, batch_first=True)

    def forward(self, steps: Tensor) -> Tensor:
        return self.inner(steps)[0][:, -1]


EMPTY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "layers": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (20, 3), True),
    "LSTM": (lambda: Recurrent(nn.LSTM), (20, 5, 3), False),  # aborts the process
    "GRU": (lambda: Recurrent(nn.GRU), (20, 5, 3), False),
    "einsum": (lambda: One(lambda m, x: torch.einsum("bi,bj->bij", x, x)), (20, 3), True),
    "its own error": (lambda: One(lambda m, x: x + x.max()), (20, 3), False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but_for({"layers", "LSTM"}, EMPTY))
def test_a_batch_of_no_rows_is_tried_elsewhere_and_stated(name: str, tmp_path: Path) -> None:
    make, shape, answered = EMPTY[name]
    rows, file = normal(*shape), tmp_path / "model.onnx"
    report = export(make(), torch.tensor(rows[:2]), out=file, rows=rows, golden=False)
    assert report.verification.domain.least_batch == (0 if answered else 1)
    predictor = OnnxPredictor(file)
    if answered:
        assert len(predictor.run(rows[:0])["output"]) == 0
    else:
        with pytest.raises(DataError, match="a batch has 0 rows, the model takes at least 1"):
            predictor.run(rows[:0])
    model = onnx.load(file)
    del model.metadata_props[:]  # as in a file from elsewhere, which says nothing of itself
    with pytest.raises(DataError, match="a batch has 0 rows"):
        OnnxPredictor(model.SerializeToString()).run(rows[:0])
