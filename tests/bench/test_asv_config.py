"""The asv front: its configuration, how a commit is linked, and (slow) a regression found over two commits."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import asv
import pytest
from asv import util
from asv.config import Config

from benchmarks import offline_page
from lrdiff_bench.measure.asv_config import asv_config_entry, find_faults, read_asv_config
from lrdiff_bench.measure.history import derive_config, list_commits, read_regressions
from lrdiff_core.errors import ConfigError

# A sleep in the step, whatever the step has become.
PLANTED = """

def _waits(self, *given, _step=Adam.step, **named):
    import time

    time.sleep(0.001)
    return _step(self, *given, **named)


Adam.step = _waits
"""
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


def test_doctors_line_says_that_our_configuration_has_no_fault() -> None:
    entry = asv_config_entry()
    assert entry["available"], entry["reason"]
    assert "none of the known traps" in entry["detail"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"instal_command": []}, "asv ignores the key instal_command; did you mean install_command?"),
        ({"zzz": 1}, "asv ignores the key zzz"),
        ({"build_command": None}, "builds a wheel with all its dependencies at every commit"),
        ({"install_command": None}, "installs every dependency again"),
        ({"uninstall_command": None}, "uninstall_command is missing"),
        ({"environment_type": "existing"}, "refuses a range of commits"),
        ({"matrix": {"req": {"torch": ["2.13.0"]}}}, "pins no asv_runner"),
        ({"matrix": {"req": {"torch": [""], "pip+asv_runner": ["0.3.2"]}}}, "pins no version of torch"),
        ({"launch_method": "auto"}, "launch_method is left to asv"),
        ({"branches": []}, "branches is missing"),
        ({"default_benchmark_timeout": 10.0}, "below a minute"),
        ({"pythons": ["3.12"]}, "pythons is set"),
    ],
)
def test_doctor_names_every_trap_of_the_field_notes(change: dict, fault: str, tmp_path: Path) -> None:
    assert find_faults(settings()) == []
    found = find_faults({**settings(), **change})
    assert len(found) == 1
    assert fault in found[0]
    path = tmp_path / "asv.conf.json"
    path.write_text(json.dumps({**settings(), "version": 1, **change}))
    entry = asv_config_entry(path)
    assert not entry["available"]
    assert fault in entry["reason"]


def test_configuration_that_asv_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "asv.conf.json").write_text("{")
    with pytest.raises(ConfigError, match="is not a configuration of asv"):
        read_asv_config(tmp_path / "asv.conf.json")


def test_link_commit_takes_what_is_measured_from_the_commit_and_what_measures_from_here(tmp_path: Path) -> None:
    link = load(BENCHMARKS / "link_commit.py").link
    commit = tmp_path / "commit"
    (commit / "lrdiff_core").mkdir(parents=True)
    folders = [Path(line) for line in link(commit, tmp_path).read_text().splitlines()]
    assert folders == [commit, commit / "export", ROOT / "bench"]
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
    homes = {"lrdiff_bench": ROOT / "bench" / "__init__.py"}
    init = tmp_path / "project" / "__init__.py"
    monkeypatch.setattr(
        suite.importlib.util,
        "find_spec",
        lambda name: importlib.machinery.ModuleSpec(name, None, origin=str(homes.get(name, init))),
    )
    monkeypatch.setenv("ASV_COMMIT", "def")
    with pytest.raises(ImportError, match="asv measures def, but abc is checked out"):
        suite.check_commit_is_measured()
    monkeypatch.setenv("ASV_COMMIT", "abc")
    suite.check_commit_is_measured()
    # the ruler must be this checkout's, not the commit's
    homes.clear()
    with pytest.raises(ImportError, match=r"lrdiff_bench must come from .*bench"):
        suite.check_commit_is_measured()


@pytest.mark.parametrize(("device", "launch"), [("cpu", "forkserver"), ("cuda", "spawn"), ("mps", "spawn")])
def test_configuration_of_a_history(device: str, launch: str, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "trunk", str(bare)], check=True)
    derived = derive_config(repository=bare, out=tmp_path / "out", device=device, quick=True)
    assert find_faults(derived) == []
    assert (derived["repo"], derived["branches"], derived["launch_method"]) == (str(bare), ["trunk"], launch)
    environment = derived["matrix"]["env_nobuild"]
    assert (environment["LRDIFF_BENCH_DEVICE"], environment["LRDIFF_BENCH_QUICK"]) == ([device], ["1"])
    assert Path(derived["benchmark_dir"]) == BENCHMARKS / "asv_suite"
    assert derived["matrix"]["req"] == settings()["matrix"]["req"]
    with pytest.raises(ConfigError, match="HEAD names no commits"):
        list_commits(None, bare)


def test_commits_of_a_range() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    commits = list_commits("-n 2 HEAD", ROOT)
    assert len(commits) == 2
    assert list_commits(None, ROOT)[:2] == commits
    with pytest.raises(ConfigError, match="nowhere..HEAD names no commits: "):
        list_commits("nowhere..HEAD", ROOT)


def test_page_gets_its_libraries_from_beside_it(tmp_path: Path) -> None:
    import asv

    page = tmp_path / "html"
    page.mkdir()
    index = page / "index.html"
    shutil.copy(Path(asv.__file__).parent / "www" / "index.html", index)
    for files in offline_page.PACKAGES.values():  # as if npm had brought them
        for name in files:
            (tmp_path / "vendor").mkdir(exist_ok=True)
            (tmp_path / "vendor" / name).write_text("")
    assert offline_page.make_offline(page) is None
    text = index.read_text()
    sources = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(vendor/[^"]+)"', text)
    assert len(sources) == sum(map(len, offline_page.PACKAGES.values()))
    assert all((page / source).is_file() for source in sources)
    assert not re.search(r'<(script|link)[^>]*"https://', text)
    index.write_text('<script src="https://example.org/other.js"></script>')
    assert offline_page.make_offline(page) == "this asv's page also loads other.js"


def test_page_stays_as_it_is_without_npm(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text('<script src="https://x.org/jquery-3.3.1.min.js"></script>')
    monkeypatch.setenv("PATH", "")
    assert offline_page.make_offline(tmp_path / "html") == "no npm here to fetch the page's libraries with"
    assert "https://" in (tmp_path / "html" / "index.html").read_text()


@pytest.mark.long
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
    (purelib / "packages.pth").write_text(f"{Path(asv.__file__).parents[1]}\n")
    call(python, str(project / "benchmarks" / "link_commit.py"), str(project))
    run_asv = [sys.executable, "-m", "asv"]
    call("git", "init", "-q", "-b", "main", folder=project)
    call(*run_asv, "machine", "--yes")

    def measure(hash_: str) -> None:
        call(*run_asv, "run", "-E", f"existing:{python}", f"--set-commit-hash={hash_}", "--bench", "MainStep.time")

    measure(commit("fast", "2026-01-01T00:00:00Z"))
    source = project / "lrdiff_core" / "optim" / "rules" / "adam.py"
    with open(source, "a") as file:
        file.write(PLANTED)
    slow = commit("slow", "2026-01-02T00:00:00Z")
    measure(slow)
    call(*run_asv, "publish")

    html = project / "benchmarks" / "html"
    index = json.loads((html / "index.json").read_text())
    assert {
        f"main_job.{name}" for name in ("MainStep.time_step", "MainEpoch.track_error", "MainMemory.track_peak_memory")
    } <= set(index["benchmarks"])
    assert index["benchmarks"]["main_job.MainStep.time_step"]["params"] == [["1", "2"]]
    assert len(index["revision_to_hash"]) == 2
    found = read_regressions(html)
    assert {entry["case"] for entry in found} == {"main_job.MainStep.time_step(1)", "main_job.MainStep.time_step(2)"}
    assert {entry["commit"] for entry in found} == {slow}
    assert all(entry["factor"] > 5 for entry in found)  # 10 us, and a millisecond more
