"""Models past one file's limit, which is lowered here: weights in a second file, published and read with care."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_models import rows_of, seeded
from torch import nn

from lrdiff_core.errors import ConfigError, LrdiffError, ModelFileError
from lrdiff_export import (
    OnnxPredictor,
    VerificationFailed,
    convert_to_onnx,
    export,
    inspect_untrusted,
    load_onnx,
    measure_latency,
    read_model_card,
    run_untrusted,
    subject_of_file,
    verify_golden,
    verify_onnx,
)
from lrdiff_export.model.prepared import prepare
from lrdiff_export.onnx_file import external_data
from lrdiff_export.onnx_file.convert import convert
from lrdiff_export.parity.parity import check_subjects
from lrdiff_export.publish import export as publishing, files
from lrdiff_export.runtimes.javascript.workers import WORKER
from lrdiff_export.runtimes.sandbox import BYTES, Limits
from lrdiff_export.verify.golden import golden_paths

LIMIT = 8_000  # bytes
ROWS = rows_of(40, 64)


def large() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 2))


@pytest.fixture(autouse=True)
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "ONE_FILE", LIMIT)


def exported(folder: Path, seed: int = 0, **options: Any) -> Any:
    example = torch.tensor(ROWS[:2])
    return export(seeded(large, seed), example, out=folder / "model.onnx", rows=ROWS, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("external")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_data, "ONE_FILE", LIMIT)
        return folder, exported(folder)


@pytest.fixture
def model(made: tuple[Path, Any], tmp_path: Path) -> Path:
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "model.onnx"


def weights_of(model: Path) -> Path:
    (found,) = model.parent.glob("model.onnx.*.data")
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_files_are_published_and_everything_says_both_hashes(made: tuple[Path, Any]) -> None:
    folder, report = made
    file, data = folder / "model.onnx", weights_of(folder / "model.onnx")
    assert names(folder) == ["model.golden.json", "model.golden.npz", "model.onnx", data.name]
    assert data.name == f"model.onnx.{sha256(data)[:16]}.data"
    assert (report.sha256, report.size) == (sha256(file), file.stat().st_size)
    assert report.data == external_data.DataFile(name=data.name, sha256=sha256(data), size=data.stat().st_size)
    assert report.to_dict()["data"]["sha256"] == sha256(data)
    assert read_model_card(file)["data_sha256"] == sha256(data)
    document = json.loads(golden_paths(file)[1].read_text())
    assert (document["model_sha256"], document["data"]["sha256"]) == (sha256(file), sha256(data))
    tensors = onnx.load(file, load_external_data=False).graph.initializer
    places = {t.name: {e.key: e.value for e in t.external_data} for t in tensors}
    assert {one["location"] for one in places.values() if one} == {data.name}
    assert all(int(one["offset"]) % external_data.ALIGNMENT == 0 for one in places.values() if one)
    assert {name for name, one in places.items() if one} == {"0.weight", "2.weight"}  # the rest is small
    assert str(folder).encode() not in file.read_bytes() + data.read_bytes()


@pytest.mark.slow
def test_every_reader_answers_as_the_module_does(model: Path) -> None:
    module = seeded(large)
    right = module(torch.tensor(ROWS)).detach().numpy()
    np.testing.assert_allclose(OnnxPredictor(model).run(ROWS)["output"], right, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(OnnxPredictor(load_onnx(model)).run(ROWS)["output"], right, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run_untrusted(model, [ROWS])[0], right, rtol=1e-4, atol=1e-6)
    assert inspect_untrusted(model).outputs[0][0] == "output"
    assert verify_golden(model).passed
    assert verify_onnx(model, module, rows=ROWS).passed
    assert len(measure_latency(model, ROWS, module=module, batches=(1,), calls=3).times) == 3
    checked = check_subjects({"file": subject_of_file(model)}, backends=["onnxruntime", "onnxruntime-disabled"])
    assert [result.status for result in checked["file"].results] == ["agrees", "agrees"]


def test_openvino_reads_it(model: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    assert verify_golden(model, runtime="openvino").problems == ()


@pytest.mark.slow
def test_onnxruntime_web_reads_it(model: Path, javascript: Path) -> None:
    assert verify_golden(model, runtime="onnxruntime-web").problems == ()
    command = ["node", str(WORKER), str(model)]
    ran = subprocess.run(command, cwd=javascript, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    spoil(weights_of(model))
    ran = subprocess.run(command, cwd=javascript, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "do not belong together" in ran.stderr


def test_it_may_be_moved_and_renamed_and_reached_through_a_link(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = model.parent / "elsewhere"
    moved.mkdir()
    shutil.copy(weights_of(model), moved)
    shutil.copy(model, moved / "shop.onnx")
    monkeypatch.chdir(moved)
    assert OnnxPredictor("shop.onnx").run(ROWS)["output"].shape == (40, 2)
    monkeypatch.chdir(model.parent)
    (model.parent / "link").symlink_to(moved)
    assert OnnxPredictor("link/shop.onnx").run(ROWS)["output"].shape == (40, 2)


def test_two_exports_give_the_same_bytes(made: tuple[Path, Any], tmp_path: Path) -> None:
    exported(tmp_path)
    assert names(tmp_path) == names(made[0])
    assert all((tmp_path / name).read_bytes() == (made[0] / name).read_bytes() for name in names(tmp_path))


@pytest.mark.slow
def test_weights_of_a_replaced_model_go_and_those_of_others_stay(model: Path) -> None:
    old = weights_of(model)
    other = model.parent / "other.onnx.0123456789abcdef.data"
    other.write_bytes(b"another model's")
    mine = model.parent / "model.onnx.mine.data"
    mine.write_bytes(b"whatever a user keeps")
    exported(model.parent, seed=1)
    assert not old.exists()
    assert other.exists()
    assert mine.exists()
    assert verify_golden(model).passed
    export(nn.Linear(3, 1), torch.zeros(1, 3), out=model)
    assert names(model.parent) == ["model.golden.json", "model.golden.npz", "model.onnx", mine.name, other.name]


def test_a_failed_verification_leaves_both_files_as_they_were(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (model.parent / name).read_bytes() for name in names(model.parent)}
    other = prepare(seeded(large, 5), torch.tensor(ROWS), output_names=["output"])
    monkeypatch.setattr(publishing, "convert", lambda _, **options: convert(other, **options))
    with pytest.raises(VerificationFailed) as caught:
        exported(model.parent, seed=1)
    assert caught.value.diagnosis is not None
    assert caught.value.diagnosis.first.operator == "Gemm"
    assert {name: (model.parent / name).read_bytes() for name in names(model.parent)} == before


@pytest.mark.slow
@pytest.mark.parametrize(("existing", "renames"), [(False, 1), (False, 3), (True, 0), (True, 1), (True, 3)])
def test_a_failure_between_the_renames_leaves_no_part(
    model: Path, existing: bool, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model.parent if existing else model.parent / "new"
    folder.mkdir(exist_ok=True)
    before = names(folder)
    real, left = os.replace, [renames]

    def replace(source: Any, target: Any) -> None:
        if Path(target).name.startswith("model.") and Path(target).parent == folder:
            if not left[0]:
                raise RuntimeError("power lost")
            left[0] -= 1
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(RuntimeError, match="power lost"):
        exported(folder, seed=1)
    after = [name for name in names(folder) if "golden" not in name]
    assert after == [name for name in before if "golden" not in name]
    if existing:
        assert OnnxPredictor(model).run(ROWS)["output"].shape == (40, 2)  # the old model, with its old weights


def test_a_file_that_changed_on_the_disk_before_its_rename_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files._write_bytes

    def spoilt(path: Path, data: bytes, name: Path | None = None) -> None:
        real(path, data, name)
        for weights in path.parent.glob("*.data"):
            spoil(weights)

    monkeypatch.setattr(files, "_write_bytes", spoilt)
    with pytest.raises(ModelFileError, match="is not the file that"):
        exported(tmp_path)
    assert names(tmp_path) == []


KILLED = """
import os, pathlib, shutil, signal, sys
import torch
from export_models import rows_of, seeded
from lrdiff_export import export
from lrdiff_export.onnx_file import external_data
from test_export_external import LIMIT, ROWS, large

torch.set_num_threads(1)
external_data.ONE_FILE = LIMIT
real = os.replace
for moment in range(4):
    folder = pathlib.Path(f"moment{moment}")
    shutil.copytree("old", folder)
    child = os.fork()
    if child == 0:
        left = [moment]

        def replace(source, target):
            if pathlib.Path(target).parent.resolve() == folder.resolve() and ".tmp" not in str(target):
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
            real(source, target)

        os.replace = replace
        export(seeded(large, 1), torch.tensor(ROWS[:2]), out=folder / "model.onnx", rows=ROWS)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
def test_a_kill_at_any_rename_leaves_the_old_pair_whole(made: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(made[0], tmp_path / "old")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-W", "ignore", "-c", KILLED]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert ran.returncode == 0, ran.stderr
    old = OnnxPredictor(made[0] / "model.onnx").run(ROWS)["output"]
    for moment in range(4):
        file = tmp_path / f"moment{moment}" / "model.onnx"
        np.testing.assert_array_equal(OnnxPredictor(file).run(ROWS)["output"], old)
        assert verify_golden(file).passed  # the older model's own vectors
    exported(tmp_path / "moment3", seed=1)  # what the killed one left is not in its way
    assert verify_golden(tmp_path / "moment3" / "model.onnx").passed
    assert len(list((tmp_path / "moment3").glob("*.data"))) == 1


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)


def entry(key: str, value: str | None) -> Callable[[Path], None]:
    """Give the first tensor in the other file another entry."""

    def change(model: Path) -> None:
        proto = onnx.load(model, load_external_data=False)
        tensor = next(one for one in proto.graph.initializer if one.external_data)
        kept = [(one.key, one.value) for one in tensor.external_data if one.key != key]
        del tensor.external_data[:]
        for name, text in [*kept, *([] if value is None else [(key, value)])]:
            tensor.external_data.add(key=name, value=text)
        model.write_bytes(proto.SerializeToString())

    return change


def everywhere(location: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        proto = onnx.load(model, load_external_data=False)
        for tensor in proto.graph.initializer:
            for one in tensor.external_data:
                if one.key == "location":
                    one.value = location
        model.write_bytes(proto.SerializeToString())

    return change


def linked(hard: bool) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        weights = weights_of(model)
        kept = weights.rename(model.parent / "kept")
        weights.symlink_to(kept) if not hard else os.mkfifo(weights)

    return change


def without_hash(model: Path) -> None:
    proto = onnx.load(model, load_external_data=False)
    kept = [one for one in proto.metadata_props if one.key != external_data.HASH_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    model.write_bytes(proto.SerializeToString())


def dims(*shape: int) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        proto = onnx.load(model, load_external_data=False)
        next(one for one in proto.graph.initializer if one.external_data).dims[:] = shape
        model.write_bytes(proto.SerializeToString())

    return change


def in_an_attribute(model: Path) -> None:
    proto = onnx.load(model, load_external_data=False)
    constant = onnx.helper.make_node("Constant", [], ["elsewhere"])
    tensor = next(one for one in proto.graph.initializer if one.external_data)
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(tensor)
    constant.attribute.append(attribute)
    proto.graph.node.insert(0, constant)
    model.write_bytes(proto.SerializeToString())


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "above": (everywhere("../secret.data"), "keeps weights outside its folder: '../secret.data'"),
    "absolute": (everywhere("/etc/passwd"), "keeps weights outside its folder: '/etc/passwd'"),
    "another drive": (everywhere("C:secret"), "keeps weights outside its folder: 'C:secret'"),
    "the folder": (everywhere("."), "keeps weights outside its folder: '.'"),
    "no name": (everywhere(""), "keeps weights outside its folder: ''"),
    "a zero byte": (everywhere("a\0b"), "keeps weights outside its folder: 'a\\x00b'"),
    "missing": (lambda model: weights_of(model).unlink(), "No such file or directory"),
    "two files": (entry("location", "other.data"), "keeps weights in 2 other files"),
    "a link": (linked(False), "is not a regular file"),
    "a pipe": (linked(True), "is not a regular file"),
    "one bit changed": (lambda model: spoil(weights_of(model)), "is not the file that"),
    "cut": (lambda model: os.truncate(weights_of(model), 20_000), "is shorter than"),
    "an offset beyond": (entry("offset", "99999999"), "is shorter than"),
    "a negative offset": (entry("offset", "-4096"), "does not say where its weights are in the other file"),
    "an endless offset": (entry("offset", "9" * 5000), "does not say where its weights are in the other file"),
    "no length": (entry("length", None), "does not say where its weights are in the other file"),
    "a length of another shape": (entry("length", "16380"), "declares weights of another size"),
    "a huge shape": (dims(2**40, 2**20), "declares weights of another size"),
    "a negative shape": (dims(-64, -64), "declares weights of another size"),
    "overlap": (entry("offset", "4096"), "overlap in"),
    "no hash": (without_hash, "does not record its hash"),
    "in an attribute": (in_an_attribute, "keeps something other than weights in another file"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_second_file_ends_in_one_line_wherever_it_is_opened(name: str, model: Path) -> None:
    change, message = ATTACKS[name]
    change(model)
    readers: list[Callable[[Path], Any]] = [load_onnx, inspect_untrusted, OnnxPredictor, verify_golden, read_model_card]
    for read in readers:
        with pytest.raises(ModelFileError) as caught:
            read(model)
        assert message in caught.value.message
        assert "\n" not in caught.value.message + caught.value.help
        assert len(caught.value.message) < 400


def test_the_golden_vectors_see_other_weights_even_if_a_runtime_does_not_look(model: Path) -> None:
    spoil(weights_of(model))
    golden = {name: np.zeros((1, 2), np.float32) for name in ("output",)}
    report = verify_golden(model, runtime=lambda path, feeds: golden)
    assert report.problems[-1] == f"{weights_of(model).name} is not the file that the golden vectors were written for"
    document = golden_paths(model)[1]
    said = json.loads(document.read_text())
    said["data"]["name"] = "../secret"
    document.write_text(json.dumps(said))
    with pytest.raises(ModelFileError, match="is not a file in the same folder"):
        verify_golden(model)


def test_holes_buy_a_hostile_file_neither_time_nor_memory(model: Path) -> None:
    """A model with weights of 1 GiB of nothing: its limits are those of what lies on the disk."""
    weights, proto = weights_of(model), onnx.load(model, load_external_data=False)
    tensor = next(one for one in proto.graph.initializer if one.external_data)
    huge = proto.graph.initializer.add(name="unused", data_type=1, data_location=tensor.data_location, dims=[2**28])
    for key, value in (("location", weights.name), ("offset", str(2**20)), ("length", str(2**30))):
        huge.external_data.add(key=key, value=value)
    model.write_bytes(proto.SerializeToString())
    os.truncate(weights, 2**30 + 2**20)
    found = load_onnx(model, hashed=False)
    assert found.weights < 2**20
    assert Limits().with_weights(found.weights).bytes < BYTES + 3 * 2**20
    with pytest.raises(ModelFileError) as caught:
        inspect_untrusted(model, limits=Limits(seconds=1))
    assert "takes longer than 1" in caught.value.message or "is not the file that" in caught.value.message


def test_limits_grow_with_the_weights_that_are_there(model: Path) -> None:
    assert Limits(seconds=4, bytes=100).with_weights(10**8) == Limits(seconds=6, bytes=100 + 3 * 10**8)
    assert inspect_untrusted(model, limits=Limits(bytes=2**28)).inputs[0][0] == "features"


def test_bytes_alone_and_one_file_are_refused_with_what_to_do(made: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        OnnxPredictor((made[0] / "model.onnx").read_bytes())
    assert caught.value.message == "the model keeps weights in another file"
    with pytest.raises(ConfigError) as refused:
        convert_to_onnx(large(), example=torch.zeros(1, 64))
    assert refused.value.help == "use lrdiff_export.export, which writes the weights into a second file"
    with pytest.raises(ConfigError, match="variants are made of models up to 2 GiB"):
        exported(tmp_path, variants=["fp32", "fp16"])
    assert names(tmp_path) == []


def test_constants_of_the_graph_count_too(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows @ torch.linspace(0, 1, 64 * 64).reshape(64, 64)

    with pytest.raises(LrdiffError, match="GiB of weights, and one ONNX file at most 2 GiB"):
        export(Constant(), torch.zeros(1, 64), out=tmp_path / "model.onnx")
    assert names(tmp_path) == []


def test_only_small_tensors_stay_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "ONE_FILE", 10)
    report = export(nn.Linear(3, 2), torch.zeros(1, 3), out=tmp_path / "model.onnx", golden=False)
    assert report.data is None
    assert names(tmp_path) == ["model.onnx"]
    assert OnnxPredictor(tmp_path / "model.onnx").run(np.zeros((1, 3), np.float32))["output"].shape == (1, 2)
