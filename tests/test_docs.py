"""Examples in the README and the guide run; paths and commands they name exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def python_blocks(file):
    return re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readme_has_examples():
    assert len(python_blocks(README)) >= 2


@pytest.mark.parametrize("number", range(len(python_blocks(README))))
def test_an_example_of_the_readme_runs(number, tmp_path):
    code = python_blocks(README)[number]
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_to_files_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (file.parent / target).exists(), f"{file.name} links to {target}"


def test_the_trees_paths_exist():
    tree = re.search(r"```text\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r"^(\S+)  ", tree[1], flags=re.MULTILINE)
    assert len(named) > 8
    for path in named:
        assert (ROOT / path).exists(), f"the README's tree names {path}"


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for file in (README, ROOT / "CONTRIBUTING.md"):
        assert set(re.findall(r"`?make (\w+)`?", file.read_text())) - targets <= {"sure"}


def test_commands_that_are_named_exist(capsys):
    from lrdiff_bench.cli import main

    named = set(re.findall(r"`lrdiff ([\w-]+)", README.read_text()))
    assert named
    for command in named:
        assert main([command, "--help"]) == 0, command
        capsys.readouterr()


def test_the_setup_is_two_commands_and_no_path_or_address_of_a_machine():
    for file in [README, ROOT / "Makefile", ROOT / "constraints.txt", *ROOT.glob("docs/**/*.md")]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"/home/\w|/Users/\w|index-url", text), file


def test_the_commands_of_the_guide_to_ones_own_model_run(tmp_path, monkeypatch, capsys):
    from lrdiff_bench.cli import main

    guide = ROOT / "docs" / "guide" / "your-model.md"
    (code,) = python_blocks(guide)
    (tmp_path / "models.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "models", raising=False)
    (commands,) = re.findall(r"```sh\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    for command in commands.splitlines():
        assert main(command.split()[1:]) == 0, capsys.readouterr().err
    assert (tmp_path / "mine.onnx").is_file()
