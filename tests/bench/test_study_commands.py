"""``lrdiff study`` as its user sees it: run, ls, show, verdict, export, calibrate; screens, pages, pictures, errors."""

import itertools
import json
import math
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import sqlalchemy

from benchmarks import simulate_study
from benchmarks.simulate_study import SINGLE, TEN, TENTH, Planted, _free
from lrdiff_bench.cli import main
from lrdiff_bench.report.figures import save_figure
from lrdiff_bench.stats.verdict import COURT
from lrdiff_bench.study import folder as study_folder, pictures
from lrdiff_bench.study.search.optuna_storage import open_storage
from lrdiff_bench.study.workloads.workload import WORKLOADS

FAST = {"schemes": (SINGLE, TENTH, TEN), "report_seeds": 30}


MADE = {
    "helpful": lambda: Planted(name="helpful", gain={"ratio 10": 0.1}, question="Planted: it helps.", **FAST),
    "nothing": lambda: Planted(name="nothing", title="Nothing planted", label="control", **FAST),
    "endless": lambda: Planted(
        name="endless", metric="accuracy", schemes=(SINGLE, _free("head")), gain=lambda logs: 0.3 * logs[:, 1]
    ),
}


def plant(patch, folder):
    """Three workloads by formula in an otherwise empty registry; everything happens in ``folder``."""
    patch.setattr("lrdiff_bench.study.workloads.registry.pkgutil.iter_modules", lambda *_: [])
    for name in list(WORKLOADS):
        patch.delitem(WORKLOADS, name)
    for name, maker in MADE.items():
        patch.setitem(WORKLOADS, name, maker)
    patch.chdir(folder)
    patch.setenv("COLUMNS", "80")
    # drawing takes most of the time; the tests that look at pictures draw them
    patch.setattr(
        pictures, "save_figure", lambda figure, stem: [stem.with_suffix(f".{e}").touch() for e in ("png", "svg")]
    )


@pytest.fixture
def drawn(planted, monkeypatch):
    monkeypatch.setattr(pictures, "save_figure", save_figure)


@pytest.fixture(autouse=True)
def planted(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A folder with quick studies of all three, and what ``--all --quick --json`` said; tests get copies."""
    folder = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        plant(patch, folder)
        assert main(["study", "--all", "--quick", "--json"]) == 0
    return folder, json.loads(out.getvalue()), err.getvalue()


@pytest.fixture
def studies(suite):
    """The current folder holds the quick studies of all three."""
    shutil.copytree(suite[0] / "runs", "runs")
    return suite[1]


def run(capsys, *arguments, status=0):
    assert main(["study", *arguments]) == status
    return capsys.readouterr()


def flat(text):
    return " ".join(text.split())


@pytest.mark.slow
def test_a_full_study_from_the_command_to_the_trials(capsys):
    done = run(capsys, "helpful", "--budget", "16")
    said = flat(done.out)
    assert "3 schemes x 16 points x 16 searches x 4 seeds = 3072 trainings, then" in said
    assert re.search(r"HELPS: tuned ratio 10 gains \+0\.(10|09)", said)
    assert "settled after 16 searches" in said
    assert "0.02 is the smallest difference that matters" in said
    for column in ("untuned default (0.001)", "tuned single", "tuned ratio 10"):
        assert column in said
    assert "ratio 10 *" in said
    assert "QUICK" not in said
    assert max(map(len, done.out.splitlines())) <= 80

    # the same command again trains nothing and says the same
    again = run(capsys, "helpful", "--budget", "16")
    assert _verdicts(again.out) == _verdicts(done.out)

    shown = run(capsys, "show", "helpful")
    assert _verdicts(shown.out) == _verdicts(done.out)

    traced = flat(run(capsys, "verdict", "helpful").out)
    document = json.loads(run(capsys, "verdict", "helpful", "--json").out)
    assert document["gain"]["verdict"] == "HELPS"
    for scheme in document["schemes"][::2]:
        for winner in scheme["winners"]:
            assert f'{scheme["name"]}, search {winner["search"] + 1}: trial {winner["trial"]} of "helpful"' in traced
    assert "storage: sqlite:///runs/study/studies.db" in traced

    folder = Path("runs/study/helpful")
    assert {file.name for file in folder.iterdir()} == {
        "study.json",
        *(f"helpful-{kind}.{end}" for kind in ("best-of", "pairs", "steps") for end in ("png", "svg")),
    }


@pytest.mark.slow
def test_a_verdict_can_be_recomputed_from_its_trials_by_hand(capsys, studies):
    """From the numbers in the storage, with none of the project's code but the reading."""
    import optuna

    document = json.loads(run(capsys, "verdict", "helpful-quick", "--json").out)
    storage = optuna.storages.RDBStorage("sqlite:///runs/study/studies.db")
    search, report = (
        optuna.load_study(storage=storage, study_name=name).trials for name in ("helpful-quick", "helpful-quick.report")
    )
    gaps = []
    for repeat in range(3):
        finals = []
        for scheme in ("single", "ratio 10"):
            own = [t for t in search if (t.user_attrs["scheme"], t.user_attrs["about"]["search"]) == (scheme, repeat)]
            front = sorted(own, key=lambda t: t.value)[:4]  # the finalists, trained again
            of_kind = {
                kind: [
                    t
                    for t in report
                    if t.user_attrs["about"]["kind"] == kind
                    and (t.user_attrs["scheme"], t.user_attrs["about"]["search"]) == (scheme, repeat)
                ]
                for kind in ("final", "report")
            }
            assert sorted(str(t.params) for t in of_kind["final"]) == sorted(str(t.params) for t in front)
            best = min(of_kind["final"], key=lambda t: t.value)
            winner = next(s for s in document["schemes"] if s["name"] == scheme)["winners"][repeat]
            assert winner["final_trial"] == best.number
            assert search[winner["trial"]].params == best.params
            (fresh,) = of_kind["report"]
            assert fresh.params == best.params
            finals.append(np.array(fresh.user_attrs["row"]["final"]))
        gap = np.sort(finals[1] - finals[0])
        gaps.append(gap[3:-3].mean())  # 12 seeds: the middle six
    storage.engine.dispose()
    assert document["gain"]["estimate"] == pytest.approx(-np.mean(gaps))
    assert document["gain"]["by_search"] == pytest.approx(-np.array(gaps))


@pytest.mark.slow
def test_quick_is_marked_in_every_output(capsys, suite, studies, drawn):
    outputs = [suite[2]]
    outputs.append(run(capsys, "show", "nothing-quick").out)
    outputs.append(run(capsys, "verdict", "nothing-quick").out)
    outputs.append(run(capsys, "ls").out)
    run(capsys, "export", "nothing-quick", "--out", "page.md")
    outputs.append(Path("page.md").read_text())
    for kind in ("best-of", "pairs", "steps"):
        outputs.append(Path(f"page-nothing-quick-{kind}.svg").read_text())
    outputs.append(Path("page-verdicts.svg").read_text())
    for text in outputs:
        assert "QUICK" in text
    assert json.loads(run(capsys, "show", "nothing-quick", "--json").out)["studies"][0]["mode"] == "quick"
    assert "REDUCED" in run(capsys, "nothing", "--budget", "4", "--seeds", "10", "--out", "less").out


def test_all_of_them_with_holm_over_workloads(capsys, suite, studies):
    _, document, screen = suite
    assert [one["name"] for one in document["studies"]] == ["endless-quick", "helpful-quick", "nothing-quick"]
    together = document["suite"]
    assert together["gains"]["helpful-quick"]["verdict"] == "HELPS"
    assert together["gains"]["helpful-quick"]["holm_p"] >= together["gains"]["helpful-quick"]["p"]
    assert len(together["schemes"]) == 5
    assert set(together["profiles"]) == {"tuned differential", "untuned default"}
    assert together["interquartile_mean"][1] <= together["interquartile_mean"][0] <= together["interquartile_mean"][2]
    assert "All workloads" in screen  # with --json it goes to stderr
    assert "widened for this scheme, searched again" in flat(screen)
    endless = document["studies"][0]
    assert endless["gain"]["verdict"] == "INCONCLUSIVE"
    assert "still lies at the edge after widening once" in endless["void"]

    page = run(capsys, "export", "--out", "convergence.md")
    assert "3 studies, 22 pictures" in page.out
    text = Path("convergence.md").read_text()
    assert "| helpful QUICK | loss |" in text
    assert "| nothing (control) QUICK |" in text
    assert "Holm's correction over 3 studies" in text
    assert "torch" in text
    assert "tuning seeds 1000000 to 1000005, reporting seeds 1000 to 1035" in text
    for picture in re.findall(r"\]\(([^)]+\.png)\)", text):
        assert Path(picture).is_file()
        assert Path(picture).with_suffix(".svg").is_file()
    assert text.count("![") == 11


@pytest.mark.slow
def test_a_page_is_written_again_from_records_without_the_storage(capsys, suite, studies):
    run(capsys, "export", "--out", "first.md", "--no-pictures")
    run(capsys, "export", "helpful-quick", "nothing-quick", "--records", "kept", "--out", "some.md", "--no-pictures")
    assert sorted(file.name for file in Path("kept").iterdir()) == ["helpful-quick.json.gz", "nothing-quick.json.gz"]
    both = Path("some.md").read_text()
    run(capsys, "export", "endless-quick", "--records", "kept", "--out", "one.md", "--no-pictures")
    assert "| nothing" not in Path("one.md").read_text()
    elsewhere = ("--from", "nowhere", "--records", "kept", "--no-pictures")
    run(capsys, "export", *elsewhere, "--out", "again.md")

    def rows(page: str) -> str:
        return page.partition("\n| ")[2].replace(" QUICK", "")  # the command above it is another

    assert rows(Path("again.md").read_text()) == rows(Path("first.md").read_text())
    run(capsys, "export", "nothing-quick", "helpful-quick", *elsewhere, "--out", "turned.md")
    turned = re.findall(r"^## (\S+)-quick: ", Path("turned.md").read_text(), flags=re.MULTILINE)
    assert turned == ["nothing", "helpful"]  # as they were asked for
    run(capsys, "export", "helpful-quick", "nothing-quick", *elsewhere, "--out", "again.md")
    assert rows(Path("again.md").read_text()) == rows(both)
    for names, said in (
        (["helpfull-quick"], 'there is no study "helpfull-quick"'),
        ([], "quick.json.gz is damaged"),
    ):
        if not names:
            Path("kept/nothing-quick.json.gz").write_bytes(Path("kept/nothing-quick.json.gz").read_bytes()[:-9])
        assert main(["study", "export", *names, *elsewhere, "--out", "again.md"]) == 2
        assert said in capsys.readouterr().err


def test_a_replication_has_other_seeds_another_name_and_the_same_verdict(capsys, studies):
    again = run(capsys, "helpful", "--quick", "--seeds-from", "7000", "--searches", "4")
    assert "HELPS" in again.out
    names = ("helpful-quick", "helpful-from-7000-quick")
    first, second = (json.loads(run(capsys, "verdict", name, "--json").out) for name in names)
    assert second["plan"]["searches"] == 4
    for kind in ("report", "target"):
        assert second["seeds"][kind][0] == first["seeds"][kind][0] + 7000
    assert second["gain"]["verdict"] == first["gain"]["verdict"]
    assert second["gain"]["estimate"] != first["gain"]["estimate"]
    # what was planted, to the smallest difference: one interval in twenty leaves it out, on one machine or another
    assert second["gain"]["estimate"] == pytest.approx(0.1, abs=0.02)


def test_a_toml_file_tests_a_claim(capsys):
    Path("claim.toml").write_text(
        'workload = "nothing"\nsource = "somebody"\n[[schemes]]\nname = "head x 3"\nratios = { head = 3.0 }\n'
    )
    done = run(capsys, "claim.toml", "--quick")
    assert "head x 3" in done.out
    assert "claimed by: somebody" in done.out
    assert "claim-quick" in run(capsys, "ls").out


@pytest.mark.slow
def test_a_claim_is_judged_by_its_studies_on_the_screen_and_on_a_page(capsys, studies):
    Path("claim.toml").write_text(
        'title = "Ten times"\nsource = "Somebody 2020"\nsays = "The head wants more."\nscheme = "ratio 10"\n'
        'expects = "HELPS"\nstudies = ["helpful-quick", "nothing-quick", "later"]\nscale = "Planted."\n'
    )
    found = json.loads(run(capsys, "claims", "claim.toml", "--json").out)["findings"]
    assert [(one["study"], one["outcome"]) for one in found] == [
        ("helpful-quick", "as claimed"),
        ("nothing-quick", "open"),
        ("later", "not run"),
    ]
    screen = flat(run(capsys, "claims", "claim.toml").out)
    assert "verdicts after Holm's correction over 2" in screen
    assert "not run yet: lrdiff study later --until-resolved" in screen
    run(capsys, "claims", "claim.toml", "--out", "claims.md")
    page = Path("claims.md").read_text()
    assert "| Ten times | helpful-quick, nothing-quick, later | HELPS |" in page
    assert "| helpful-quick QUICK | loss |" in page
    assert "| as claimed |" in page


def test_ls_before_anything(capsys):
    said = flat(run(capsys, "ls").out)
    assert "helpful" in said
    assert "nothing (control)" in said
    assert "no studies yet; begin with: lrdiff study NAME --quick" in said
    assert not Path("runs").exists()
    assert flat(run(capsys).out) == said  # `lrdiff study` alone
    assert [w["name"] for w in json.loads(run(capsys, "ls", "--json").out)["workloads"]] == [
        "endless",
        "helpful",
        "nothing",
    ]


@pytest.mark.parametrize(
    ("arguments", "message", "help"),
    [
        (["helpfull"], 'there is no workload and no file "helpfull"', 'did you mean helpful?'),
        (["none.toml"], "no such file: none.toml", "lrdiff study ls"),
        (["show", "helpful"], "there are no studies at runs/study/studies.db", "lrdiff study NAME --quick"),
        (["verdict", "x", "--storage", "sqlite:///no.db"], "there are no studies at no.db", "run one"),
        (["--all", "helpful"], "--all was given together", "leave one"),
        (["helpful", "--data", "wine"], "was given together with --model", "TOML file"),
        (["helpful", "--budget", "2"], "budget is 2", "from 4"),
        (["helpful", "--searches", "1"], "searches is 1", "from 2"),
        (["helpful", "--searches", "20"], "is 20, and a study is judged after 16, 24, 40, 64 and 100", "REDUCED"),
        (["helpful", "--quick", "--until-resolved"], "--until-resolved adds searches from 16 up", "leave out --quick"),
        (["helpful", "--searches", "5", "--until-resolved"], "a smaller study cannot be continued", "leave out"),
        (["helpful", "--minutes", "0"], "--minutes is 0", "above 0"),
        (["helpful", "--until-resolved", "--minutes", "-1"], "--minutes is -1", "above 0"),
        (["helpful", "--seeds-from", "-5"], "seeds_from is -5", "from 0"),
        (["helpful", "--seeds", "many"], "Invalid value for '--seeds'", "--help"),
        (["helpful", "helpful"], "two studies would have one name", "rename one of the files"),
        (["--data", "wine", "--groups", "body"], '--groups has "body"', "NAME=PATTERN"),
        (["--data", "no.csv"], "no.csv", ""),
        (["helpful", "--storage", "nonsense"], "cannot open the storage", "postgresql://"),
        (["--model", "mine:make"], "no rows are named to train on", "add --data FILE"),
        (["export", "--out", "page.txt"], "--out is page.txt", "Markdown"),
        (["export", "--out", "no/page.md"], "there is no folder no", "make it"),
    ],
)  # fmt: skip
def test_wrong_input_is_two_lines_and_leaves_nothing(arguments, message, help, capsys):
    failed = run(capsys, *arguments, status=2)
    assert failed.out == ""
    error, hint = failed.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("help: ")
    assert help in hint
    assert not list(Path().rglob("*.db"))


@pytest.mark.slow
def test_a_study_in_the_storage_that_is_not_there_or_not_finished(capsys, studies):
    failed = run(capsys, "verdict", "helpfull", status=2)
    assert "studies: endless-quick, helpful-quick, nothing-quick" in failed.err

    import optuna

    storage = optuna.storages.RDBStorage("sqlite:///runs/study/studies.db")
    optuna.delete_study(storage=storage, study_name="helpful-quick.report")
    optuna.create_study(storage=storage, study_name="helpful-quick.report")
    optuna.load_study(storage=storage, study_name="helpful-quick").set_user_attr("said", {})
    storage.engine.dispose()
    failed = run(capsys, "show", "helpful-quick", status=2)
    assert 'study "helpful-quick" is not finished: 0 of' in failed.err
    assert "continues where it stopped" in failed.err
    assert "not finished" in run(capsys, "ls").out
    run(capsys, "helpful", "--quick")  # and so it does


def test_other_settings_need_another_folder(capsys, studies):
    failed = run(capsys, "helpful", "--quick", "--seeds", "20", status=2)
    assert 'study "helpful-quick" was made with report_seeds 12, not 20' in failed.err
    assert "another --out" in failed.err


def test_the_simulation_prints_the_counts_and_fails_above_5_percent(capsys, monkeypatch):
    for name in ("LUCKS", "DIVERGING"):
        monkeypatch.setattr(simulate_study, name, getattr(simulate_study, name)[:1])
    assert simulate_study.main(2) == 0
    said = capsys.readouterr().out
    assert re.search(r"luck of searches: normal +0 +0 +0 +2 +0 +0", said)
    assert re.search(r"1.5 deviations of searches( +\d+){5}", said)
    monkeypatch.setattr(simulate_study, "simulate", lambda luck, truth, studies: simulate_study.Counts(
        verdicts={"HELPS": studies}, wrong=studies, student=0, settled_at=()
    ))  # fmt: skip
    assert simulate_study.main(2) == 1


# looks


@pytest.fixture
def faint(planted, monkeypatch):
    """A workload whose searches differ by more than 16 of them can average away."""
    made = Planted(name="faint", seed_noise=0.0, setting_noise=0.025, **FAST)
    monkeypatch.setitem(WORKLOADS, "faint", lambda: made)


def interrupted(train, after):
    calls = itertools.count()

    def trained(self, trials):
        if next(calls) >= after:
            raise KeyboardInterrupt
        return train(self, trials)

    return trained


def looks(capsys, name):
    document = json.loads(run(capsys, "verdict", name, "--json").out)
    told = [[one["searches"] for one in s["gain"]["looks"]] for s in document["schemes"] if s["gain"]]
    return document, told


def trials_of(name):
    with sqlite3.connect("runs/study/studies.db") as kept:
        ids = "(SELECT study_id FROM studies WHERE study_name IN (?, ?))"
        return kept.execute(f"SELECT count(*) FROM trials WHERE study_id IN {ids}", (name, f"{name}.report")).fetchone()


@pytest.mark.slow
def test_a_study_grows_until_every_comparison_is_settled_and_keeps_what_it_said(capsys, faint, monkeypatch):
    small = ("--budget", "4", "--seeds", "4")
    first = run(capsys, "faint", *small)
    document, told = looks(capsys, "faint")
    assert told == [[16], [16]]
    assert document["gain"]["verdict"] == "INCONCLUSIVE"
    assert re.search(r"\d+ more searches would settle it if the estimate stays, about .* here", flat(first.out))
    before = document["schemes"][1]["gain"]

    # stopped within the next look: the last one still stands, and the same command goes on
    with monkeypatch.context() as patch:
        patch.setattr(Planted, "train", interrupted(Planted.train, after=30))
        run(capsys, "faint", *small, "--until-resolved", "--searches", "24", status=130)
    assert looks(capsys, "faint")[1] == [[16], [16]]
    told = flat(run(capsys, "faint", *small, "--until-resolved", "--searches", "24").out)
    assert "16 searches: " in told
    assert "on to 24 for" in told
    done = flat(run(capsys, "faint", *small, "--until-resolved").out)
    assert "3 schemes x 4 points x 24 searches" in done  # goes on from there
    # which of the two is settled by then differs with the last bits of a processor's arithmetic
    assert re.search(r"24 searches: [01] of 2 comparisons settled; on to 40 for ratio", done)
    assert "40 searches: 2 of 2 comparisons settled" in done
    assert re.search(r"NO DIFFERENCE: tuned ratio 0.1 .* settled after 40 searches", done)
    document, told = looks(capsys, "faint")
    assert told == [[16, 24, 40]] * 2
    after = document["schemes"][1]["gain"]
    assert after["looks"][0] == before["looks"][0]
    assert (document["chosen"], after["verdict"]) == ("ratio 0.1", "NO DIFFERENCE")

    # the same again, and a smaller number, train nothing and say the same
    trials = trials_of("faint")
    for more in (["--until-resolved"], ["--searches", "16"]):
        assert _verdicts(run(capsys, "faint", *small, *more).out) == _verdicts(run(capsys, "show", "faint").out)
    assert trials_of("faint") == trials
    run(capsys, "export", "faint", "--out", "page.md", "--no-pictures")
    assert re.search(
        r"- ratio 10 by itself after 16 .* INCONCLUSIVE; 24 .*; 40 .* NO DIFFERENCE", Path("page.md").read_text()
    )


@pytest.mark.slow
def test_a_budget_in_minutes_begins_no_look_that_would_end_later(capsys, faint):
    said = flat(run(capsys, "faint", "--budget", "4", "--seeds", "4", "--until-resolved", "--minutes", "1e-9").out)
    assert re.search(r"16 searches: . of 2 comparisons settled; 24 take about [\d.]+ (s|min) more, 0 s are left", said)
    assert looks(capsys, "faint")[1] == [[16], [16]]


@pytest.mark.slow
def test_minutes_end_a_study_between_two_trainings_and_it_goes_on(capsys, faint, monkeypatch):
    small = ["faint", "--budget", "4", "--seeds", "4"]
    said = flat(run(capsys, *small, "--minutes", "1e-9").out)
    assert re.search(r"faint: 1e-09 min are over; searching: 0 of \d+ trainings. The same command goes on", said)
    clock = iter(range(10**6))
    with monkeypatch.context() as patch:  # one tick a look at it: some batches are trained, and no more
        patch.setattr("lrdiff_bench.study.search.stopping.time", SimpleNamespace(monotonic=lambda: next(clock)))
        patch.setattr("lrdiff_bench.study.commands.run.deadline_of", lambda minutes: 4 if minutes else math.inf)
        said = flat(run(capsys, *small, "--minutes", "1", "--json").err)
    done, total = map(int, re.search(r"searching: (\d+) of (\d+) trainings", said).groups())
    assert 0 < done < total
    study = optuna.load_study(storage=open_storage("sqlite:///runs/study/studies.db"), study_name="faint")
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "WAITING"}  # nothing was cut
    first = {trial.number: trial.datetime_complete for trial in study.trials if trial.state.name == "COMPLETE"}
    run(capsys, *small, "--minutes", "60")
    again = {trial.number: trial.datetime_complete for trial in study.get_trials()}
    assert again.items() > first.items()  # and nothing is done twice
    assert None not in again.values()
    assert _verdicts(run(capsys, "show", "faint").out)


@pytest.mark.slow
def test_pictures_are_the_same_bytes_again(capsys, studies, drawn):
    for folder in ("a", "b"):
        Path(folder).mkdir()
        run(capsys, "export", "helpful-quick", "--out", f"{folder}/page.md")
    assert len(list(Path("a").iterdir())) == 9
    for file in Path("a").iterdir():
        if file.suffix != ".md":
            assert file.read_bytes() == (Path("b") / file.name).read_bytes(), file.name


def test_help_does_not_import_torch_optuna_or_scipy():
    code = """
import sys
from lrdiff_bench.cli import main
main(["study", "--help"])
assert not {"torch", "optuna", "scipy", "numpy"} & set(sys.modules), set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "ls", "show", "verdict", "export"):
        assert command in done.stdout


def test_without_optuna_it_is_unavailable(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    failed = run(capsys, "helpful", "--quick", status=3)
    assert "help: pip install optuna" in failed.err


def _verdicts(text):
    return [line for line in text.splitlines() if re.search(r"HELPS|HURTS|NO DIFFERENCE|INCONCLUSIVE", line)]


@pytest.mark.parametrize(
    ("storage", "status", "said"),
    [
        (None, 2, "the storage sqlite:///runs/study/studies.db failed"),
        ("postgresql://me:x@host/s", 3, "me:***@host/s failed"),
    ],
)
def test_a_storage_that_fails_half_way_is_told_in_two_lines(capsys, monkeypatch, storage, status, said):
    full = sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    def fail(*_):
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from full

    opened = open_storage("sqlite:///other.db")
    if storage is not None:
        monkeypatch.setattr("lrdiff_bench.study.search.ledger.open_storage", lambda url: opened)
    monkeypatch.setattr("lrdiff_bench.study.search.ledger.StorageLedger._tell", fail)
    arguments = ["helpful", "--quick", *([] if storage is None else ["--storage", storage])]
    err = run(capsys, *arguments, status=status).err
    assert f"{said}: database or disk is full\nhelp: fix it; what is trained is kept" in err
    assert "Traceback" not in err
    monkeypatch.undo()


def test_the_list_takes_kept_verdicts_and_reads_trials_only_where_there_is_none(studies, capsys, monkeypatch):
    def states(*, readable):
        reads = []
        whole = study_folder.read_study
        monkeypatch.setattr(
            study_folder, "read_study", lambda url, name, **k: reads.append(name) or whole(url, name, **k)
        )
        listed = json.loads(run(capsys, "ls", "--json").out)["studies"]
        assert reads == readable
        monkeypatch.setattr(study_folder, "read_study", whole)
        return {one["name"]: (one["state"], one["trials"]) for one in listed}

    kept = states(readable=[])
    said = {one["name"]: one["gain"]["verdict"] for one in studies["studies"]}
    assert {name: state for name, (state, _) in kept.items()} == said
    assert all(trials > 100 for _, trials in kept.values())
    study = optuna.load_study(storage=open_storage("sqlite:///runs/study/studies.db"), study_name="helpful-quick")
    assert len(study.get_trials(deepcopy=False)) == kept["helpful-quick"][1]
    # words of other rules, or of fewer searches, are not trusted
    for change in ({"court": 1}, {"searches": 99}):
        study.set_user_attr("said", {**study.user_attrs["said"], **change, "verdict": "HURTS"})
        assert states(readable=["helpful-quick"]) == kept
        study.set_user_attr("said", {"verdict": "HELPS", "searches": 3, "court": COURT})
