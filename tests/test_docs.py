"""Examples in the README and the guide run; paths and commands they name exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MAIN_JOB = ROOT / "docs" / "guide" / "main-job.md"
SKLEARN = MAIN_JOB.with_name("scikit-learn.md")


def python_blocks(file):
    return re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), flags=re.DOTALL)


EXAMPLES = {
    f"{file.stem} {n}": code for file in (README, MAIN_JOB, SKLEARN) for n, code in enumerate(python_blocks(file))
}


def test_the_readme_and_the_page_of_the_main_job_have_examples():
    assert {name.split()[0] for name in EXAMPLES} == {"README", "main-job", "scikit-learn"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path):
    if "transformers" in EXAMPLES[name]:
        pytest.importorskip("transformers")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", EXAMPLES[name]],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if name == "README 0":
        shown = re.search(r"```text\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[1]
        assert shown
        assert set(shown.splitlines()) <= set(done.stdout.splitlines())


def test_the_screen_on_the_page_of_the_main_job_is_what_is_printed(tmp_path, capsys):
    from lrdiff_bench.cli import main
    from lrdiff_bench.run.screen import TITLES

    page = re.search(r"```console\n(.*?)```", MAIN_JOB.read_text(encoding="utf-8"), flags=re.DOTALL)[1]
    assert re.findall(r"^ ?\d+ (\w.*)$", page, flags=re.MULTILINE) == [
        title for name, title in TITLES.items() if name != "folds"
    ]
    assert main(["train", "--out", str(tmp_path / "seed")]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    for line in page.split(" 7 ")[0].splitlines()[1:]:
        assert line in printed or line == "   ...", f"lrdiff no longer prints {line!r}; print the page anew"


PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_to_files_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (file.parent / target).exists(), f"{file.name} links to {target}"


def test_the_trees_paths_exist():
    page = ROOT / "docs" / "architecture.md"
    tree = page.read_text(encoding="utf-8").split("## Where things are")[1].split("```")[1]
    named = re.findall(r"^(\S+)  ", tree, flags=re.MULTILINE)
    assert len(named) > 8
    for path in named:
        assert (ROOT / path).exists(), f"the tree names {path}"


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for file in (README, ROOT / "CONTRIBUTING.md"):
        assert set(re.findall(r"`?make (\w+)`?", file.read_text())) - targets <= {"sure"}


@pytest.mark.slow
def test_commands_that_are_named_exist(capsys):
    from lrdiff_bench.cli import main

    text = README.read_text()
    table = text.split("| to | |")[1].split("\n\n")[0]
    named = {*re.findall(r"lrdiff ([a-z][\w-]+)", text), *re.findall(r"`([\w-]+)`", table)}
    assert len(named) > 15
    for command in named:
        assert main([command, "--help"]) == 0, command
        capsys.readouterr()


def test_no_hint_installs_us_from_a_registry_that_does_not_have_us():
    code = [file for part in ("lrdiff_core", "export", "bench") for file in (ROOT / part).rglob("*.py")]
    for file in [*PAGES, *code]:
        assert not re.search(r"pip install\W+lrdiff", file.read_text(encoding="utf-8")), file


def test_the_setup_is_two_commands_and_no_path_or_address_of_a_machine():
    for file in [README, ROOT / "Makefile", ROOT / "constraints.txt", *ROOT.glob("docs/**/*.md")]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"/home/\w|/Users/\w|index-url", text), file


@pytest.mark.slow
def test_the_walks_of_the_guide_to_ones_own_model_run(tmp_path, monkeypatch, capsys):
    """Its files, written as the page names them, and its commands from top to bottom."""
    from lrdiff_bench.cli import main

    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "guide" / "your-model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|toml|sh)\n(.*?)```", guide, flags=re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh", "toml", "sh", "python", "sh"]
    for kind, text in blocks:
        if kind == "sh":
            for command in text.splitlines():
                assert main(command.split()[1:]) == 0, capsys.readouterr().err
        else:
            text = text.replace("minutes = 0.5", "minutes = 0.05").replace(
                "epochs = 10", "epochs = 2"
            )  # time is scarce
            (tmp_path / re.match(r"# (\S+)\n", text)[1]).write_text(text)
    assert (tmp_path / "runs" / "finetuned" / "model.onnx").is_file()
    for name in ("finetune", "tabular"):
        monkeypatch.delitem(sys.modules, name)


def site():
    import importlib.util

    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_references_hold_every_command_setting_and_public_name():
    """A name or a setting without a docstring ends the build, and this test."""
    from lrdiff_bench.study.settings import StudySettings
    from lrdiff_core.config import RunConfig

    made = site()
    commands = made.commands()
    for command in ("run", "init", "report", "lesson", "bench compare", "study verdict", "map", "audit"):
        assert f"## lrdiff {command}\n" in commands
    settings = made.settings()
    assert all(f"| `{key}` |" in settings for model in (RunConfig, StudySettings) for key in model.model_fields)
    pages = made.api_pages()
    assert sum(text.count("\n::: ") for text in pages.values()) > 120
    listed = re.findall(r"reference/api/(\S+)\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(pages)


def verdicts():
    """The medians and the verdict of each study on its page: ``{(untuned, single, differential): verdict}``."""
    page = (ROOT / "docs" / "results" / "convergence.md").read_text(encoding="utf-8")
    table = page.partition("## Verdicts")[2].partition("\n\n![")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if re.match(r"\|.*\d \[", line)
    ]
    return {tuple(float(cell.split()[0]) for cell in row[2:5]): row[8] for row in rows}


def test_the_readmes_replications_and_searches_are_those_of_the_pages():
    studies, replications = (
        (ROOT / "docs" / "results" / f"{name}.md").read_text("utf-8") for name in ("convergence", "replications")
    )
    (first,) = re.findall(r"^\| seed-adam \|.*\| ([A-Z ]+) \|$", studies, flags=re.MULTILINE)
    again = re.findall(r"^\| seed-adam, seeds from \d+ \|.*\| ([A-Z ]+) \|$", replications, flags=re.MULTILINE)
    readme = README.read_text(encoding="utf-8")
    assert f"[{again.count(first)} of {len(again)} replications]" in readme
    other = (ROOT / "docs" / "results" / "again.md").read_text("utf-8")
    repeated = len(set(re.findall(r"^\| ([a-z0-9-]+)-from-\d+ \| ", other, flags=re.MULTILINE)))
    inside, numbers = re.findall(r"^(\d+) of (\d+) numbers lie in the interval", other, flags=re.MULTILINE)[0]
    verdicts, same = re.findall(r"Of (\d+) verdicts, .*, (\d+) are the same", other)[0]
    assert f"On other seeds again, {repeated} of the 15 studies" in readme
    assert f"[{inside} of their {numbers} medians and gains](docs/results/again.md)" in readme
    assert f"{same} of their {verdicts} verdicts are the same" in " ".join(readme.split())
    searches = [int(number) for number in re.findall(r"^- (\d+) searches of 64 points", studies, flags=re.MULTILINE)]
    assert len(searches) == 15
    assert f"in each of {min(searches)} to {max(searches)} independent searches" in readme


def _verdicts_of_schemes(study):
    """Those of the study's section on the page of the studies of claims: scheme and verdict."""
    page = (ROOT / "docs" / "results" / "claims-studies.md").read_text("utf-8")
    section = page.partition(f"\n## {study}: ")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (\S[^|*]*?)(?: \*)? \| [-+].* \| ([A-Z ]+) \| \d", section, flags=re.MULTILINE))


def test_what_the_guide_says_was_found_in_transformers_is_on_the_page_of_their_studies():
    guide = (ROOT / "docs" / "guide" / "workloads.md").read_text("utf-8")
    assert "rates by kind of block HELP, and Muon HELPS at AdamW's rate and at one of its own" in guide
    assert _verdicts_of_schemes("characters-blocks") == {"blockwise": "HELPS"}
    assert _verdicts_of_schemes("characters-muon") == {"Muon, AdamW's rate": "HELPS", "Muon": "HELPS"}
    assert "(NO DIFFERENCE, five times); `minilm-lora` is open (INCONCLUSIVE)" in guide
    assert list(_verdicts_of_schemes("minilm").values()) == ["NO DIFFERENCE"] * 5
    assert _verdicts_of_schemes("minilm-lora") == {"B 16x": "INCONCLUSIVE"}


def test_what_the_readme_says_of_the_pretrained_transformer_is_on_the_page_of_its_study():
    results, readme = ROOT / "docs" / "results", " ".join(README.read_text(encoding="utf-8").split())
    found = _verdicts_of_schemes("minilm")
    assert list(found) == ["layer decay 0.95", "layer decay 0.8", "discriminative", "head 10x", "frozen embeddings"]
    assert set(found.values()) == {"NO DIFFERENCE"}
    assert "[NO DIFFERENCE, five times](docs/results/claims-studies.md)" in readme
    claims = (results / "claims.md").read_text("utf-8").partition("\n\nGains are")[0]
    assert (
        f"[{len(re.findall(r'^[|] ', claims, flags=re.MULTILINE)) - 1} published claims]" in readme
    )  # but the heading


@pytest.mark.parametrize("file", [README, ROOT / "docs" / "index.md"], ids=["README", "index"])
def test_what_is_said_of_the_studies_is_what_they_found(file):
    found, text = list(verdicts().values()), file.read_text(encoding="utf-8")
    counts = [found.count(word) for word in ("HELPS", "NO DIFFERENCE", "INCONCLUSIVE")]
    assert len(found) == sum(counts) == 15
    said = re.search(
        r"On (\d+) of 15 workloads.*?on (\d+) there is\s+no\s+difference.*?on (\d+)\s", text, flags=re.DOTALL
    )
    assert said is not None
    assert list(map(int, said.groups())) == counts
    assert "on 15 workloads" in text
    if file == README:
        assert "HELPS on {}, NO DIFFERENCE on {}, INCONCLUSIVE on {}]".format(*counts) in text


def test_the_readmes_rows_are_those_of_the_studies():
    rows = re.findall(
        r"^\|.*\| (?:loss|accuracy) ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([A-Z ]+) \|$",
        README.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert len(rows) == 12
    for *medians, verdict in rows:
        assert verdicts()[tuple(map(float, medians))] == verdict


def training_rows(name):
    """The two whole-step ratios and the shares of every model on a page of training steps."""
    page = (ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")
    return [[cell.strip() for cell in line.split("|")[5:8]] for line in page.splitlines() if re.search(r"\d \[", line)]


def test_the_readmes_speeds_are_those_of_whole_training_steps():
    quiet, busy = ([cell for row in training_rows(name) for cell in row[:2]] for name in ("training", "training-busy"))
    pairs = [[list(map(float, re.findall(r"[\d.]+", cell))) for cell in pair] for pair in zip(quiet, busy, strict=True)]
    alike = sum(one[1] <= other[2] and other[1] <= one[2] for one, other in pairs)
    assert f"{alike} of its {len(pairs)} ratios" in README.read_text(encoding="utf-8")
    by_shares = {shares: ratios for *ratios, shares in training_rows("training")}
    rows = re.findall(
        r"^\|[^|]*\| (no difference measured|[\d.]+ times) \| (no difference measured|[\d.]+ times) \| (.+ %) \|$",
        README.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert len(rows) == 6
    for *told, shares in rows:
        for words, cell in zip(told, by_shares[shares], strict=True):
            ratio, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert words == ("no difference measured" if low <= 1 <= high else f"{ratio:g} times")


def test_the_readmes_updates_by_themselves_are_those_of_the_page_of_steps():
    one, two = (ROOT / "docs" / "results" / "step.md").read_text(encoding="utf-8").split("## 2 threads")

    def ratio(text, shapes, caches, against):
        row = next(line for line in text.splitlines() if f"| {shapes}" in line and f"| {caches} | {against} |" in line)
        return float(re.findall(r"\| ([\d.]+) \[", row)[0])

    layers = "transformer, width 64, 12 layers, layer decay"
    hot, cold = (
        [ratio(one, layers, caches, f"torch {way}") for way in ("default", "fused")] for caches in ("hot", "cold")
    )
    said = " ".join(README.read_text(encoding="utf-8").split())
    assert f"is {hot[0]:.1f} times faster than torch's default and {hot[1]:.1f} times faster than its fused one" in said
    assert f"finds its memory cold, {cold[0]:.1f} and {cold[1]:.1f} times" in said
    bert = [ratio(text, "BERT-base", "hot", "torch fused") for text in (one, two)]
    assert (
        f"it is {bert[0]:g} times as fast as the fused one on one thread and {bert[1]:g} times as fast on two" in said
    )
    rates = [ratio(text, "transformer, 32 rates", "hot", "one rate") for text in (one, two)]
    assert f"takes {rates[0]:g} times as long as with one, on two threads with hot caches {rates[1]:g} times" in said


def test_the_guides_speeds_of_clipping_are_those_of_its_page():
    page = (ROOT / "docs" / "results" / "clip.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if "| transformer |" in line]
    found = {(row[3], row[4]): row[9].split()[0] for row in rows if row[5:7] == ["clipped", "loop"]}
    said = " ".join((ROOT / "docs" / "guide" / "rates.md").read_text(encoding="utf-8").split())
    for words, calls in (("take {} times as long with torch's functions", "three calls"),
                         ("with `clipped_step`, below, {} and", "one call")):  # fmt: skip
        assert words.format(found[calls, "over all"]) in said
    assert f"and {found['three calls', 'by group']} times where each group's is" in said
    assert f"and {found['one call', 'by group']} times" in said


def test_every_page_is_in_the_site():
    listed = set(re.findall(r"((?:[\w-]+/)*[\w-]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    for file in (ROOT / "docs").rglob("*.md"):
        assert str(file.relative_to(ROOT / "docs")) in listed, f"{file.name} is not in the navigation of mkdocs.yml"


def test_every_page_with_code_is_run_by_a_test():
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    for file in PAGES:
        if python_blocks(file):
            assert file.name in tests or f'"{file.stem}"' in tests, f"no test runs the blocks of {file.name}"


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    from lrdiff_bench.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "models", raising=False)
    names = {}
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    for language, block in re.findall(r"```(python|sh)\n(.*?)```", text, flags=re.DOTALL):
        if language == "sh":
            for command in block.splitlines():
                assert main(command.split()[1:]) == 0, capsys.readouterr().err
        elif block.startswith("# models.py"):
            Path("models.py").write_text(block)
        else:
            exec(block, names)
    made = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")}
    assert {"runs/seed/report.html", "runs/rows/report.html", "predicted.csv", "mine.html", "mine.onnx"} <= made
