"""Modules that an exporter meets in the wild: published as they are, or refused in one line with nothing left."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_models import rows_of, seeded
from torch import Tensor, nn

from lrdiff_core.errors import InputError, LrdiffError
from lrdiff_export import OnnxPredictor, VerificationFailed, export
from lrdiff_export.model.prepared import Prepared
from lrdiff_export.onnx_file.convert import Converted, convert
from lrdiff_export.publish import export as publishing

X = torch.tensor(rows_of(4, 3))
OLD = b"the one that works"


class Calls(nn.Module):
    """Whatever a function makes of itself and one input."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **kept: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in kept.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class NamedLikeItsWeights(nn.Module):
    """Arguments and parameters share their names."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.linear = nn.Parameter(torch.randn(3)), nn.Linear(3, 3)

    def forward(self, weight: Tensor, linear: Tensor) -> Tensor:
        return self.linear(weight * self.weight) + linear


class AnyNumber(nn.Module):
    """Takes ``*tensors``."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.head(sum(tensors))


class TwoBranches(nn.Module):
    """Gives None beside its answer where there are no labels, as models of transformers do."""

    def forward(self, x: Tensor, unused: Tensor) -> dict[str, Tensor | None]:
        return {"output": x * 2, "loss": None}


def hooked() -> nn.Module:
    linear = nn.Linear(3, 2)
    linear.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    linear.register_forward_hook(lambda module, args, result: result * 2)
    return linear


def transposed() -> nn.Module:
    linear = nn.Linear(3, 3)
    linear.weight = nn.Parameter(torch.randn(3, 3).t())
    return linear


def pruned() -> nn.Module:
    from torch.nn.utils import prune

    return prune.l1_unstructured(nn.Linear(3, 2), "weight", 0.5)


def spoilt(value: float) -> nn.Module:
    linear = nn.Linear(3, 2)
    nn.init.constant_(linear.weight, value)
    return linear


def linear_relu() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


PUBLISHED: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "in place on its input": (lambda: Calls(lambda _, x: x.add_(1)), X, {}),
    "in place inside": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True)), X, {}),
    "weights that are not contiguous": (transposed, X, {}),
    "float64 weights": (lambda: Calls(lambda m, x: (x.double() @ m.w).float(), w=torch.randn(3, 2).double()), X, {}),
    "bfloat16 weights, float32 arithmetic": (
        lambda: Calls(lambda m, x: x @ m.w.float(), w=torch.randn(3, 2).bfloat16()), X, {},
    ),
    "a large constant": (lambda: Calls(lambda _, x: x @ torch.arange(3e5).reshape(3, -1)[:, -3:]), X, {}),
    "names of anything printable": (lambda: nn.Linear(3, 2), X, {"input_names": "päth/to:1 x", "output_names": ["☃"]}),
    "ports named like weights and values": (linear_relu, X, {"input_names": "0.weight", "output_names": ["relu"]}),
    "arguments named like weights": (NamedLikeItsWeights, (X, X), {}),
    "any number of inputs": (AnyNumber, (X, X), {}),
    "batch norm and dropout in training mode": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()), X, {}),  # noqa: E501
    "hooks": (hooked, X, {}),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), X, {}),
    "pruned": (pruned, X, {}),
    "complex inside": (lambda: Calls(lambda _, x: torch.fft.fft(x).abs()), X, {}),
    "one output twice, and the input": (lambda: Calls(lambda _, x: (x * 2, x * 2, x)), X, {"output_names": list("abc")}),  # noqa: E501
    "None in a mapping, an input that is not used": (TwoBranches, {"x": X, "unused": X}, {}),
    "an example with gradients": (lambda: nn.Linear(3, 2), X.clone().requires_grad_(), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_published_and_left_as_it_was(name: str, tmp_path: Path) -> None:
    make, example, options = PUBLISHED[name]
    module = seeded(make).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    kept = example if isinstance(example, Tensor) else None
    values = None if kept is None else kept.detach().clone()
    report = export(module, example, out=tmp_path / "model.onnx", **options)
    assert report.verification.passed
    assert all(part.training for part in module.modules())
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert kept is None or torch.equal(kept.detach(), values)
    given = tuple(example.values()) if isinstance(example, Mapping) else example
    rows = [one.detach().numpy() for one in (given if isinstance(given, tuple) else (given,))]
    answer = OnnxPredictor(tmp_path / "model.onnx").run(*rows)
    assert list(answer) == list(options.get("output_names", ["output"]))
    assert all(len(one) == 4 for one in answer.values())


REFUSED: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], str]] = {
    "integers beyond the table, in the example": (
        lambda: nn.Embedding(5, 2), torch.tensor([[0, 9]]), {},
        "Embedding does not take an example of shape [1, 2]: index out of range",
    ),
    "integers beyond the table, in held-out rows": (
        lambda: nn.Embedding(5, 2), torch.tensor([[0, 1]]), {"rows": np.array([[0, 9], [1, 2]])},
        "Embedding does not take these rows: index out of range",
    ),
    "no input": (lambda: nn.ReLU(), (), {}, "example holds no tensor"),
    "None": (lambda: Calls(lambda _, x: None), X, {}, "Calls gives NoneType, not a tensor"),
    "a number": (lambda: Calls(lambda _, x: 3.0), X, {}, "Calls gives float, not a tensor"),
    "a sum over the batch": (
        lambda: Calls(lambda _, x: x.sum()), X, {}, "output 'output' of Calls is [] for 3 rows: its first dimension",
    ),
    "a constant": (
        lambda: Calls(lambda _, x: torch.ones(3)), X, {}, "output 'output' of Calls is [3] for 2 rows: its first",
    ),
    "the batch last": (lambda: Calls(lambda _, x: x.t()), X, {}, "output 'output' of Calls is [3, 2] for 2 rows"),
    "complex numbers": (lambda: Calls(lambda _, x: torch.fft.fft(x)), X, {}, "output 'output' of Calls is complex"),
    "random numbers": (
        lambda: Calls(lambda _, x: x + torch.randn_like(x)), X, {}, "output 'output' of Calls differs between two",
    ),
    "a state": (
        lambda: Calls(lambda m, x: x * m.count.add_(1), count=torch.ones(1)), X, {},
        "output 'output' of Calls differs between two",
    ),
    "a branch on values": (
        lambda: Calls(lambda _, x: x if x.sum() > 0 else -x), X, {}, "Calls cannot be converted to ONNX: ",
    ),
    "float64": (lambda: nn.Linear(3, 2).double(), X, {}, "Linear does not take an example of shape [4, 3]: "),
    "NaN everywhere": (lambda: spoilt(float("nan")), X, {}, "output 'output' is not finite for any row"),
    "meta": (lambda: nn.Linear(3, 2, device="meta"), X, {}, "weight of Linear has no values"),
    "lazy": (lambda: nn.LazyLinear(2), X, {}, "weight of LazyLinear has no values"),
    "a script": (
        lambda: torch.jit.trace(nn.ReLU(), X), X, {}, "TopLevelTracedModule is not a torch.nn.Module in Python",
    ),
    "a function": (lambda: torch.relu, X, {}, "builtin_function_or_method is not a torch.nn.Module in Python"),
    "a line break in a name": (lambda: nn.ReLU(), X, {"input_names": "a\nb"}, "'a\\nb' is not a usable name"),
    "a zero byte in a name": (lambda: nn.ReLU(), X, {"output_names": ["a\0"]}, "'a\\x00' is not a usable name"),
    "an error of its own": (lambda: Calls(lambda _, x: 1 / 0), X, {}, "Calls does not take an example of shape [4, 3]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line_and_an_existing_file_stays(name: str, tmp_path: Path) -> None:
    make, example, options, message = REFUSED[name]
    file = tmp_path / "model.onnx"
    file.write_bytes(OLD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit, of itself
        module = make()
    with pytest.raises(LrdiffError) as caught:
        export(module, example, out=file, **options)
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message + caught.value.help
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert file.read_bytes() == OLD


def test_the_help_names_what_to_change(tmp_path: Path) -> None:
    for module, told in (
        (nn.Linear(3, 2).half(), "its weights are float16: export module.float(), or cast inside the module"),
        (spoilt(float("inf")), "look at weight, which holds NaN or infinity"),
    ):
        with pytest.raises(LrdiffError) as caught:
            export(module, X.abs() + 1, out=tmp_path / "model.onnx")
        assert caught.value.help == told


class Projected(nn.Module):
    """torch's exporter gives the state of such an LSTM a wrong width: the file loads, and does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, proj_size=2, batch_first=True)

    def forward(self, steps: Tensor) -> Tensor:
        return self.lstm(steps)[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch, of its own speed
def test_a_file_that_loads_and_does_not_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed) as caught:
        export(seeded(Projected), torch.tensor(rows_of(4, 5, 3)), out=tmp_path / "model.onnx")
    assert "onnxruntime failed: " in caught.value.message
    assert caught.value.diagnosis is None
    assert list(tmp_path.iterdir()) == []


def test_a_branch_on_the_batch_size_is_seen(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Calls branches on the number of rows, and only batches of up to 3 take"):
        export(Calls(lambda _, x: x if x.shape[0] > 3 else -x), X, out=tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_gave_its_name_to_a_port_is_still_diagnosed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert_wrong(prepared: Prepared, **options: Any) -> Converted:
        converted = convert(prepared, **options)
        (relu,) = (node for node in converted.model.graph.node if node.op_type == "Relu")
        relu.op_type = "Softplus"
        return converted

    monkeypatch.setattr(publishing, "convert", convert_wrong)
    with pytest.raises(VerificationFailed) as caught:
        export(seeded(linear_relu), X, out=tmp_path / "model.onnx", output_names=["relu"])
    assert caught.value.diagnosis is not None
    first = caught.value.diagnosis.first
    assert (first.value, first.operator, first.module) == ("relu.inside", "Softplus", "1 (ReLU)")


def test_the_names_of_a_file_are_those_asked_for(tmp_path: Path) -> None:
    export(seeded(linear_relu), X, out=tmp_path / "model.onnx", input_names="0.weight", output_names=["linear"])
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert ([one.name for one in graph.input], [one.name for one in graph.output]) == (["0.weight"], ["linear"])
    assert {tensor.name for tensor in graph.initializer} == {"0.weight.inside", "0.bias", "2.weight", "2.bias"}
