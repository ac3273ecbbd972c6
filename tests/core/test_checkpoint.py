"""Checkpoints go there and back, and a damaged or foreign one is refused in one line."""

import dataclasses
import json
import tracemalloc

import pytest
import safetensors.torch
import torch

from lrdiff_core.checkpoint import load_checkpoint, save_checkpoint
from lrdiff_core.data import ColumnSpec
from lrdiff_core.errors import CheckpointError
from lrdiff_core.model import ModelSpec, build_model


@pytest.fixture
def net():
    spec = ModelSpec(features=2, hidden=(3,), outputs=1, task="binary", feature_names=("a", "b"), classes=("0", "1"),
                     target_name="y")  # fmt: skip
    return build_model(spec, seed=0)


def refusal(file):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(file)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_weights_and_info_come_back_bit_for_bit(net, tmp_path):
    save_checkpoint(tmp_path / "m.safetensors", net, info={"rates": {"layer1": 0.01}})
    again, info = load_checkpoint(tmp_path / "m.safetensors")
    assert info == {"rates": {"layer1": 0.01}}
    assert again.spec == net.spec
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    assert not again.training


def test_the_same_model_gives_the_same_bytes(net, tmp_path):
    written = set()
    for i in range(10):  # safetensors orders several metadata keys at random
        save_checkpoint(tmp_path / str(i), net, info={"a": 1, "b": 2})
        written.add((tmp_path / str(i)).read_bytes())
    assert len(written) == 1


def test_a_missing_file_is_named(tmp_path):
    assert refusal(tmp_path / "no.safetensors") == f"no checkpoint at {tmp_path / 'no.safetensors'}"


@pytest.mark.parametrize("keep", [0, 4, 20, 0.5, 0.99])
def test_a_truncated_file_is_refused(net, tmp_path, keep):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, net)
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert refusal(file).startswith(f"{file} is damaged or not a safetensors file: ")


def test_a_pickle_is_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "m.safetensors")
    assert "is damaged or not a safetensors file" in refusal(tmp_path / "m.safetensors")


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    file = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"x": torch.ones(1)}, file)
    assert refusal(file) == f"{file} is a safetensors file, but not a checkpoint of lrdiff"


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "[]", "null", '{"version": 1}', '{"version": 1, "model": []}'])
def test_a_header_that_is_none_is_refused(net, tmp_path, text):
    file = tmp_path / "m.safetensors"
    safetensors.torch.save_file(dict(net.state_dict()), file, metadata={"lrdiff.checkpoint": text})
    assert "has a damaged header: " in refusal(file)


def test_a_changed_byte_is_noticed(net, tmp_path):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, net, info={"impute": "mean"})
    data = file.read_bytes()
    for at in (len(data) - 1, len(data) - 40, data.index(b"impute") + 12):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert refusal(file) == f"{file} is damaged: its content is not what was written"


def test_a_file_of_an_earlier_version_has_no_checksum(net, tmp_path):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, net)
    rewrite(file, lambda header, tensors: None)
    assert load_checkpoint(file)[0].spec == net.spec


def rewrite(file, change):
    """Write the checkpoint again with a changed header and the same tensors."""
    with safetensors.safe_open(file, framework="pt") as opened:
        metadata, names = opened.metadata(), list(opened.keys())
        tensors = {name: opened.get_tensor(name) for name in names}
    header = json.loads(metadata["lrdiff.checkpoint"])
    del header["sha256"]
    change(header, tensors)
    safetensors.torch.save_file(tensors, file, metadata={"lrdiff.checkpoint": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h, t: h.update(version=99), "has checkpoint version 99, this program reads 1"),
        (lambda h, t: h.pop("model"), "has a damaged header: 'model'"),
        (lambda h, t: h["model"].pop("features"), "has a damaged header: "),
        (lambda h, t: t.pop("layer1.bias"), "does not fit its own model: layer1.bias"),
        (lambda h, t: h["model"].update(hidden=[4]), "does not fit its own model: layer1.bias is (3,)"),
        (lambda h, t: t.update({"layer1.bias": torch.ones(3, dtype=torch.float64)}), "does not fit its own model"),
        (lambda h, t: h["model"].update(hidden=[-1]), "has a damaged header: -1 is no size of a layer"),
        (lambda h, t: h["model"].update(hidden=[10**9]), "does not fit its own model: layer1.bias is (3,)"),
        (lambda h, t: h["model"].update(hidden=[1] * 100_000), "does not fit its own model: it has 2 of 100001 layers"),
        (lambda h, t: h["model"].update(features=10**9), "damaged header: 1000000000 features have 2 names"),
        (lambda h, t: h["model"].update(classes=["0"]), "damaged header: 'binary' with 1 output and 1 class"),
        (lambda h, t: h["model"].update(task="multiclass"), "damaged header: 'multiclass' with 1 output and 2 classes"),
        (lambda h, t: h["model"].update(task="regression"), "damaged header: 'regression' with 1 output and 2 classes"),
        (lambda h, t: h["model"].update(task=["binary"]), "damaged header: "),
        (lambda h, t: h["model"].update(classes=[0, 1]), "damaged header: classes is no text: 0"),
        (lambda h, t: h["model"].update(columns=[3, 4]), "damaged header: a column is described by 3"),
        (lambda h, t: h["model"].update(columns=[{"name": "b"}, {"name": "a"}]), "its columns are not its features"),
        (lambda h, t: h["model"].update(columns=[{"name": "a", "kind": "id"}, {"name": "b"}]), "which no model takes"),
        (lambda h, t: h["model"].update(feature_names="ab"), "damaged header: feature_names is no list: 'ab'"),
        (lambda h, t: h["model"].update(ids={"a": 1}), "damaged header: ids is no list"),
        (lambda h, t: h["model"].update(target_name="\ud800"), "surrogates not allowed"),
        (lambda h, t: h["model"].update(fills_missing="yes"), "damaged header: fills_missing is 'yes'"),
        (lambda h, t: h["model"].update(columns=[{"name": "a", "kind": "spell"}] * 2), "is of the kind 'spell'"),
        (lambda h, t: h.update(info=[]), "damaged header: info is no table"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_refused(net, tmp_path, change, said):
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, net)
    rewrite(file, change)
    assert said in refusal(file)


VALUES = (None, 2, True, 1.5, "bogus", "\ud800", [], {}, [1], ["\ud800"], [[]], {"a": "b"}, 10**12)
TAKEN = {"source": ["bogus"], "rule": ["bogus"], "categories": [[]], "missing": [[]], "lenient": [True]}


@pytest.mark.parametrize("field", [one.name for one in dataclasses.fields(ColumnSpec)])
def test_no_field_of_a_column_takes_what_it_is_not(net, tmp_path, field):
    file = tmp_path / "m.safetensors"
    for value in VALUES:
        save_checkpoint(file, net)
        columns = [{"name": "a", field: value}, {"name": "b"}]
        rewrite(file, lambda header, tensors, columns=columns: header["model"].update(columns=columns))
        if value in TAKEN.get(field, []):
            load_checkpoint(file)
        else:
            assert str(file) in refusal(file), value


@pytest.mark.parametrize(
    ("length", "fits", "said"),
    [
        (50_000, False, "does not fit its own model: layer1.weight is (3, 2)"),
        (50_000, True, ""),
        (500_000, True, "the names of what its first layer gets have 500000001 characters"),
    ],
)
def test_a_file_asks_for_no_more_than_a_few_times_its_size(net, tmp_path, length, fits, said):
    """Names of what the first layer gets: a long one stands before each of many categories."""
    file, name, width = tmp_path / "m.safetensors", "n" * length, 1000

    def change(header, tensors):
        column = {"name": name, "kind": "category", "categories": list(map(str, range(width)))}
        header["model"].update(columns=[column, {"name": "b"}], feature_names=[name, "b"])
        if fits:
            sizes = {"layer1.weight": (3, width + 1), "standardize.mean": (width + 1,)}
            sizes["standardize.inverse_std"] = (width + 1,)
            tensors.update({key: torch.ones(size) for key, size in sizes.items()})

    save_checkpoint(file, net)
    rewrite(file, change)
    tracemalloc.start()
    if said:
        assert said in refusal(file)
    else:
        load_checkpoint(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * file.stat().st_size
