"""Proof bundles: whole ones hold everywhere, changed ones nowhere; signatures, snippets and configurations are real."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from torch import nn

from lrdiff_core.errors import CheckFailed, ConfigError, DataError, LrdiffError, ModelFileError
from lrdiff_export import BACKENDS, ExportReport, export, verify_bundle
from lrdiff_export.onnx_file import external_data
from lrdiff_export.publish.bundle import PASSWORD, write_bundle
from lrdiff_export.publish.bundle_files import verify


class Kinds(nn.Module):
    """Integers, a mask and numbers in; scores and a label out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(6, 3)

    def forward(self, ids: torch.Tensor, kept: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        words = torch.where(kept.unsqueeze(-1), self.embed(ids), 0.0).sum(1)
        scores = self.head(torch.cat([words, x], 1))
        return scores, scores.argmax(1)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private and a public key, PEM."""
    pytest.importorskip("model_signing", reason="model-signing is not installed")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder, key = tmp_path_factory.mktemp("keys"), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "private.pem").write_bytes(private)
    (folder / "public.pem").write_bytes(public)
    return folder / "private.pem", folder / "public.pem"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    generator = torch.Generator().manual_seed(0)
    example = {
        "ids": torch.randint(0, 7, (8, 5), generator=generator),
        "kept": torch.rand(8, 5, generator=generator) < 0.7,
        "x": torch.randn(8, 2, generator=generator),
    }
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    return export(
        Kinds(), example, out=folder / "kinds.onnx", output_names=("scores", "label"), bundle=folder / "whole"
    )


@pytest.fixture(scope="module")
def whole(published: ExportReport) -> Path:
    assert published.bundle is not None
    return Path(published.bundle.path)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return shutil.copytree(whole, tmp_path / "bundle")


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rehash(folder: Path) -> None:
    """Write hashes into the manifest and the golden document that fit the changed files, as a forger would."""
    vectors = hashlib.sha256((folder / "kinds.golden.npz").read_bytes()).hexdigest()
    edit_json(folder / "kinds.golden.json", lambda one: one.update(vectors_sha256=vectors))

    def fit(manifest: Any) -> None:
        for name in manifest["files"]:
            data = (folder / name).read_bytes()
            manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    edit_json(folder / "manifest.json", fit)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def change_golden(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(folder / "kinds.golden.npz") as loaded:
        arrays = dict(loaded)
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (folder / "kinds.golden.npz").write_bytes(buffer.getvalue())


def forged(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(folder: Path) -> None:
        change(folder)
        rehash(folder)

    return both


def edited(name: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / name, change)


# What is done to a bundle -> what verify.py says. The later ones come with hashes that fit.
SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "the model": (lambda one: flip(one / "kinds.onnx"), "kinds.onnx is not the file"),
    "golden rows": (lambda one: flip(one / "kinds.golden.npz"), "kinds.golden.npz is not the file"),
    "budgets": (
        edited("kinds.golden.json", lambda one: one["outputs"][0].update(allowed=1e9)), "kinds.golden.json is not the"),
    "the proof": (edited("proof.json", lambda one: one["proven"].append("more")), "proof.json is not the file"),
    "the card": (lambda one: (one / "README.md").write_text("all is well"), "README.md is not the file"),
    "the verifier": (lambda one: flip(one / "verify.mjs"), "verify.mjs is not the file"),
    "a file more": (lambda one: (one / "snippets" / "more.py").write_text(""), "snippets/more.py is not in the"),
    "a hidden file more": (lambda one: (one / ".more").write_text(""), ".more is not in the manifest"),
    "a file less": (lambda one: (one / "serving" / "kserve.yaml").unlink(), "serving/kserve.yaml is missing"),
    "a link": (lambda one: (one / "linked").symlink_to(one / "README.md"), "linked is a link"),
    "a linked folder": (lambda one: (one / "linked").symlink_to(one.parent), "linked is a link"),
    "the manifest's hash": (
        edited("manifest.json", lambda one: one["files"]["kinds.onnx"].update(sha256="0" * 64)), "is not the file"),
    "an entry less": (edited("manifest.json", lambda one: one["files"].pop("README.md")), "README.md is not in the"),
    "no manifest": (lambda one: (one / "manifest.json").unlink(), "manifest.json cannot be read"),
    "no JSON": (lambda one: (one / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    "another version": (edited("manifest.json", lambda one: one.update(version=2)), "not the manifest of a bundle"),
    "a signature that is gone": (edited("manifest.json", lambda one: one.update(signature="model.sig")), "is missing"),
    "forged model": (forged(lambda one: flip(one / "kinds.onnx")), "belong to another file"),
    "forged budgets": (
        forged(edited("kinds.golden.json", lambda one: one["outputs"][0].update(allowed=1e9))), "arithmetic explains"),
    "NaN as budget": (
        forged(edited("kinds.golden.json", lambda one: one["outputs"][0].update(allowed=float("nan")))), "explains"),
    "forged answers": (
        forged(lambda one: change_golden(one, lambda a: a["output0"].__setitem__((3, 0), 9.0))), "off by"),
    "forged labels": (
        forged(lambda one: change_golden(one, lambda a: a["output1"].__iadd__(1))), "elements differ"),
    "an answer that is not finite": (
        forged(lambda one: change_golden(one, lambda a: a["output0"].__setitem__((3, 0), np.nan))), "nan"),
    "no golden rows": (
        forged(lambda one: change_golden(one, lambda a: a.update({k: v[:0] for k, v in a.items()}))), ""),
    "an output less": (
        forged(lambda one: edit_json(one / "kinds.golden.json", lambda d: d["outputs"].pop())), "not of this model's"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_changed_bundle_never_holds(spoiled: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, said = SPOILED[spoiled]
    assert verify.main([str(copy)]) == 0
    spoil(copy)
    capsys.readouterr()
    assert verify.main([str(copy)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("DOES NOT HOLD: ")
    assert said in out
    assert not holds_in_a_sandbox(copy)


def holds_in_a_sandbox(folder: Path) -> bool:
    try:
        return verify_bundle(folder).passed
    except (ModelFileError, DataError):
        return False


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a//b", "C:out", "a\\b", "model.sig"])
def test_a_manifest_names_files_inside_only(name: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_json(copy / "manifest.json", lambda one: one["files"].update({name: one["files"]["README.md"]}))
    assert verify.main([str(copy)]) == 1
    assert "not a file of a bundle" in capsys.readouterr().out


def test_a_key_that_stands_twice_is_refused_and_nothing_reaches_the_terminal_as_a_command(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"version": 1,', '"version": 2, "version": 1,', 1))
    assert verify.main([str(copy)]) == 1
    assert "names a key twice" in capsys.readouterr().out
    (copy / "manifest.json").write_text(text)
    (copy / "\x1b[2Jmore").write_text("")
    assert verify.main([str(copy)]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_a_stranger_needs_numpy_and_onnxruntime_alone(whole: Path, tmp_path: Path) -> None:
    for package in (np, onnxruntime):
        assert package.__file__ is not None
        found = Path(package.__file__).parent
        for one in (found, found.with_name(found.name + ".libs")):
            if one.exists():
                (tmp_path / one.name).symlink_to(one)
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: status = end.code\n"
        "print(sorted({'torch', 'onnx', 'lrdiff_export', 'lrdiff_core'} & set(sys.modules))); sys.exit(status)"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", "-c", code, str(whole / "verify.py")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("EVERYTHING HOLDS\n[]\n")
    for said in ("proven: the file answers as its module", "not proven: ", "unsigned", "scores: ", "label: ", "Python"):
        assert said in ran.stdout
    assert len((whole / "verify.py").read_text().splitlines()) < 210


def test_without_onnxruntime_it_says_what_is_missing(whole: Path) -> None:
    command = [sys.executable, "-S", whole / "verify.py"]
    ran = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "help: pip install numpy onnxruntime" in ran.stderr


@pytest.mark.slow
def test_node_says_the_same_as_python(
    whole: Path, tmp_path: Path, javascript: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node_modules").symlink_to(javascript / "node_modules")

    def node(folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["node", str(folder / "verify.mjs")], capture_output=True, text=True, check=False)

    spoiled = ("the proof", "a file more", "a file less", "a link", "forged model", "forged budgets", "forged answers",
               "forged labels", "a signature that is gone")  # fmt: skip
    fine = shutil.copytree(whole, tmp_path / "fine")
    ran = node(fine)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "replayed with onnxruntime-node\nEVERYTHING HOLDS" in ran.stdout
    for number, name in enumerate(spoiled):
        folder = shutil.copytree(whole, tmp_path / str(number))
        SPOILED[name][0](folder)
        ran = node(folder)
        assert ran.returncode == 1, name
        assert "DOES NOT HOLD: " in ran.stdout
    shown = subprocess.run(["node", fine / "snippets" / "predict.mjs"], capture_output=True, text=True, check=True)
    assert "scores float32 [ 2, 3 ]" in shown.stdout
    assert "label int64 [ 2 ]" in shown.stdout


def test_the_python_snippet_and_the_configurations_fit_the_model(whole: Path) -> None:
    command = [sys.executable, whole / "snippets" / "predict.py"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "scores float32 (2, 3)" in shown
    assert "label int64 (2,)" in shown
    for name in ("predict.cpp", "Predict.cs"):
        text = (whole / "snippets" / name).read_text()
        assert all(f'"{port}"' in text for port in ("ids", "kept", "x"))
    service = yaml.safe_load((whole / "serving" / "kserve.yaml").read_text())
    assert (service["kind"], service["metadata"]["name"]) == ("InferenceService", "kinds")


def test_triton_reads_its_configuration(whole: Path) -> None:
    tritonclient = pytest.importorskip("tritonclient", reason="tritonclient is not installed")
    schema = Path(tritonclient.__path__[0], "grpc", "model_config_pb2.py")  # the package itself would import gRPC
    spec = importlib.util.spec_from_file_location("triton_model_config", schema)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from google.protobuf import text_format

    config = text_format.Parse((whole / "serving" / "config.pbtxt").read_text(), module.ModelConfig())
    assert [(one.name, list(one.dims)) for one in config.input] == [("ids", [5]), ("kept", [5]), ("x", [2])]
    kinds = [module.DataType.Name(one.data_type) for one in (*config.input, *config.output)]
    assert kinds == ["TYPE_INT64", "TYPE_BOOL", "TYPE_FP32", "TYPE_FP32", "TYPE_INT64"]
    assert list(config.output[1].reshape.shape) == []
    assert config.output[1].HasField("reshape")


def test_the_card_says_what_was_checked_and_what_was_not(whole: Path) -> None:
    card = (whole / "README.md").read_text()
    proof = json.loads((whole / "proof.json").read_text())
    own = ("**The bundle is unsigned.**", "| input | `kept` | bool | [batch, 5]")
    for text in (*proof["proven"], *proof["outside"], *own):
        assert text in card
    for target in ("TensorRT", "Core ML", "ExecuTorch"):
        assert f"| {target} | not checked here" in card
    assert "--minShapes=ids:1x5,kept:1x5,x:1x2" in card
    assert len(proof["cases"]) == len({(one["name"], one["batch"], one["optimisation"]) for one in proof["cases"]}) > 9
    assert str(Path.home()) not in card + json.dumps(proof)


def test_zips_are_the_same_each_time_and_nothing_is_added_to_them(
    published: ExportReport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (tmp_path / name for name in ("one.zip", "two.zip"))
    for file in (first, second):
        write_bundle(published, file, runtimes=())
    assert first.read_bytes() == second.read_bytes()
    assert verify.main([str(first)]) == 0
    assert verify_bundle(first).passed
    with zipfile.ZipFile(second, "a") as archive:
        archive.writestr("more", "")
    assert verify.main([str(second)]) == 1
    assert "more is not in the manifest" in capsys.readouterr().out
    with zipfile.ZipFile(first) as source, zipfile.ZipFile(second, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert verify.main([str(second)]) == 1
    assert "compressed" in capsys.readouterr().out


def test_signatures_cover_every_file_and_the_manifest(
    published: ExportReport, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from model_signing import verifying

    private, public = keys
    folder = tmp_path / "signed"
    assert write_bundle(published, folder, key=private, runtimes=()).signed
    assert verify.main([str(folder)]) == 0
    assert "signed: model.sig" in capsys.readouterr().out
    options = ("--signature", folder / "model.sig", "--public_key", public)
    command = [sys.executable, "-m", "model_signing", "verify", "key", folder, *options]
    assert "Verification succeeded" in subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def holds(spoiled: Path) -> bool:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public)
        try:
            config.verify(spoiled, spoiled / "model.sig")
        except ValueError:
            return False
        return True

    assert holds(folder)
    names = ("the model", "the card", "a file more", "a file less", "an entry less", "forged answers")
    for number, name in enumerate(names):
        spoiled = shutil.copytree(folder, tmp_path / str(number))
        SPOILED[name][0](spoiled)
        assert not holds(spoiled), name
    (folder / "model.sig").unlink()
    assert verify.main([str(folder)]) == 1


def test_what_cannot_be_bundled_is_refused_before_it_is_converted(
    whole: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(said: str, **options: Any) -> None:
        with pytest.raises(LrdiffError, match=said):
            export(nn.Linear(2, 1), torch.zeros(1, 2), out=tmp_path / "model.onnx", **options)
        assert list(tmp_path.iterdir()) == before

    monkeypatch.delenv(PASSWORD, raising=False)
    (tmp_path / "no.pem").write_text("not a key")
    before = list(tmp_path.iterdir())
    refused("exists already", bundle=whole)
    refused("no folder", bundle=tmp_path / "none" / "b")
    refused("needs golden vectors", bundle=tmp_path / "b", golden=False)
    refused("no bundle to sign", sign_key=keys[0])
    refused("there is no private key", bundle=tmp_path / "b", sign_key=tmp_path / "none.pem")


def test_a_key_that_is_none_and_a_runtime_that_differs_leave_nothing(
    published: ExportReport, keys: tuple[Path, Path], tmp_path: Path, plant: Any
) -> None:
    with pytest.raises(ConfigError, match="cannot sign with"):
        write_bundle(published, tmp_path / "b", key=keys[1], runtimes=())
    kind = type(BACKENDS["onnxruntime"])

    def prepare(self: Any, model: Any) -> Any:
        predict = kind.prepare(self, model)  # type: ignore[attr-defined]
        return lambda *rows: [one + 1 for one in predict(*rows)]

    plant("wrong")(type("Wrong", (kind,), {"__module__": "mine", "prepare": prepare}))
    with pytest.raises(CheckFailed, match="answers the golden rows otherwise"):
        write_bundle(published, tmp_path / "b", runtimes=("wrong",))
    assert list(tmp_path.iterdir()) == []


def test_weights_in_a_second_file_travel_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "ONE_FILE", 8_000)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    report = export(module, torch.randn(4, 64), out=tmp_path / "model.onnx")
    write_bundle(report, tmp_path / "b.zip", runtimes=())
    assert report.data is not None
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert report.data.name in archive.namelist()
    assert verify.main([str(tmp_path / "b.zip")]) == 0
