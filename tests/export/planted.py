"""Ten kinds of models that standardise raw rows first, and the faults that a verification must see."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
import torch
from export_models import rows_of
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


class Standardised(nn.Module):
    """(row - mean) * inverse_std, then the model: raw rows in."""

    def __init__(self, inner: nn.Module, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1.0, 3.0, shape[-1]).expand(shape).clone())
        self.register_buffer("inverse_std", torch.linspace(0.5, 2.0, shape[-1]).expand(shape).clone())
        self.inner = inner

    def forward(self, rows: Tensor) -> Tensor:
        return self.inner((rows - self.mean) * self.inverse_std)


def mlp(activation: type[nn.Module], *widths: int, last: nn.Module | None = None) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation()]
        return Standardised(nn.Sequential(*layers[:-1], *([last] if last else [])), widths[0])

    return make


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(64, 3)
        nn.init.uniform_(self.norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.max_pool2d(torch.relu(self.norm(self.conv(images))), 2).flatten(1))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.block(tokens)[:, 0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, steps: Tensor) -> Tensor:
        return torch.tanh(self.head(self.lstm(steps)[0][:, -1]))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.drop, self.bias = nn.Linear(10, 6), nn.Dropout(), nn.Parameter(torch.randn(10))

    def forward(self, rows: Tensor) -> Tensor:
        return self.drop(torch.relu(self.encode(rows))) @ self.encode.weight + self.bias


KINDS: dict[str, tuple[Callable[[], nn.Module], np.ndarray]] = {
    "binary": (mlp(nn.ReLU, 10, 5, 1, last=nn.Sigmoid()), rows_of(100, 10)),
    "multi-class": (mlp(nn.ReLU, 10, 8, 4, last=nn.Softmax(dim=1)), rows_of(100, 10)),
    "regression": (mlp(nn.ReLU, 10, 16, 1), rows_of(100, 10)),
    "tanh": (mlp(nn.Tanh, 6, 12, 2), rows_of(100, 6)),
    "gelu": (mlp(nn.GELU, 6, 12, 12, 2), rows_of(100, 6)),
    "deep": (mlp(nn.ReLU, 10, 16, 16, 16, 16, 3), rows_of(100, 10)),
    "convolution": (lambda: Standardised(Convolutional(), 2, 8, 8), rows_of(60, 2, 8, 8)),
    "attention": (lambda: Standardised(Attending(), 5, 16), rows_of(60, 5, 16)),
    "LSTM": (lambda: Standardised(Recurrent(), 7, 6), rows_of(60, 7, 6)),
    "tied": (lambda: Standardised(Tied(), 10), rows_of(100, 10)),
}
SEEDS = (0, 1)


def initializer(model: onnx.ModelProto, choose: Callable[[onnx.TensorProto], bool]) -> onnx.TensorProto:
    return [tensor for tensor in model.graph.initializer if choose(tensor)][-1]


def edit(tensor: onnx.TensorProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    values = change(numpy_helper.to_array(tensor).copy()).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def one_weight_off(model: onnx.ModelProto) -> None:
    """The largest weight of the last layer by 1 %: in earlier ones a weight may lead to a dead unit."""

    def change(values: np.ndarray) -> np.ndarray:
        values.flat[np.abs(values).argmax()] *= 1.01
        return values

    last = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1]
    edit(initializer(model, lambda tensor: tensor.name == last.input[1]), change)


def dropped_bias(model: onnx.ModelProto) -> None:
    biases = initializer(model, lambda t: len(t.dims) == 1 and "bias" in t.name and "norm" not in t.name)
    edit(biases, np.zeros_like)


def wrong_mean(model: onnx.ModelProto) -> None:
    edit(initializer(model, lambda tensor: tensor.name == "mean"), lambda mean: mean + 1e-3)


SWAPPED = {"Relu": "Softplus", "Tanh": "Softsign", "Gelu": "Relu"}


def swapped_activation(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type in SWAPPED)
    node.op_type = SWAPPED[node.op_type]
    del node.attribute[:]


def bfloat16_arithmetic(model: onnx.ModelProto) -> None:
    """Round every intermediate to bfloat16; ONNX Runtime has no bfloat16 kernels on the CPU."""
    typed = onnx.shape_inference.infer_shapes(model).graph
    floats = {v.name for v in (*typed.value_info, *typed.output) if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for place, result in enumerate(node.output):
            if result in floats:
                node.output[place] = f"{result}_exact"
                nodes += [
                    helper.make_node("Cast", [f"{result}_exact"], [f"{result}_bf16"], to=TensorProto.BFLOAT16),
                    helper.make_node("Cast", [f"{result}_bf16"], [result], to=TensorProto.FLOAT),
                ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


FAULTS: list[Callable[[onnx.ModelProto], None]] = [
    one_weight_off,
    dropped_bias,
    swapped_activation,
    bfloat16_arithmetic,
    wrong_mean,
]
