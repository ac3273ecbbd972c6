"""The JavaScript packages: installed in exactly one version, all or nothing; and workers that answer until closed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from lrdiff_core.errors import InputError, ModelFileError, UnavailableError
from lrdiff_export import BACKENDS
from lrdiff_export.publish.targets import TARGETS
from lrdiff_export.runtimes.denormals import probe_model, probe_rows
from lrdiff_export.runtimes.javascript.install import (
    NODE_MODULES,
    PACKAGES,
    cache_folder,
    find_chromium,
    find_node,
    find_package,
    install_javascript,
    package_version,
)
from lrdiff_export.runtimes.javascript.workers import ChromiumWorker, NodeWorker, Worker

FAKE = """#!/bin/sh
echo "$@" > "$LRDIFF_TEST_SAID"
for package in onnxruntime-web onnxruntime-node; do
  mkdir -p node_modules/$package
  echo '{"version": "1.30.0"}' > node_modules/$package/package.json
done
exit ${LRDIFF_TEST_STATUS:-0}
"""


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that installs nothing and writes down what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npm").write_text(FAKE)
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("LRDIFF_TEST_SAID", str(tmp_path / "said"))
    return tmp_path


def test_the_versions_are_the_newest_of_the_table_of_targets() -> None:
    for name, version in PACKAGES.items():
        assert [row.version for row in TARGETS if row.runtime == name][-1] == version


def test_exact_versions_without_scripts_and_without_a_lock_file(npm: Path) -> None:
    folder = npm / "cache" / "javascript"
    assert install_javascript(folder) == PACKAGES
    said = (npm / "said").read_text().split()
    assert {"--ignore-scripts", "--no-package-lock", "--save-exact"} <= set(said)
    assert said[-2:] == ["onnxruntime-web@1.30.0", "onnxruntime-node@1.30.0"]
    assert sorted(one.name for one in folder.iterdir()) == ["node_modules", "package.json"]
    assert [one.name for one in folder.parent.iterdir()] == ["javascript"]
    (npm / "said").unlink()
    install_javascript(folder)
    assert not (npm / "said").exists()  # complete: npm is not asked again


def test_an_older_installation_is_replaced_and_anything_else_is_not(npm: Path) -> None:
    folder = npm / "javascript"
    old = folder / "node_modules" / "onnxruntime-web" / "package.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"version": "1.2.3"}')
    install_javascript(folder)
    assert json.loads(old.read_text())["version"] == "1.30.0"
    other = npm / "photos"
    other.mkdir()
    (other / "cat.png").write_bytes(b"")
    with pytest.raises(InputError, match="photos exists and is not an installation of these packages\nhelp: "):
        install_javascript(other)
    assert [one.name for one in other.iterdir()] == ["cat.png"]


def test_what_goes_wrong_leaves_nothing_behind(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRDIFF_TEST_STATUS", "7")
    with pytest.raises(UnavailableError, match="^npm cannot install onnxruntime-web@1.30.0, onnxruntime-node@1.30.0: "):
        install_javascript(npm / "javascript")
    assert {one.name for one in npm.iterdir()} == {"bin", "said"}
    monkeypatch.setenv("PATH", str(npm))
    with pytest.raises(UnavailableError, match="^npm is not installed\nhelp: install node"):
        install_javascript(npm / "javascript")
    (npm / "file").write_text("")
    monkeypatch.setenv("PATH", str(npm / "bin"))
    with pytest.raises(InputError, match="^cannot write into "):
        install_javascript(npm / "file" / "javascript")


def test_packages_are_looked_for_where_they_were_named_here_and_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "lrdiff" / "javascript"
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv(NODE_MODULES, raising=False)
    with pytest.raises(UnavailableError) as caught:
        find_package("onnxruntime-web")
    assert str(caught.value) == (
        "onnxruntime-web is not installed here\nhelp: run `lrdiff doctor --install-javascript`, or name the folder "
        "where npm installed it in LRDIFF_NODE_MODULES"
    )
    reason = BACKENDS["onnxruntime-web"].availability()
    assert reason == "onnxruntime-web is not installed here: lrdiff doctor --install-javascript"
    named = tmp_path / "named"
    for number, start in enumerate((cache_folder(), here, named)):  # each goes before the one before
        package = start / "node_modules" / "onnxruntime-web"
        package.mkdir(parents=True)
        (package / "package.json").write_text(json.dumps({"version": f"1.0.{number}"}))
        if start is named:
            monkeypatch.setenv(NODE_MODULES, str(named))
        assert package_version("onnxruntime-web") == f"1.0.{number}"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "lrdiff" / "javascript"


def test_node_and_chromium_that_are_not_here_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="^node is not installed\nhelp: "):
        find_node()
    with pytest.raises(UnavailableError, match="^no Chromium on the path\nhelp: "):
        find_chromium()
    browser = tmp_path / "browser"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    monkeypatch.setenv("LRDIFF_CHROMIUM", str(browser))
    assert find_chromium() == str(browser)


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def load(worker: Worker, model: bytes) -> dict[str, object]:
    return {"job": "load", "model": worker.offer(model), "weights": {}}


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_worker_holds_several_models_says_what_fails_and_goes_on(package: str, javascript: Path) -> None:
    worker = NodeWorker(package)
    try:
        assert worker.runs.startswith("node ")
        assert worker.ask(load(worker, probe_model())) == {"model": 0}
        assert "error" in worker.ask(load(worker, b"hello"))
        assert worker.ask(load(worker, probe_model())) == {"model": 1}
        assert "error" in worker.ask({"job": "run", "model": 1, "feeds": {}})
        rows = probe_rows()
        data = {"dtype": "float32", "shape": list(rows.shape), "data": packed(rows.tobytes())}
        answer = worker.ask({"job": "run", "model": 1, "feeds": {"rows": data}})["outputs"]["same"]
        assert base64.b64decode(answer["data"]) == rows.tobytes()  # to the last denormal bit
    finally:
        worker.close()
    with pytest.raises(ModelFileError):
        worker.ask({"job": "load", "model": "", "weights": {}})


def test_a_worker_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    broken = tmp_path / "node_modules" / "onnxruntime-node"
    broken.mkdir(parents=True)
    (broken / "package.json").write_text('{"version": "1.30.0", "main": "missing.js"}')
    monkeypatch.setenv(NODE_MODULES, str(tmp_path))
    with pytest.raises(UnavailableError, match="^onnxruntime-node does not start: ") as caught:
        NodeWorker("onnxruntime-node")
    assert "\n" not in caught.value.message


def test_a_browser_that_ends_at_once_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"version": "1.30.0"}')
    browser = tmp_path / "browser"
    browser.write_text("#!/bin/sh\nexit 5\n")
    browser.chmod(0o755)
    monkeypatch.setenv(NODE_MODULES, str(tmp_path))
    monkeypatch.setenv("LRDIFF_CHROMIUM", str(browser))
    with pytest.raises(UnavailableError, match=r"^Chromium does not start: Chromium ended \(5\)"):
        ChromiumWorker()


BROWSER = """#!{python}
import json, sys, urllib.request
address = sys.argv[-1]
open({log!r}, "w").write(sys.argv[-2])
answer = {{"runs": "Chrome/199.0"}}
while True:  # as the page does
    request = urllib.request.Request(address + "job", json.dumps(answer).encode())
    job = json.loads(urllib.request.urlopen(request).read())
    if job["job"] == "wait":
        answer = {{"waited": True}}
        continue
    try:
        answer = {{"got": len(urllib.request.urlopen(address[:-1] + job["model"]).read())}}
    except OSError as problem:
        answer = {{"error": str(problem)}}
"""


def test_a_browser_is_served_what_it_needs_and_nothing_else_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser in Python: what is served, and what is left, is the same for any."""
    dist = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    (dist / "ort.wasm.min.mjs").write_text("export {}")
    (dist.parent / "package.json").write_text('{"version": "1.30.0"}')
    (dist.parent / "secret").write_text("secret")
    browser, log = tmp_path / "browser", tmp_path / "log"
    browser.write_text(BROWSER.format(python=sys.executable, log=str(log)))
    browser.chmod(0o755)
    monkeypatch.setenv(NODE_MODULES, str(tmp_path))
    monkeypatch.setenv("LRDIFF_CHROMIUM", str(browser))
    worker = ChromiumWorker()
    try:
        assert worker.runs == "Chromium 199.0"
        assert worker.ask(load(worker, b"hello")) == {"got": 5}
        (tmp_path / "file").write_bytes(b"model")
        place = worker.offer(tmp_path / "file")
        known = ["/", "/onnx_worker.mjs", "/dist/ort.wasm.min.mjs", place]
        for path in (*known, "/dist/../secret", "/secret", "/dist/none", "/offered/9", "/offered/../secret"):
            answer = worker.ask({"job": "load", "model": path})
            assert ("got" in answer) == (path in known), (path, answer)
        address, profile = worker.address, Path(log.read_text().removeprefix("--user-data-dir="))
        assert profile.is_dir()
    finally:
        worker.close()
    assert not profile.exists()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)


@pytest.mark.slow
def test_workers_end_with_the_program_that_forgot_them(javascript: Path) -> None:
    script = (
        "from lrdiff_export.runtimes.javascript.workers import NodeWorker, ChromiumWorker; import sys\n"
        "workers = [NodeWorker('onnxruntime-web'), *([ChromiumWorker()] if sys.argv[1] == 'browser' else [])]\n"
        "print(*(worker.pid for worker in workers)); raise SystemExit(3)"
    )
    browser = "none" if BACKENDS["chromium"].availability() else "browser"
    ran = subprocess.run([sys.executable, "-c", script, browser], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (3, "")
    for pid in map(int, ran.stdout.split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
