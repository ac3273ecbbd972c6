"""The asv front: its configuration, how a commit is linked, and (slow) a regression found over two commits."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from asv import util
from asv.config import Config

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# Every option asv 0.6.6 knows, beside "version" and "build_cache_size", which it reads elsewhere. asv accepts any
# other key in silence and ignores it.
KNOWN = set(vars(Config())) | {"version", "build_cache_size"}


def settings() -> dict:
    return util.load_json(str(BENCHMARKS / "asv.conf.json"), 1, js_comments=True)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.parent.name if path.stem == "__init__" else path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_asv_really_accepts_unknown_keys() -> None:
    # The reason for the next test. Should asv begin to complain, that one can go.
    assert Config.from_json({"repo": ".", "instal_command": []}).instal_command == []


def test_config_holds_known_keys_and_the_ones_we_depend_on() -> None:
    keys = set(settings())
    assert keys <= KNOWN, f"asv ignores: {sorted(keys - KNOWN)}"
    needed = {"repo", "branches", "environment_type", "matrix", "build_command", "install_command", "uninstall_command"}
    assert needed <= keys
    assert "pythons" not in keys  # the Python at hand: 3.11 or newer


def test_commands_neither_build_nor_reinstall() -> None:
    config = Config.from_json(settings())
    # None would mean asv's defaults: a wheel with all dependencies built and installed again at every commit.
    assert config.build_command == []
    assert config.uninstall_command == []
    assert config.install_command == ["python {conf_dir}/link_commit.py {build_dir}"]
    assert config.environment_type == "virtualenv"
    assert config.launch_method == "forkserver"
    assert (BENCHMARKS / config.benchmark_dir / "__init__.py").is_file()
    ignored = (ROOT / ".gitignore").read_text().split()
    for folder in (config.env_dir, config.results_dir, config.html_dir):
        assert f"benchmarks/{folder}/" in ignored


def test_environment_is_pinned_to_the_known_set() -> None:
    matrix = settings()["matrix"]
    assert set(matrix) == {"req", "env_nobuild"}
    known = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower(), re.MULTILINE))
    pins = {name.removeprefix("pip+"): versions for name, versions in matrix["req"].items()}
    assert {"torch", "asv_runner"} <= set(pins)
    for name, versions in pins.items():
        assert versions == [known[name.lower()]], f"{name}: constraints.txt has {known[name.lower()]}"
    assert matrix["env_nobuild"]["OMP_NUM_THREADS"] == ["1"]


def test_config_holds_no_address() -> None:
    assert "://" not in (BENCHMARKS / "asv.conf.json").read_text()


def test_link_commit_makes_all_three_packages_importable(tmp_path: Path) -> None:
    link = load(BENCHMARKS / "link_commit.py").link
    path = link(ROOT, tmp_path)
    for package, folder in zip(("lrdiff_core", "lrdiff_export", "lrdiff_bench"), path.read_text().split(), strict=True):
        assert (Path(folder) / package / "__init__.py").is_file()
    # hatchling ships the same three: none may be forgotten here
    listed = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert listed is not None
    assert json.loads(listed[1]) == ["lrdiff_core", "export/lrdiff_export", "bench/lrdiff_bench"]
    with pytest.raises(SystemExit, match="holds no lrdiff_core"):
        link(tmp_path, tmp_path)


def test_suite_refuses_to_measure_another_checkout(tmp_path: Path, monkeypatch) -> None:
    suite = load(BENCHMARKS / "asv_suite" / "__init__.py")
    monkeypatch.setenv("ASV_ENV_TYPE", "virtualenv")
    monkeypatch.setenv("ASV_ENV_DIR", str(tmp_path))
    with pytest.raises(ImportError, match=r"lrdiff_core must come from .*project"):
        suite.check_commit_is_measured()

    # the packages are where they should be, but another commit is checked out
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / ".git" / "HEAD").write_text("abc\n")
    init = tmp_path / "project" / "__init__.py"
    monkeypatch.setattr(
        suite.importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None, origin=str(init))
    )
    monkeypatch.setenv("ASV_COMMIT", "def")
    with pytest.raises(ImportError, match="asv measures def, but abc is checked out"):
        suite.check_commit_is_measured()
    monkeypatch.setenv("ASV_COMMIT", "abc")
    suite.check_commit_is_measured()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_asv_finds_a_regression_planted_between_two_commits(tmp_path: Path) -> None:
    """Run, publish and asv's regression page over a scratch repository whose second commit waits in the step.

    The environment is an existing one per asv's terms (a bare venv that sees this one's packages), because
    asv's own would download torch again; `make bench` goes the whole way.
    """
    project, home = tmp_path / "project", tmp_path / "home"
    home.mkdir()
    for name in ("lrdiff_core", "export", "bench", "benchmarks"):
        shutil.copytree(
            ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "env", "results", "html")
        )
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "PYTHONPATH"))},
        "HOME": str(home),
        "LRDIFF_BENCH_QUICK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }

    def call(*command: str, folder: Path = project / "benchmarks") -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def commit(message: str, date: str) -> str:
        environment["GIT_AUTHOR_DATE"] = environment["GIT_COMMITTER_DATE"] = date
        call("git", "add", "-A", folder=project)
        call("git", "commit", "-q", "-m", message, folder=project)
        return call("git", "rev-parse", "HEAD", folder=project).strip()

    call(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    purelib = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Sorts behind lrdiff_commit.pth: the scratch project must win over what is installed beside the tests.
    (purelib / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    call(python, str(project / "benchmarks" / "link_commit.py"), str(project))
    asv = [sys.executable, "-m", "asv"]
    call("git", "init", "-q", "-b", "main", folder=project)
    call(*asv, "machine", "--yes")

    def measure(hash_: str) -> None:
        call(*asv, "run", "-E", f"existing:{python}", f"--set-commit-hash={hash_}", "--bench", "track_step")

    measure(commit("fast", "2026-01-01T00:00:00Z"))
    source = project / "bench" / "lrdiff_bench" / "timing.py"
    planted = source.read_text().replace("            step()\n", "            step()\n            time.sleep(0.001)\n")
    assert planted != source.read_text()
    source.write_text(planted)
    measure(commit("slow", "2026-01-02T00:00:00Z"))
    call(*asv, "publish")

    html = project / "benchmarks" / "html"
    index = json.loads((html / "index.json").read_text())
    assert set(index["benchmarks"]) == {"cases.track_step", "cases.track_epoch", "cases.peakmem_memory"}
    assert index["benchmarks"]["cases.track_step"]["params"] == [["1", "2"]]
    assert len(index["revision_to_hash"]) == 2
    found = {entry[0] for entry in json.loads((html / "regressions.json").read_text())["regressions"]}
    assert found == {"cases.track_step(1)", "cases.track_step(2)"}
