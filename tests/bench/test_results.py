"""The pages of docs/results: each is what its record gives, and says where it comes from; or why it has none."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from test_pages import MEASURED, POPULATION, STEP, TRAINING_STEP

from benchmarks import results
from benchmarks.results import PAGES, RESULTS, page_of, record_of
from lrdiff_bench.cli import main
from lrdiff_bench.report.record import PageFiles, read_record, write_record
from lrdiff_core.errors import CheckpointError, InputError

EARLIER = "measured by its command as it was before --record; the next `make measure` keeps the record"
WITHOUT_RECORD: dict[str, tuple[str, set[str]]] = {  # why, and what the page does not say
    "again": ("written from docs/results/replications by `lrdiff study export`", set()),
    "ab": ("a campaign over days: its comparisons are ab.jsonl, and test_ab_counts.py holds the page to them", set()),
    "benchmarks": (EARLIER, set()),
    "claims": ("written from docs/results/studies by `lrdiff study claims`", set()),
    "claims-studies": ("written from docs/results/studies by `lrdiff study export`", set()),
    "convergence": ("written from docs/results/studies by `lrdiff study export`", set()),
    "export-compare": (EARLIER, set()),
    "export-mutations": (EARLIER, {"commit"}),
    "maps": ("what `lrdiff map` printed, of maps whose folders were not kept: twenty minutes of two cores", set()),
    "replications": ("written from docs/results/replications by `lrdiff study export`", set()),
    "state-formats-studies": ("written from docs/results/state-formats-studies by `lrdiff study export`", set()),
    "tables": (EARLIER, {"machine", "commit"}),
    "tune": ("benchmarks.tune_rates keeps its parts in build/, and no record", {"machine", "commit"}),
}  # fmt: skip
SAYS = {
    "command": r"`(lrdiff|python|make) ?[^`]+`",
    "commit": r"commit:? `?[0-9a-f]{10}",
    "machine": r"\b(AMD|Intel|Apple|ARM)\b",
}
NAMES = sorted(file.stem for file in RESULTS.glob("*.md"))
RECORDED = [name for name in NAMES if record_of(name) is not None]


def test_every_page_has_a_record_or_a_reason() -> None:
    assert {name for name in NAMES if name not in RECORDED} <= WITHOUT_RECORD.keys()
    assert not set(RECORDED) & WITHOUT_RECORD.keys(), "it has a record now: take it out of the exceptions"
    kept = {file.name.partition(".")[0] for file in (RESULTS / "records").glob("*.json*")}
    assert kept == set(RECORDED)


def test_pages_are_what_their_records_give() -> None:
    for name in RECORDED:
        file = record_of(name)
        assert file is not None
        document, text = page_of(name, file)
        assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == text, f"{name}: make results"
        for said in (document["command"], document["machine"]["cpu"], document["commit"].split(",")[0]):
            assert said in text, name
        assert file.stat().st_size <= 50 * 1024, f"{name}: no raw samples"


def test_what_a_page_without_a_record_does_not_say_is_known() -> None:
    for name in NAMES:
        text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
        unsaid = {what for what, words in SAYS.items() if not re.search(words, text)}
        assert unsaid <= WITHOUT_RECORD.get(name, ("", set()))[1], name


def test_the_page_of_claims_is_what_the_records_of_studies_give(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no studies lie
    assert main(["study", "claims", "--records", str(RESULTS / "studies"), "--out", "claims.md"]) == 0
    written, kept = (file.read_text(encoding="utf-8") for file in (Path("claims.md"), RESULTS / "claims.md"))
    assert ", commit " in kept
    first, command = "Written by `", "lrdiff study claims --records docs/results/studies --out docs/results/claims.md"
    rows = [line.split(" | ") for line in kept.partition("\n\n## ")[0].splitlines() if re.search("HELPS|NO DIFF", line)]
    for _, studies, _, *counted in rows:
        for words in counted:  # "HELPS (2), not run": one word for each study
            times = [int(found[1]) if (found := re.search(r"\((\d+)\)", word)) else 1 for word in words.split(", ")]
            assert sum(times) == len(studies.split(", ")), words
    head, _, rest = kept.partition(first)
    assert rest.startswith(f"{command}`. ")
    after = written.partition(first)[2].partition("`. ")[2]
    assert kept == f"{head}{first}{command}`. {after}", "write it again, by its command"


@pytest.mark.parametrize(
    ("page", "records"),
    [
        ("convergence", "studies"),
        ("claims-studies", "studies"),
        ("replications", "replications"),
        ("again", "replications"),
        ("state-formats-studies", "state-formats-studies"),
    ],
)
def test_a_page_of_studies_is_what_their_records_give(page: str, records: str, tmp_path: Path, monkeypatch) -> None:
    kept = (RESULTS / f"{page}.md").read_text(encoding="utf-8")
    said = re.search(r"`lrdiff (study export [^`]*)`", kept)
    assert said is not None
    command = shlex.split(said[1])
    assert command[command.index("--records") + 1] == f"docs/results/{records}"
    assert command[command.index("--out") + 1] == f"docs/results/{page}.md"
    monkeypatch.chdir(tmp_path)
    command[command.index("--records") + 1] = str(RESULTS / records)
    command[command.index("--out") + 1] = f"{page}.md"
    if "--against" in command:
        at = command.index("--against") + 1
        assert command[at] == "docs/results/studies"
        command[at] = str(RESULTS / "studies")
    assert main([*command, *([] if "--no-pictures" in command else ["--no-pictures"])]) == 0
    written = Path(f"{page}.md").read_text(encoding="utf-8")
    pictures = re.compile(r"\n!\[[^\n]*\)\n")  # drawn for the page alone
    same = [pictures.sub("", re.sub(r"`lrdiff study export [^`]*`", "", text)) for text in (written, kept)]
    assert same[0] == same[1], "write it again, by its command"


BOOST = MEASURED | {
    "steps": 400, "rounds": 12, "threads": 1,
    "rows": [{"script": "plain", "about": "A plain loop.", "replaced": "1 of 1", "ours": 0.5,
              "fused": [1.2, 1.1, 1.3, 0.95], "default": [2.0, 1.9, 2.1, 0.95], "against_fused": "faster",
              "against_default": "faster"}],
}  # fmt: skip
MODEL = {"done": True, "seconds": {"convert": 1.0, "verify": 0.5, "parity": 0.7}, "peak": 2**30, "why": ""}
DOCUMENTS = {
    "step": STEP,
    "training": TRAINING_STEP,
    "population": POPULATION,
    "boost": BOOST,
    "export-compare": MEASURED | {"rows": [{"model": "main", "theirs": {"size": 2}, "ours": {"size": 1}}]},
    "export-models": MEASURED | {"rows": [{"model": "main", "plain": MODEL, "ours": MODEL, "parity": MODEL}]},
    "optimizers": MEASURED | {
        "missing": ["torchao"],
        "libraries": [{"name": "torch", "version": "2.13.0", "rows": [
            {"name": "torch.Adam", "verdict": "driven", "head": 2.0, "body": 1.0, "note": ""},
            {"name": "torch.LBFGS", "verdict": "not driven", "head": None, "body": None, "note": "a | closure"}]}],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_page_is_written_again_from_its_record(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    records = tmp_path / "records"
    records.mkdir()
    spec = results._named(PAGES[name].module, PAGES[name].spec)
    write_record(records / f"{name}.json", {**DOCUMENTS[name], **spec})
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert results.main([name]) == 0
    text = (tmp_path / f"{name}.md").read_text()
    assert all(said in text for said in ("abc123", "a processor", MEASURED["command"]))
    assert "no record, left as it is" not in capsys.readouterr().out
    assert results.main([]) == 0
    assert capsys.readouterr().out.count("no record, left as it is") == len(PAGES) - 1


def test_the_command_reads_what_it_kept(tmp_path: Path, capsys) -> None:
    record, page = tmp_path / "step.json", tmp_path / "step.md"
    files = PageFiles(out=page, record=record)
    document = files.document(lambda: STEP, format="lrdiff.step_table", version=2)
    assert read_record(record, format="lrdiff.step_table", version=2) == document
    assert main(["bench", "step", "--from", str(record), "--out", str(page)]) == 1  # a goal is missed there
    assert page.read_text() == capsys.readouterr().out
    assert main(["bench", "population", "--from", str(record)]) == 2
    assert "is not a record of lrdiff.population_speed" in capsys.readouterr().err
    changed = json.loads(record.read_text())
    changed["rows"][0]["ours"] /= 2
    record.write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="changed or damaged"):
        read_record(record, format="lrdiff.step_table", version=2)
    with pytest.raises(InputError, match="cannot write .*: no folder"):
        PageFiles(record=tmp_path / "nowhere" / "a.json")


def test_a_record_may_be_compressed(tmp_path: Path) -> None:
    file = tmp_path / "a.json.gz"
    write_record(file, {"format": "a", "version": 1, "rows": [[0.1, None]] * 1000})
    assert read_record(file, format="a", version=1)["rows"][0] == [0.1, None]
    assert file.stat().st_size < 1000
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_record(file, format="a", version=1)
