"""Every kind of model that must pass: the zoo, compiled, trained with our own optimizer, and ten of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrdiff_export import export, verify_golden
from lrdiff_export.examples import ZOO

BATCH, TIME = 2, 8
IDS = np.random.default_rng(0).integers(2, 60, size=(24, TIME))
MASK = np.ones((24, TIME), np.int64)
MASK[::3, 5:] = 0
PIXELS = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo_is_published_and_its_golden_vectors_agree(name: str, tmp_path: Path) -> None:
    sample = ZOO[name]
    rows = tuple(sample.rows.values())
    file = tmp_path / "model.onnx"
    report = export(sample.module().train(), sample.example(), out=file, rows=rows, output_names=sample.outputs)
    assert report.verification.passed
    assert verify_golden(file).passed
    scale = report.verification.agrees_up_to
    assert scale is None if all(one.dtype.kind != "f" for one in rows) else scale >= 1e4


def test_tied_weights_stand_once_in_the_file(tmp_path: Path) -> None:
    import onnx

    sample = ZOO["dropout, buffer, tied"]
    export(sample.module(), sample.example(), out=tmp_path / "model.onnx", golden=False)
    model = onnx.load(tmp_path / "model.onnx")
    assert [tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2] == ["encode.weight"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile, of its own imports
def test_a_compiled_model_gives_the_same_file(tmp_path: Path) -> None:
    sample = ZOO["two inputs"]
    rows = tuple(sample.rows.values())
    compiled = torch.compile(sample.module(), backend="eager")
    plain = export(sample.module(), sample.example(), out=tmp_path / "plain.onnx", rows=rows)
    assert export(compiled, sample.example(), out=tmp_path / "compiled.onnx", rows=rows).sha256 == plain.sha256


def test_a_model_trained_with_our_flat_optimizer_is_published_as_trained(tmp_path: Path) -> None:
    from lrdiff_core.optim import AdamW

    sample = ZOO["main, binary"]
    module = sample.module()
    rows = torch.tensor(sample.rows["rows"])
    net = module.net
    optimizer = AdamW([
        {"params": list(net.layer1.parameters()), "lr": 1e-3},
        {"params": list(net.layer2.parameters()), "lr": 1e-2},
    ])  # fmt: skip
    before = net.layer1.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(net(rows), (rows[:, :1] > 2).float()).backward()
        optimizer.step()
    assert not torch.equal(before, net.layer1.weight)
    report = export(module, sample.example(), out=tmp_path / "model.onnx", rows=sample.rows["rows"])
    assert report.verification.passed


def text(**more: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": IDS, "attention_mask": MASK, **more}


SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
# Class of the model, class of its configuration, settings, inputs, output.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, np.ndarray]], str]] = {
    "Bert": ("ForSequenceClassification", SMALL, text, "logits"),
    "Roberta": ("ForSequenceClassification", {**SMALL, "pad_token_id": 1}, text, "logits"),
    "DistilBert": (
        "ForSequenceClassification",
        {"vocab_size": 64, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 32},
        text,
        "logits",
    ),
    "Albert": ("ForSequenceClassification", {**SMALL, "embedding_size": 8}, text, "logits"),
    "Electra": ("ForSequenceClassification", {**SMALL, "embedding_size": 8}, text, "logits"),
    "MobileBert": (
        "ForSequenceClassification",
        {**SMALL, "embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 1},
        text,
        "logits",
    ),
    "MPNet": ("ForSequenceClassification", {**SMALL, "pad_token_id": 1}, text, "logits"),
    "ViT": (
        "ForImageClassification",
        {
            **{k: v for k, v in SMALL.items() if "vocab" not in k and "position" not in k},
            "image_size": 16,
            "patch_size": 8,
        },
        lambda: {"pixel_values": PIXELS},
        "logits",
    ),
    "ConvNext": (
        "ForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2},
        lambda: {"pixel_values": PIXELS},
        "logits",
    ),
    "Llama": ("Model", {**SMALL, "num_key_value_heads": 1, "use_cache": False}, text, "last_hidden_state"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers, of its own deprecations
@pytest.mark.parametrize(
    "name", [name if name == "Bert" else pytest.param(name, marks=pytest.mark.long) for name in ARCHITECTURES]
)
def test_ten_architectures_of_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    suffix, settings, inputs, output = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(transformers, name + suffix)(getattr(transformers, f"{name}Config")(**settings)).eval()
    rows = inputs()
    example = {key: torch.tensor(one[:BATCH]) for key, one in rows.items()}
    report = export(module, example, out=tmp_path / "model.onnx", rows=rows, output_names=[output])
    assert report.verification.passed
    assert [port.name for port in report.inputs] == list(rows)
    assert {case.batch for case in report.verification.cases} >= {1, 2, 3, 7, 64, 1000}
    assert verify_golden(tmp_path / "model.onnx").passed


def test_there_are_ten_architectures() -> None:
    assert len(ARCHITECTURES) == 10
