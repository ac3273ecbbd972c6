"""A run folder names the factory of its model, and gets none imported that the user has not named, too."""

import shutil
import sys
from pathlib import Path

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.run.files import resuming
from lrdiff_bench.run.job import run_job
from lrdiff_bench.system.named_code import check_named, keep_named
from lrdiff_core import make_config
from lrdiff_core.errors import ConfigError

MODELS = """
import torch
from torch import nn

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def make():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), {"rows": X, "targets": (X.sum(1) > 0).long()}
"""
PAYLOAD = "open('ran', 'w').close()\nfrom own_factory import make\n"
COMMANDS = {
    "trace": ["trace", "{run}"],
    "export": ["export", "{run}", "--out", "model.onnx"],
    "parity": ["parity", "{run}"],
    "parity of a training": ["parity", "{run}", "--training"],
    "latency": ["latency", "{run}"],
    "lr-find": ["lr-find", "{run}"],
    "predict": ["predict", "{run}", "--data", "rows.npz"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a factory, and a run of its model that its user has trained."""
    folder = tmp_path_factory.mktemp("named")
    (folder / "own_factory.py").write_text(MODELS)
    (folder / "payload.py").write_text(PAYLOAD)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("XDG_STATE_HOME", str(folder / "state"))
        assert main(["train", "own_factory:make", "--epochs", "1", "--device", "cpu", "--out", "run"]) == 0
    return folder


@pytest.fixture
def run(made, monkeypatch):
    monkeypatch.chdir(made)
    monkeypatch.setenv("XDG_STATE_HOME", str(made / "state"))
    return made / "run"


def naming(run, factory, folder):
    """The same run as somebody hands it on, naming other code."""
    other = shutil.copytree(run, folder / "other")
    (other / "manifest.json").unlink()
    settings = other / "config.toml"
    settings.write_text(settings.read_text().replace("own_factory:make", factory))
    return other


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("factory", ["payload:make", "os:abort"])
def test_code_that_only_the_folder_names_is_not_run(run, tmp_path, capsys, command, factory):
    other = naming(run, factory, tmp_path)
    capsys.readouterr()
    assert main([word.format(run=other) for word in COMMANDS[command]]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].endswith(f"{other} names code to be run, {factory}, that you have not named yourself here")
    assert lines[-1] == f"help: if you trust it, name it once: lrdiff rates {factory}"
    assert not (run.parent / "ran").exists()


@pytest.mark.parametrize(
    "factory", [":x", ".:x", ".a:x", "", "a b:c", "\x00:x", "x" * 5000 + ":x", "é:x", "own_factory"]
)
def test_what_is_no_name_of_a_module_is_refused_without_a_fault(tmp_path, factory):
    with pytest.raises(ConfigError, match="names code to be run"):
        check_named(factory, tmp_path)


def test_a_user_without_a_home_has_named_nothing(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    keep_named("json:loads")
    with pytest.raises(ConfigError, match="names code to be run"):
        check_named("json:loads", tmp_path)


def test_what_was_named_once_is_known_by_its_file(run, tmp_path, capsys, monkeypatch):
    trace = ["trace", str(run)]
    assert main(trace) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    assert main(trace) == 2
    assert main(["rates", "own_factory:make"]) == 0
    assert main(trace) == 0
    shutil.copy(run.parent / "own_factory.py", tmp_path / "own_factory.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_factory")
    assert main(trace) == 2
    assert "names code to be run, own_factory:make" in capsys.readouterr().err


class Stops:
    """A watcher that is interrupted after the second epoch."""

    def stage(self, name, section):
        pass

    def progress(self, name, done, total, note):
        if done == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_does_not_name_code_either(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(resuming, "INTERVAL_SECONDS", 0.0)
    settings = {"model": "own_factory:make", "epochs": 3, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        run_job(make_config(settings), out=Path("cut"), stages=(), watcher=Stops())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    capsys.readouterr()
    assert main(["train", "--resume", "cut"]) == 2
    assert "cut names code to be run, own_factory:make" in capsys.readouterr().err
    assert main(["rates", "own_factory:make"]) == 0
    assert main(["train", "--resume", "cut"]) == 0


def test_a_home_that_cannot_be_written_stops_no_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "own_factory.py").write_text(MODELS)
    assert main(["train", "own_factory:make", "--epochs", "1", "--device", "cpu", "--out", "run"]) == 0
    assert main(["trace", "run"]) == 2
