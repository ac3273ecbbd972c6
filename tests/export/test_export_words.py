"""Files that take words: the codes of each are those of training, and whoever feeds them gets the module's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lrdiff_core.errors import ConfigError, DataError
from lrdiff_export import (
    ExportReport,
    OnnxPredictor,
    TextInputs,
    VerificationFailed,
    export,
    verify_golden,
    verify_onnx,
)
from lrdiff_export.model.domain import Domain
from lrdiff_export.model.prepared import prepare
from lrdiff_export.onnx_file.convert import Converted, convert
from lrdiff_export.onnx_file.text_inputs import add_text_inputs, network_of
from lrdiff_export.publish import words as publish_words
from lrdiff_export.publish.words import verify_words
from lrdiff_export.verify.inputs import Battery
from lrdiff_export.verify.verify import VerificationReport, run_battery

publish_export = import_module("lrdiff_export.publish.export")  # the package's `export` is the function
WORDS = {"colour": ("blue", "gr\u00fcn", "red wine"), "probability": ("a", "b")}
NAMES = ("age", "colour", "height", "probability")
TEXT = TextInputs.of(NAMES, WORDS, taken=["probability"])


class OneHot(nn.Module):
    """Codes become indicators inside, as in a table's own model."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(9, 1, generator=generator))
        self.register_buffer("first", torch.arange(4.0))
        self.register_buffer("second", torch.arange(3.0))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[batch, 4] -> [batch, 1]."""
        colour, other = (rows[:, 1:2] == self.first).float(), (rows[:, 3:4] == self.second).float()
        return torch.sigmoid(torch.cat([rows[:, 0:1], colour, rows[:, 2:3], other], dim=1) @ self.weights)


def table(rows: int) -> np.ndarray:
    """Numbers and codes."""
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(rows, 2))
    return np.stack([numbers[:, 0], draw.integers(0, 4, rows), numbers[:, 1], draw.integers(0, 3, rows)], 1).astype(
        np.float32
    )


@dataclass(frozen=True)
class Proven:
    """One network, proven once."""

    converted: Converted
    battery: Battery
    report: VerificationReport


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport, Converted]:
    """A published file and the network that it was made of, which is converted once for all tests."""
    file, rows, found = tmp_path_factory.mktemp("words") / "model.onnx", table(40), []

    def remembered(*given: Any, **options: Any) -> Converted:
        found.append(convert(*given, **options))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish_export, "convert", remembered)
        report = export(
            OneHot(), torch.from_numpy(rows[:2]), out=file, rows=rows, text=TEXT, output_names=["probability"],
            variants=["fp16"],
        )  # fmt: skip
    return file, report, found[0]


@pytest.fixture(scope="module")
def published(both: tuple[Path, ExportReport, Converted]) -> tuple[Path, ExportReport]:
    """The file."""
    return both[:2]


@pytest.fixture(scope="module")
def proven(both: tuple[Path, ExportReport, Converted]) -> Proven:
    """The network of numbers."""
    converted = both[2]
    battery = Battery(converted.prepared, (table(40),), converted.batches, TEXT.coded(Domain(), "features"))
    report = run_battery(converted.data, battery)
    assert report.passed, report.problems
    return Proven(converted, battery, report)


def whole(proven: Proven) -> onnx.ModelProto:
    """The file, as it is before anything is planted."""
    model = onnx.ModelProto()
    model.CopyFrom(proven.converted.model)
    add_text_inputs(model, TEXT)
    return model


def node(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    """The first node of a kind."""
    return next(one for one in model.graph.node if one.op_type == kind)


def attribute(of: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    """By name."""
    return next(one for one in of.attribute if one.name == name)


def swap(values: object, one: int = 0, other: int = 1) -> None:
    """Two entries of a repeated field."""
    found = list(values)  # type: ignore[call-overload]
    found[one], found[other] = found[other], found[one]
    values[:] = found  # type: ignore[index]


def two_categories_swapped(model: onnx.ModelProto) -> None:
    """Blue is green."""
    swap(attribute(node(model, "LabelEncoder"), "keys_strings").strings)


def default_of_one(model: onnx.ModelProto) -> None:
    """Unseen words are blue."""
    attribute(node(model, "LabelEncoder"), "default_int64").i = 1


def category_lost(model: onnx.ModelProto) -> None:
    """The last one is unseen."""
    encoder = node(model, "LabelEncoder")
    del attribute(encoder, "keys_strings").strings[-1], attribute(encoder, "values_int64s").ints[-1]


def category_misspelt(model: onnx.ModelProto) -> None:
    """In another Unicode form."""
    attribute(node(model, "LabelEncoder"), "keys_strings").strings[1] = "gru\u0308n".encode()


def columns_of_words_swapped(model: onnx.ModelProto) -> None:
    """Colours stand in the place of the other words."""
    swap(node(model, "Concat").input, 1, 2)


def columns_of_numbers_swapped(model: onnx.ModelProto) -> None:
    """Age stands in the place of height."""
    places = next(one for one in model.graph.initializer if one.name == node(model, "Gather").input[1])
    order = onnx.numpy_helper.to_array(places).copy()
    order[[0, 2]] = order[[2, 0]]
    places.CopyFrom(onnx.numpy_helper.from_array(order, places.name))


def input_misnamed(model: onnx.ModelProto) -> None:
    """Its name is that of another column."""
    model.graph.input[1].name = "color"
    node(model, "LabelEncoder").input[0] = "color"


def inputs_in_another_order(model: onnx.ModelProto) -> None:
    """Who feeds by position feeds colours to the other column."""
    first, second = (onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in model.graph.input[1:3])
    del model.graph.input[1:]
    model.graph.input.extend([second, first])


def numbers_rounded(model: onnx.ModelProto) -> None:
    """Something is done to numbers on the way."""
    model.graph.node.insert(0, onnx.helper.make_node("Round", ["features"], ["rounded"]))
    node(model, "Concat").input[0] = "rounded"


FAULTS = [
    two_categories_swapped, default_of_one, category_lost, category_misspelt, columns_of_words_swapped,
    columns_of_numbers_swapped, input_misnamed, inputs_in_another_order, numbers_rounded,
]  # fmt: skip


@pytest.mark.slow
def test_the_whole_file_is_proven_and_every_planted_fault_is_refused(proven: Proven) -> None:
    """Without a fault it passes; with one it does not, whichever it is."""
    sound = verify_words(proven.report, whole(proven), TEXT, proven.converted, proven.battery)
    assert sound.passed
    assert sound.words is not None
    assert sound.words.batches[:3] == (1, 2, 7)
    assert sound.words.known == 5
    assert not sound.domain.categories
    for plant in FAULTS:
        model = whole(proven)
        plant(model)
        onnx.checker.check_model(model, full_check=True)
        assert not verify_words(proven.report, model, TEXT, proven.converted, proven.battery).passed, plant.__name__


def test_codes_are_compared_where_answers_are_alike(proven: Proven) -> None:
    """A network without weights answers all words alike; two that are swapped are found all the same."""
    model = whole(proven)
    for one in model.graph.initializer:
        if one.name.endswith("weights"):
            one.CopyFrom(onnx.numpy_helper.from_array(np.zeros((9, 1), np.float32), one.name))
    two_categories_swapped(model)
    module = OneHot()
    nn.init.zeros_(module.weights)
    prepared = prepare(module, torch.zeros(2, 4), input_names="features", output_names=["probability"])
    battery = Battery(prepared, (table(8),), domain=proven.battery.declared)
    report = verify_words(proven.report, model, TEXT, proven.converted, battery)
    assert len(report.problems) == 1
    assert "blue" in report.problems[0]
    assert "code 2" in report.problems[0]


def test_nothing_is_written_of_a_file_whose_words_are_wrong(
    tmp_path: Path, proven: Proven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front door: an error, and an empty folder."""

    def planted(model: onnx.ModelProto, text: TextInputs) -> None:
        add_text_inputs(model, text)
        default_of_one(model)

    monkeypatch.setattr(publish_words, "add_text_inputs", planted)
    monkeypatch.setattr(publish_export, "convert", lambda *given, **options: proven.converted)
    rows, names = table(40), ["probability"]
    with pytest.raises(VerificationFailed, match="model.onnx"):
        export(
            OneHot(), torch.from_numpy(rows[:2]), out=tmp_path / "model.onnx", rows=rows, text=TEXT, output_names=names
        )
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_alone_gives_the_answers_of_the_module(published: tuple[Path, ExportReport]) -> None:
    """Words that nobody lists beforehand, in batches of any size, by name."""
    file, report = published
    strange = ["blue", "gr\u00fcn", "gru\u0308n", "", "x" * 70_000, "BLUE", " blue", "blue\0", "\U0001f4a9", "red wine"]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for rows in (0, 1, 2, 7, 10):
        numbers = np.linspace(-2, 2, 2 * rows, dtype=np.float32).reshape(rows, 2)
        colours = np.array(strange[:rows], object).reshape(-1, 1)
        others = np.array((["b", "c"] * 5)[:rows], object).reshape(-1, 1)
        given = {"features": numbers, "colour": colours, "probability_": others}
        (answer,) = session.run(["probability"], given)
        with torch.no_grad():
            right = OneHot()(torch.from_numpy(TEXT.matrix(list(given.values())))).numpy()
        np.testing.assert_allclose(answer, right, atol=1e-6)
        np.testing.assert_array_equal(OnnxPredictor(file).run(**given)["probability"], answer)
    codes = [column.codes(strange) for column in TEXT.columns]
    assert codes[0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 3]
    assert not codes[1].any()
    assert report.verification.domain.least_batch == 0
    assert [(port.name, port.dtype) for port in report.inputs] == [
        ("features", "float32"), ("colour", "string"), ("probability_", "string")
    ]  # fmt: skip
    assert OnnxPredictor(file.with_name("model.fp16.onnx")).input_names == OnnxPredictor(file).input_names


def test_golden_vectors_hold_words_and_no_pickle(published: tuple[Path, ExportReport]) -> None:
    """They verify in two runtimes, and a file with two words swapped is another file, and answers otherwise."""
    file, _ = published
    with np.load(file.with_name("model.golden.npz"), allow_pickle=False) as arrays:
        seen = {str(word) for word in arrays["input1"].ravel()}
    assert seen >= {*WORDS["colour"], "", "\N{PILE OF POO}"}
    assert verify_golden(file).passed
    assert verify_golden(file, runtime="onnx-reference").passed
    model = onnx.load(file)
    two_categories_swapped(model)
    wrong = file.with_name("wrong.onnx")
    onnx.save(model, wrong)
    for kind in ("npz", "json"):
        wrong.with_name(f"wrong.golden.{kind}").write_bytes(file.with_name(f"model.golden.{kind}").read_bytes())
    problems = verify_golden(wrong).problems
    assert len(problems) == 2
    assert "error" in problems[0]


def test_a_file_from_anywhere_is_compared_with_its_module(published: tuple[Path, ExportReport]) -> None:
    """`verify_onnx` feeds words by the module's own columns, whatever the file says of them."""
    file, _ = published
    assert verify_onnx(file, OneHot(), rows=table(20), text=TEXT).passed
    model = onnx.load(file)
    category_lost(model)
    assert not verify_onnx(model.SerializeToString(), OneHot(), rows=table(20), text=TEXT).passed


def test_the_file_is_the_same_every_time_and_holds_its_network(proven: Proven) -> None:
    """The bytes are those of the columns; the network inside is the one that was proven."""
    first, again = (whole(proven).SerializeToString(deterministic=True) for _ in range(2))
    assert first == again
    model = whole(proven)
    assert {one.domain: one.version for one in model.opset_import} == {"": 20, "ai.onnx.ml": 2}
    inside, before = network_of(model), proven.converted.model
    assert [one.op_type for one in inside.graph.node] == [one.op_type for one in before.graph.node]
    onnx.checker.check_model(inside, full_check=True)
    assert run_battery(inside.SerializeToString(), proven.battery).passed


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: TextInputs.of(["a"], {}), "words"),
        (lambda: TextInputs.of(["a"], {"b": ["x"]}), "b"),
        (lambda: TextInputs.of(["a", "a"], {"a": ["x"]}), "one name"),
        (lambda: TextInputs.of(["a"], {"a": ["x", "x"]}), "twice"),
        (lambda: TextInputs.of(["a"], {"a": ["x", ""]}), "category"),
        (lambda: TextInputs.of(["a"], {"a": ["x\0"]}), "category"),
        (lambda: TextInputs.of(["a"], {"a": ["\ud800"]}), "category"),
        (lambda: TEXT.split(np.float32([[0, 4, 0, 0]])), "code"),
        (lambda: TEXT.split(np.float32([[0, 1.5, 0, 0]])), "code"),
        (lambda: TEXT.split(np.float32([[0, np.nan, 0, 0]])), "code"),
        (lambda: TEXT.split(np.zeros((2, 3), np.float32)), "columns"),
    ],
)
def test_what_cannot_be_is_refused(wrong: Callable[[], object], says: str) -> None:
    """In one line."""
    with pytest.raises((ConfigError, DataError), match=says):
        wrong()


def test_export_refuses_words_that_do_not_fit_the_module(tmp_path: Path) -> None:
    """Before anything is converted."""
    for text, output in ((TextInputs.of(["a", "b"], {"b": ["x"]}), "y"), (TextInputs.of(NAMES, WORDS), "probability")):
        with pytest.raises(ConfigError, match="words"):
            export(OneHot(), torch.zeros(1, 4), out=tmp_path / "m.onnx", text=text, output_names=[output])
