"""``lrdiff ab``: suites of asv and pytest-benchmark between two commits, unchanged, each in its own processes."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from test_ab_clocks import Loaded
from waiting import runs, wait_until

import lrdiff_bench
from lrdiff_bench.cli import main
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.timer import Sample
from lrdiff_bench.measure.foreign import checkouts, job, report
from lrdiff_bench.measure.foreign.checkouts import find_suite, open_checkouts
from lrdiff_bench.measure.foreign.command import share
from lrdiff_bench.measure.foreign.inside.blocks import Blocks, Work
from lrdiff_bench.measure.foreign.process import ForeignCase, ForeignProcess, Place, list_cases
from lrdiff_bench.stats.verdict import Verdict
from lrdiff_core.errors import CheckFailed, ConfigError, InputError, LrdiffError, UnavailableError

PACKAGE = """
def total(n):
    found = 0
    for i in range(n):
        found += i
    return found
"""
SLOWER = PACKAGE.replace("    return", "    for i in range(n):\n        found += 0\n    return")
ASV = """
from sums import total


class Total:
    params = [[100, 1000, 7], ["a", "b"]]
    param_names = ["n", "kind"]

    def setup_cache(self):
        with open("left.txt", "w") as file:
            file.write("here")
        return {"scale": 2}

    def setup(self, cache, n, kind):
        if n == 7:
            raise NotImplementedError("no sevens")
        assert open("left.txt").read() == "here"
        self.n = n * cache["scale"] // 2
        self.made = True

    def teardown(self, cache, n, kind):
        del self.made

    def time_total(self, cache, n, kind):
        assert self.made
        total(self.n)

    def track_nothing(self, cache, n, kind):
        return 1


def time_plain():
    total(300)


def time_broken():
    raise ValueError("as planted")


time_plain.number = 3
"""
STUCK = """
import itertools
import os
import subprocess
import sys
import time

from sums import total


def time_hangs():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open("child.txt", "w") as file:
        file.write(str(child.pid))
    time.sleep(600)


def time_is_killed():
    total(3)
    os.kill(os.getpid(), 9)


def time_is_hungry():
    total(3)
    list(map(bytearray, itertools.repeat(1 << 24)))


time_hangs.timeout = 5
"""
PYTEST = """
import pytest
from sums import total


@pytest.mark.parametrize("n", [100, 1000])
def test_total(benchmark, n):
    assert benchmark(total, n) == n * (n - 1) // 2


@pytest.mark.timeout(7)
def test_pedantic(benchmark):
    calls = []

    def setup():
        calls.append("setup")
        return (300,), {}

    def teardown(n):
        calls.append("teardown")

    assert benchmark.pedantic(total, setup=setup, teardown=teardown, rounds=3) == 44850
    assert calls[:2] == ["setup", "teardown"]
    assert calls.count("setup") == calls.count("teardown")


@pytest.mark.skip(reason="not today")
def test_skipped(benchmark):
    benchmark(total, 3)


def test_fails_before(benchmark):
    raise ValueError("as planted")


def test_other():
    assert total(3) == 3
"""


def git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Two commits, the second with a loop more; the suites lie in the working tree, and in neither commit."""
    root = tmp_path_factory.mktemp("foreign") / "sums-project"
    (root / "src" / "sums").mkdir(parents=True)
    (root / "src" / "sums" / "__init__.py").write_text(PACKAGE)
    (root / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "-p pytest_benchmark.plugin --benchmark-skip"\n'
    )
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "one")
    (root / "src" / "sums" / "__init__.py").write_text(SLOWER)
    git(root, "commit", "-q", "-a", "-m", "two")
    for folder, name, text in (
        ("benchmarks", "speed.py", ASV), ("stuck", "stuck.py", STUCK), ("tests", "test_speed.py", PYTEST),
    ):  # fmt: skip
        (root / folder).mkdir()
        (root / folder / name).write_text(text)
    for folder in ("benchmarks", "stuck"):
        (root / folder / "__init__.py").write_text("")
    (root / "benchmarks" / "absent.py").write_text("import not_here\n")
    (root / "tests" / "test_absent.py").write_text("import not_here  # benchmark\n")
    return root


@pytest.fixture
def sides(project: Path) -> Iterator[tuple[checkouts.Checkout, checkouts.Checkout]]:
    with open_checkouts("HEAD~1", "HEAD", find_suite(project / "benchmarks"), python=sys.executable) as pair:
        yield pair


def test_both_trees_hold_their_own_package_and_the_same_suite(project: Path, sides) -> None:
    a, b = sides
    assert "range(n)" in (a.place.tree / "src" / "sums" / "__init__.py").read_text()
    assert (a.place.suite / "speed.py").read_text() == (b.place.suite / "speed.py").read_text() == ASV
    assert a.place.packages == ("sums",)
    assert a.place.path == (a.place.tree / "src", a.place.tree)
    assert a.label.startswith("HEAD~1 (")
    trees = subprocess.run(["git", "-C", str(project), "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 3


@pytest.mark.slow
def test_asv_cases_have_asvs_names_and_each_is_set_up_as_asv_does(project: Path, sides) -> None:
    cases, broken = list_cases(sides[1].place)
    assert broken == {"benchmarks.absent": "ModuleNotFoundError: No module named 'not_here'"}
    ids = [one.id for one in cases]
    assert ids[:2] == ["speed.Total.time_total(100, 'a')", "speed.Total.time_total(100, 'b')"]
    assert {"speed.time_plain", "speed.time_broken"} < set(ids)
    assert len(ids) == 8
    known = {one.id: one for one in cases}
    assert known["speed.Total.time_total(100, 'a')"].parameters == {"n": "100", "kind": "'a'"}

    def measured(name: str) -> tuple[Sample, dict]:
        process = ForeignProcess(sides[0].place, known)
        try:
            process.start(known[name].case(), job.foreign_effort(1))
            return process.block(), process.end()
        finally:
            process.close()

    # Beside other tests a process may be interrupted in most of its blocks; not each time it is asked.
    tries = (measured("speed.Total.time_total(1000, 'a')") for _ in range(4))
    sample, end = next((one for one in tries if one[0].busy in (True, None)), (None, None))
    assert sample is not None
    assert 1e-7 < sample.processor < 1e-2
    assert end["code"]["python"] == sys.version.split()[0]
    assert measured("speed.time_plain")[1]["process"]["number"] % 3 == 0  # asv's own attribute
    with pytest.raises(UnavailableError, match="its setup raises NotImplementedError"):
        measured("speed.Total.time_total(7, 'a')")
    with pytest.raises(LrdiffError, match=r"(?s)ValueError: as planted.*Traceback"):
        measured("speed.time_broken")


@pytest.mark.slow
def test_what_hangs_ends_or_asks_for_all_memory_is_told_and_leaves_no_process(project: Path) -> None:
    with open_checkouts("HEAD~1", "HEAD", find_suite(project / "stuck"), python=sys.executable) as (a, _):
        cases, _ = list_cases(a.place)
        known = {one.name: one for one in cases}
        assert {one.name: one.timeout for one in cases} == {
            "stuck.time_hangs": 5.0, "stuck.time_is_killed": 60.0, "stuck.time_is_hungry": 60.0,
        }  # fmt: skip

        def started(name: str) -> None:
            process = ForeignProcess(replace(a.place, memory=1 << 28), known)
            try:
                process.start(known[name].case(), job.foreign_effort(1))
            finally:
                process.close()

        with pytest.raises(CheckFailed, match=r"its set-up took longer than 5 s\nhelp: .* attribute timeout"):
            started("stuck.time_hangs")
        (file,) = a.place.scratch.rglob("child.txt")
        child = int(file.read_text())
        wait_until(lambda: not runs(child), "what a case started that hangs ended with it")
        with pytest.raises(CheckFailed, match="ended during its set-up with status -9\nhelp: .*out of memory"):
            started("stuck.time_is_killed")
        with pytest.raises(CheckFailed, match="more memory than there is"):
            started("stuck.time_is_hungry")


@pytest.mark.slow
def test_pytest_cases_are_measured_inside_their_test(project: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # this project's own take seconds to load
    with open_checkouts("HEAD~1", "HEAD", find_suite(project / "tests"), python=sys.executable) as (a, _):
        cases, broken = list_cases(a.place)
        assert broken == {"tests/test_absent.py": "ModuleNotFoundError: No module named 'not_here'"}
        known = {one.id: one for one in cases}
        assert [name.partition("::")[2] for name in known] == [
            "test_total[100]", "test_total[1000]", "test_pedantic", "test_skipped", "test_fails_before",
        ]  # fmt: skip
        assert [one.timeout for one in cases] == [60.0, 60.0, 7.0, 60.0, 60.0]  # pytest-timeout's mark
        told = {}
        for name, one in known.items():
            process = ForeignProcess(a.place, known)
            try:
                process.start(one.case(), job.foreign_effort(1))
                told[name.partition("::")[2]] = process.block().seconds
                process.end()
            except LrdiffError as problem:
                told[name.partition("::")[2]] = problem.message
            finally:
                process.close()
    assert told["test_skipped"] == "skipped: Skipped: not today"
    assert told["test_fails_before"] == "ValueError: as planted"
    assert all(0 < told[name] < 0.1 for name in ("test_total[100]", "test_total[1000]", "test_pedantic")), told


class FakeSide(Loaded):
    """A measuring process without a process."""

    def __init__(self, place, known, *, slow: float, generator: np.random.Generator) -> None:
        super().__init__(slow, generator, [1.0])


def run(slow_downs: dict[str, float], seed: int = 0, **options) -> list[job.CaseResult]:
    generator = np.random.default_rng(seed)
    nowhere = Place(kind="asv", python="", tree=Path(), checkout=Path(), suite=Path(), path=(), packages=(),
                    scratch=Path())  # fmt: skip
    a, b = (checkouts.Checkout(label=name, commit=40 * name, dirty=False, place=nowhere) for name in "ab")
    cases = [ForeignCase(id=name, name=name) for name in slow_downs]

    class Fake(Loaded):
        def __init__(self, side) -> None:
            super().__init__(1.0, generator, [1.0])
            self.side = side

        def start(self, case, effort) -> None:
            if case.name == "broken":
                raise InputError("as planted", help="leave it")
            self.seconds *= slow_downs[case.name] if self.side is b else 1.0

    return job.run_cases(cases, a, b, launch=lambda side, known: Fake(side), seed=seed, **options)


def test_cases_are_interleaved_and_end_when_they_are_settled() -> None:
    seen: list[tuple[int, str]] = []
    rows = run(
        {"same": 1.0, "slow": 1.5, "broken": 1.0, "fast": 1 / 1.5}, watch=lambda g, row: seen.append((g, row.case.id))
    )
    verdicts = {row.case.id: row.comparison and str(row.comparison.verdict) for row in rows}
    assert verdicts == {"same": verdicts["same"], "slow": "slower", "broken": None, "fast": "faster"}
    assert verdicts["same"] in ("equivalent", "unresolved")
    assert {name for group, name in seen if group == 1} == {"same", "slow", "broken", "fast"}
    assert max(group for group, name in seen if name == "slow") == 4  # the first look
    orders = ["".join(name[0] for g, name in seen if g == group and name != "broken") for group in (1, 2, 3, 4)]
    assert len(set(orders)) > 1  # by lot
    assert rows[2].failed
    assert rows[2].reason == "as planted (leave it)"


@pytest.mark.long
def test_looks_together_keep_their_promise() -> None:
    """200 comparisons of the same code and 40 of planted 5 %: the looks of the job, without processes."""
    same = run({f"case{i}": 1.0 for i in range(200)})
    words = Counter(str(row.comparison.verdict) for row in same)
    assert words["slower"] + words["faster"] <= 2, words
    found = Counter(str(row.comparison.verdict) for row in run({f"case{i}": 1.05 for i in range(40)}, seed=1))
    assert found["slower"] >= 38, found


def test_only_names_cases_by_id_without_parameters_and_by_pattern() -> None:
    cases = [ForeignCase(id=f"m.A.time_x({n})", name="m.A.time_x") for n in (1, 2)]
    cases.append(ForeignCase(id="tests/t.py::test_y[1]", name="tests/t.py::test_y[1]"))
    assert [one.id for one in job.choose(cases, ["m.A.time_x(2)"])] == ["m.A.time_x(2)"]
    assert len(job.choose(cases, ["m.A.time_x"])) == 2
    assert [one.id for one in job.choose(cases, ["tests/t.py::test_y"])] == ["tests/t.py::test_y[1]"]
    assert len(job.choose(cases, ["*"])) == 3
    with pytest.raises(ConfigError, match="has no benchmark m.A.time_z\nhelp: did you mean"):
        job.choose(cases, ["m.A.time_z"])


@pytest.mark.slow
def test_what_is_handed_on_says_what_was_found() -> None:
    rows = run({"m.same": 1.0, "m.slow|er": 1.5, "broken": 1.0, "m.fast": 1 / 1.5})
    (worse,) = report.regressions(rows, 0.0)
    assert (worse.case, worse.verdict) == ("m.slow|er", Verdict.SLOWER)
    assert report.regressions(rows, 0.8) == []
    text = report.markdown_text(rows, title="b against a", command="lrdiff ab a b", threshold=0.05)
    assert text.startswith("### b against a\n\n**1 slower** by more than 5 %: ")
    assert "| `m.slow\\|er` | " in text
    assert text.index("m.fast") < text.index("<details>") < text.index("m.same")
    assert "- `broken`: as planted (leave it)" in text
    metrics = report.bencher_document(rows)
    assert metrics["m.slow|er"]["ratio"]["lower_value"] < 1.5 < metrics["m.slow|er"]["ratio"]["upper_value"]
    assert metrics["m.slow|er"]["latency"]["value"] == pytest.approx(1.5e9, rel=0.2)
    assert "broken" not in metrics
    suite = ElementTree.fromstring(report.junit_text(rows, name="lrdiff ab benchmarks", threshold=0.05))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "1")
    (failed,) = [one for one in suite if one.find("failure") is not None]
    assert failed.get("name") == "m.slow|er"
    document = report.ab_document(rows, file=Path("x"), threshold=0.05)
    assert document["regressions"] == ["m.slow|er"]
    assert document["not_measured"] == [{"case": "broken", "reason": "as planted (leave it)", "failed": True}]
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.ab_table(rows))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert "1 slower" in shown
    assert "broken: as planted" in shown


@pytest.mark.slow
def test_a_planted_slow_down_in_a_foreign_suite_ends_with_status_1(project: Path, tmp_path: Path, capsys) -> None:
    files = {name: tmp_path / f"ab.{name}" for name in ("md", "json", "xml")}
    status = main([
        "ab", "HEAD~1", "HEAD", "--suite", str(project / "benchmarks"), "--only", "speed.time_plain",
        "--threshold", "5%",
        "--markdown", str(files["md"]), "--bencher", str(files["json"]), "--junit", str(files["xml"]),
        "--out", str(tmp_path / "runs"), "--json",
    ])  # fmt: skip
    said = capsys.readouterr()
    document = json.loads(said.out)
    (one,) = document["comparisons"]
    assert (status, one["verdict"]) == (1, "slower"), one
    assert 1.3 < one["ratio"] < 4
    assert "error: slower by more than 5 %: speed.time_plain" in said.err
    assert document["regressions"] == ["speed.time_plain"]
    assert "**1 slower** by more than 5 %" in files["md"].read_text()
    assert json.loads(files["json"].read_text())["speed.time_plain"]["latency"]["value"] > 0
    assert ElementTree.fromstring(files["xml"].read_text()).get("failures") == "1"
    (kept,) = store.read_comparisons(Path(document["file"]))
    assert kept.case == "speed.time_plain"
    assert len(store.read_run(Path(document["file"]))) == 2
    trees = subprocess.run(["git", "-C", str(project), "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 1  # nothing is left


def test_the_working_tree_is_a_side(project: Path) -> None:
    place = project / "src" / "sums" / "__init__.py"
    before = place.read_text()
    try:
        place.write_text(before + "\nCHANGED = True\n")
        with open_checkouts("HEAD", ".", find_suite(project / "benchmarks"), python=sys.executable) as (a, b):
            assert (a.dirty, b.dirty) == (False, True)
            assert b.label.endswith(", changed)")
            assert "CHANGED" in (b.place.tree / "src" / "sums" / "__init__.py").read_text()
            assert "CHANGED" not in (a.place.tree / "src" / "sums" / "__init__.py").read_text()
    finally:
        place.write_text(before)


def test_code_that_is_not_the_commits_is_refused(project: Path, sides, tmp_path: Path, monkeypatch) -> None:
    """An installed package that wins over the commit's would make both sides the same."""
    known = {"speed.time_plain": ForeignCase(id="speed.time_plain", name="speed.time_plain")}

    def started(**changes) -> None:
        process = ForeignProcess(replace(sides[0].place, **changes), known)
        try:
            process.start(known["speed.time_plain"].case(), job.foreign_effort(1))
        finally:
            process.close()

    started()
    with pytest.raises(
        InputError, match="sums was not imported from the commit but from .*\nhelp: an editable install"
    ):
        started(path=(project / "src",))
    with pytest.raises(InputError, match=r"imported nothing of the commit \(other\)\nhelp: .*--import-from"):
        started(packages=("other",))
    with pytest.raises(InputError, match="No module named 'sums'\nhelp: build what is compiled: --install COMMAND"):
        started(path=(tmp_path,))


def test_installing_builds_each_commit(project: Path) -> None:
    suite = find_suite(project / "benchmarks")
    command = f"{sys.executable} -c \"import shutil; shutil.copytree('src/sums', r'{{target}}/sums')\""
    with open_checkouts("HEAD~1", "HEAD", suite, python=sys.executable, install=command) as (a, b):
        assert (a.place.path[0] / "sums" / "__init__.py").read_text() == PACKAGE
        assert (b.place.path[0] / "sums" / "__init__.py").read_text() == SLOWER
        assert a.place.packages == ("sums",)
    with (
        pytest.raises(LrdiffError, match=r"--install ended with status 3 in HEAD~1 .*: no such thing"),
        open_checkouts("HEAD~1", "HEAD", suite, python=sys.executable, install="echo no such thing; exit 3"),
    ):
        pass


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--suite", "nowhere"], "no suite at nowhere"),
        (["--suite", "{project}"], "is the whole repository"),
        (["--suite", "{project}/src"], "src holds no benchmark"),
        (["--suite", "{project}/benchmarks", "--threshold", "five"], "--threshold five is not a share"),
        (["--suite", "{project}/benchmarks", "--processes", "3"], "3 processes a side are too few"),
        (["--suite", "{project}/benchmarks", "--minutes", "0"], "--minutes 0 is no time"),
        (["--suite", "{project}/benchmarks", "--markdown", "no/where.md"], "no folder no"),
        (["--suite", "{project}/benchmarks", "--import-from", "lib"], "--import-from lib: no such folder"),
        (["--suite", "{project}/benchmarks", "--python", "no-python"], "no-python cannot be started"),
        (["--suite", "{tmp}"], "is in no working tree of git"),
    ],
)
def test_wrong_usage(words: list[str], text: str, project: Path, tmp_path: Path, capsys) -> None:
    given = [word.format(project=project, tmp=tmp_path) for word in words]
    assert main(["ab", "HEAD~1", "HEAD", *given, "--out", str(tmp_path)]) == 2
    assert text in " ".join(capsys.readouterr().err.split())


def test_a_commit_that_is_none(project: Path, capsys) -> None:
    assert main(["ab", "nothing", "--suite", str(project / "benchmarks")]) == 2
    assert "error: 'nothing' is no commit of sums-project" in capsys.readouterr().err


def test_a_configuration_of_asv_leads_to_its_benchmarks(project: Path) -> None:
    config = project / "asv.conf.json"
    config.write_text(
        '{"version": 1, "project": "x", "repo": ".", "benchmark_dir": "benchmarks", // a comment\n'
        '"default_benchmark_timeout": 90}'
    )
    try:
        assert find_suite(project / "stuck").timeout == 90
        assert find_suite(config) == find_suite(project / "benchmarks")
    finally:
        config.unlink()
    assert find_suite(project / "tests").kind == "pytest"
    assert find_suite(project / "tests" / "test_speed.py").path == Path("tests/test_speed.py")


def test_shares_are_read_as_people_write_them() -> None:
    assert [share(text) for text in ("5%", "0.05", " 0 ", "12.5%")] == [0.05, 0.05, 0.0, 0.125]


def test_blocks_keep_to_what_a_suite_fixes() -> None:
    made: list[str] = []
    blocks = Blocks(Work(lambda: made.append("call"), lambda: made.append("before"), 2), block_seconds=1e-4,
                    warmup_seconds=0.01)  # fmt: skip
    blocks.warm_up()
    made.clear()
    blocks.block()
    assert blocks.number == 2
    assert made == ["before", "call", "call"] * blocks.repeats
    free = Blocks(Work(lambda: sum(range(100))), block_seconds=1e-3, warmup_seconds=0.01)
    free.warm_up()
    assert free.repeats == 1
    assert free.number > 100
    assert free.block()["seconds"] < 1e-4
    assert math.isfinite(free.first_call)


def test_a_cold_call_in_some_does_not_move_a_block_that_is_set_up_before_every_call() -> None:
    calls = iter(range(10**9))

    def sometimes_cold() -> None:
        if next(calls) % 10 == 9:
            time.sleep(0.001)

    blocks = Blocks(Work(sometimes_cold, lambda: None, 1), block_seconds=0.02, warmup_seconds=0.01)
    blocks.warm_up()
    assert blocks.repeats > 10
    assert blocks.block()["seconds"] < 0.0001  # the mean is that at least


def test_pytest_that_fails_by_itself_is_told(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(benchmark):\n    benchmark(sum, [1])\n")
    (tmp_path / "conftest.py").write_text("def pytest_runtestloop():\n    raise OSError('as planted')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p pytest_benchmark.plugin\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    code = f"""
import sys
sys.path.insert(0, {str(Path(lrdiff_bench.__file__).parents[1])!r})
from lrdiff_bench.measure.foreign.inside.pytest_front import run_test
print("why:", run_test("test_it.py::test_it", lambda work: print("measured")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "why: pytest itself ended with status 3" in done.stdout


def test_looks_never_spend_more_than_all_of_them_may() -> None:
    for groups in range(4, 25):
        before = sum(look.error for look in job.LOOKS if look.searches < groups)
        assert before + 1.0 - job.level_of(groups, last=True) == pytest.approx(job.ERROR)
        assert job.level_of(groups, last=True) <= job.level_of(groups, last=False) + 1e-12
