"""The command line: what it does with good input, and what it says of bad input."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.study.settings import SchemeTable, StudySettings
from lrdiff_bench.system.settings import gather
from lrdiff_core.config import CompareConfig, RunConfig, make_config
from lrdiff_core.errors import MemoryWarning, warn

HEADER = "a,b,y\n"
ROWS = "".join(f"{i % 7},{i % 5},{'yes' if (i % 7) > (i % 5) else 'no'}\n" for i in range(60))
MANY = "".join(f"1,{i / 7:.3f},{'yes' if i % 2 else 'no'}\n" for i in range(60))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run called ``run`` on a file of the user's."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "rows.csv").write_text(HEADER + ROWS)
    assert main(["train", "--data", str(folder / "rows.csv"), "--target", "y", "--out", str(folder / "run")]) == 0
    return folder


def refused(capsys, arguments, *, status=2):
    """Run a command that must fail, check the form of the failure, and return its two lines."""
    before = sorted(Path().rglob("*"))
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert sorted(Path().rglob("*")) == before, "something was written"
    lines = err.strip().split("\n")
    assert len(lines) == 2, err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("help: ")
    return lines[0].removeprefix("error: "), lines[1].removeprefix("help: ")


def write(name, text):
    Path(name).write_text(text)
    return name


# ---- good input


def test_help_answers_at_once():
    """Seconds depend on the machine; what is imported does not: about 170 modules beside Python's own, in 0.15 s."""
    code = (
        "import sys; before = set(sys.modules); from lrdiff_bench.cli import main; main(['--help'])\n"
        "print(*(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "doctor" in done.stdout
    loaded = set(done.stderr.split())
    heavy = {"torch", "numpy", "scipy", "pydantic", "rich", "jinja2", "matplotlib", "polars", "onnx", "onnxruntime"}
    assert not loaded & heavy
    assert len(loaded) < 220


@pytest.mark.parametrize("command", ["run", "train", "predict", "export", "verify", "trace", "doctor"])
def test_every_command_has_help(capsys, command):
    assert main([command, "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


def test_names_in_help_texts_are_names_that_are_known():
    from typing import get_args, get_type_hints

    from lrdiff_bench.parity.options import parity
    from lrdiff_bench.run.options import train
    from lrdiff_bench.run.use.options import export, verify
    from lrdiff_bench.stats.looks import LOOKS
    from lrdiff_bench.study.options import run as study
    from lrdiff_bench.study.tune.options import tune
    from lrdiff_core.config import Impute, ScheduleName
    from lrdiff_export import BACKENDS, Allowance
    from lrdiff_export.publish.variants import VARIANTS

    files = {name for name, one in BACKENDS.items() if one.needs_onnx}
    searches = {str(look.searches) for look in LOOKS}
    tasks = get_args(get_type_hints(RunConfig)["task"])
    for command, option, pattern, known, whole in (
        (verify, "runtime", r": (.*) or another", files, False),
        (parity, "backends", r"such as (.*?)\.", BACKENDS, False),
        (train, "schedule", r": (.*)\.", get_args(ScheduleName), True),
        (train, "task", r"(.*)\.", tasks, True),
        (train, "impute", r": (.*)\.", get_args(Impute), True),
        (export, "variant", r": (.*)\.", {"fp32", *VARIANTS}, True),
        (export, "allow", r"such as (.*)\.", Allowance.__dataclass_fields__, False),
        (study, "searches", r": (.*?)\.", searches, True),
        (tune, "searches", r": (.*?)\.", searches, True),
    ):
        help = get_type_hints(command, include_extras=True)[option].__metadata__[0].help
        found = re.search(pattern, help)
        assert found, help
        names = [re.sub(r"[ =].*", "", one) for one in re.split(r", ?| or ", re.sub(r" \(.*?\)", "", found[1]))]
        assert set(names) <= set(known), (option, names)
        assert not whole or set(names) == set(known), (option, names)


def test_predict_writes_the_models_own_answers(trained, here, capsys):
    import torch

    from lrdiff_core import load_checkpoint

    rows = write("new.csv", "b,other,a\n1,x,2\n4,y,0\n")
    assert main(["predict", str(trained / "run"), "--data", rows]) == 0
    printed = capsys.readouterr().out
    assert main(["predict", str(trained / "run"), "--data", rows, "--out", "answers.csv"]) == 0
    assert Path("answers.csv").read_text() == printed
    net, _ = load_checkpoint(trained / "run" / "model.safetensors")
    with torch.no_grad():
        p = net.predict(torch.tensor([[2.0, 1.0], [0.0, 4.0]]))[:, 0]
    lines = [line.split(",") for line in printed.splitlines()]
    assert lines[0] == ["y", "p(no)", "p(yes)"]
    assert [float(line[2]) for line in lines[1:]] == pytest.approx(p.tolist())
    assert [line[0] for line in lines[1:]] == ["yes" if value > 0.5 else "no" for value in p]


def test_export_and_verify(trained, here, capsys):
    assert main(["export", str(trained / "run"), "--out", "m.onnx"]) == 0
    assert "probability: agrees" in capsys.readouterr().out
    assert main(["verify", "m.onnx", "--run", str(trained / "run"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert report["rows"] == 9


@pytest.mark.slow
def test_verify_fails_with_status_1_on_another_models_file(trained, here, capsys):
    write("rows.csv", HEADER + ROWS)
    assert main(["train", "--data", "rows.csv", "--target", "y", "--seed", "5", "--out", "other"]) == 0
    assert main(["export", "other"]) == 0
    capsys.readouterr()
    assert main(["verify", "other/model.onnx", "--run", str(trained / "run")]) == 1
    assert "probability: DIFFERS" in capsys.readouterr().out


def test_trace_shows_the_stages_again(trained, capsys):
    assert main(["trace", str(trained / "run")]) == 0
    out = capsys.readouterr().out
    for title in ("Data", "Preprocessing", "Feature engineering", "Training", "Metrics", "Prediction"):
        assert title in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_doctor_lists_what_is_here_and_why_the_rest_is_not(capsys):
    assert main(["doctor"]) == 0
    table = capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    names = {entry["name"] for entry in entries}
    assert {
        "lrdiff",
        "torch",
        "onnxruntime",
        "cuda",
        "mps",
        "C++ compiler",
        "optimizer kernel",
        "check of a step",
    } <= names
    for entry in entries:
        assert entry["available"] == (entry["reason"] is None)
        assert entry["name"] in table


def test_json_is_the_only_thing_on_stdout(trained, here, capsys):
    assert main(["train", "--data", str(trained / "rows.csv"), "--target", "y", "--out", "r", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads(Path("r/summary.json").read_text())
    assert (summary["format"], summary["version"]) == ("lrdiff.run", 2)


def test_a_resolved_configuration_repeats_the_run_bit_for_bit(trained, here):
    assert main(["train", str(trained / "run" / "config.toml"), "--out", "again"]) == 0
    for name in ("model.safetensors", "metrics.parquet", "rates.json"):
        assert Path("again", name).read_bytes() == (trained / "run" / name).read_bytes(), name


# ---- bad input: files


@pytest.mark.parametrize(
    ("name", "text", "what", "help"),
    [
        ("none.csv", None, r".*none\.csv.*", r".*"),
        ("empty.csv", "", r".*empty\.csv.* empty.*", r".*"),
        ("header.csv", "a,b,y\n", r".*header\.csv.* no rows.*", r".*"),
        ("text.csv", HEADER + MANY + "1,blue,yes\n1,red,no\n", r'.*"b".*"blue".*row 61.*', r".*--drop b.*"),
        ("class.csv", HEADER + "1,2,yes\n3,4,yes\n" * 20, r'.*"yes".*', r".*"),
        ("few.csv", HEADER + "1,2,yes\n3,4,no\n", r".*", r".*"),
        ("twice.csv", "a,a,y\n" + ROWS, r'.*"a".*', r".*"),
    ],
)
def test_a_file_that_cannot_be_used(here, capsys, name, text, what, help):
    if text is not None:
        write(name, text)
    said = refused(capsys, ["run", "--data", name, "--target", "y"])
    assert re.fullmatch(what, said[0]), said
    assert re.fullmatch(help, said[1]), said


def test_a_missing_target_is_named_with_the_columns_there(here, capsys):
    what, help = refused(capsys, ["run", "--data", write("t.csv", HEADER + ROWS), "--target", "yy"])
    assert '"yy"' in what
    assert "y" in help
    what, help = refused(capsys, ["run", "--data", "t.csv"])
    assert "--target" in what + help


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mean", "median", "drop"])
def test_missing_values_are_handled_when_asked(here, capsys, how):
    write("gaps.csv", HEADER + ROWS + "1,,yes\n,2,no\n")
    assert main(["train", "--data", "gaps.csv", "--target", "y", "--impute", how, "--out", "r", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["data"]["rows"] == (60 if how == "drop" else 62)
    assert summary["data"]["notes"]
    if how == "mean":
        write("new.csv", "a,b\n1,\n")
        assert main(["predict", "r", "--data", "new.csv"]) == 0
        assert main(["export", "r"]) == 0


# ---- bad input: settings


@pytest.mark.parametrize(
    ("toml", "what", "help"),
    [
        ("epoch = 3\n", 'unknown key "epoch" in my.toml', "did you mean epochs?"),
        ("[rates]\nlayer1 = -0.1\nlayer2 = 0.1\n", 'learning rate of layer "layer1" is -0.1', "write a number in"),
        ("[rates]\nlayer1 = 0\nlayer2 = 0.1\n", 'learning rate of layer "layer1" is 0.0', "write a number in"),
        ("[rates]\nlayer1 = nan\nlayer2 = 0.1\n", 'learning rate of layer "layer1" is nan', "write a number in"),
        ("[rates]\nlayer1 = 'x'\nlayer2 = 0.1\n", "learning rate of layer \"layer1\" is 'x'", "write a plain number"),
        (
            "[rates]\nlayer1 = 0.1\nlayer3 = 0.1\n",
            'the model has no layer "layer3"',
            "did you mean layer2? layers of this",
        ),
        ("[rates]\nlayer1 = 0.1\n", "the rate table leaves the layer layer2 without a rate", "add a rate: "),
        ("epochs = = 1\n", "my.toml is not TOML: ", "lines look like: epochs = 10"),
    ],
)
def test_settings_that_cannot_be_used(here, capsys, toml, what, help):
    said = refused(capsys, ["run", write("my.toml", toml)])
    assert said[0].startswith(what), said
    assert said[1].startswith(help), said


@pytest.mark.parametrize(
    ("arguments", "what", "help"),
    [
        (["run", "nothing.toml"], "no such file: nothing.toml", "name a TOML file"),
        (["run", "--device", "tpu"], "device in the command line is 'tpu'", "one of: auto, cpu, cuda, mps"),
        (["run", "--task", "rank"], "task in the command line is 'rank'", "one of: auto, binary"),
        (["run", "--impute", "zero"], "impute in the command line is 'zero'", "one of: auto, none, mean"),
        (["run", "--seed", "x"], "Invalid value for '--seed'", "see `lrdiff run --help`"),
        (["run", "--nope"], "No such option", "see `lrdiff run --help`"),
        (["predict"], "Missing argument 'RUN_OR_MODEL.onnx'", "see `lrdiff predict --help`"),
        (["fly"], "No such command 'fly'", "see `lrdiff --help`"),
    ],
)
def test_arguments_that_cannot_be_used(here, capsys, arguments, what, help):
    said = refused(capsys, arguments)
    assert said[0].startswith(what), said
    assert said[1].startswith(help), said


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_here_gives_status_3(here, capsys, device):
    from lrdiff_core.devices import device_status

    if device_status(device).available:
        pytest.skip(f"{device} is here")
    what, help = refused(capsys, ["run", "--device", device], status=3)
    assert what.startswith(f"device {device} is not available: ")
    assert help == "use --device cpu, or see `lrdiff doctor`"


# ---- bad input: folders, checkpoints, ONNX files


def test_a_folder_that_cannot_be_written(here, capsys):
    write("file", "")
    what, help = refused(capsys, ["train", "--out", "file/run"])
    assert what == "cannot write file/run: file is not a folder"
    assert help == "name a folder you may write to with --out"


def test_a_folder_that_is_not_a_run_is_not_replaced(here, capsys):
    Path("precious").mkdir()
    write("precious/thesis.txt", "years of work")
    what, _ = refused(capsys, ["train", "--out", "precious"])
    assert what == "precious exists and is not a run folder"
    assert Path("precious/thesis.txt").read_text() == "years of work"


def damaged(trained, here, name, data):
    import shutil

    shutil.copytree(trained / "run", here / "run")
    (here / "run" / name).write_bytes(data)


@pytest.mark.parametrize("command", [["trace", "run"], ["export", "run"], ["predict", "run", "--data", "x.csv"]])
@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("summary.json", b"{", "run/summary.json is damaged: "),
        ("summary.json", b"{}", "run/summary.json is not the summary of a run"),
        ("summary.json", b'{"format": "lrdiff.run", "version": 9}', "run/summary.json has version 9, this program"),
        ("model.safetensors", b"\x80\x04pickle", "run/model.safetensors was changed or damaged after it was written; "),
        ("config.toml", b"[[[", "run/config.toml was changed or damaged after it was written; "),
    ],
)
def test_a_damaged_run(trained, here, capsys, command, name, data, what):
    damaged(trained, here, name, data)
    write("x.csv", "a,b\n1,2\n")
    assert refused(capsys, command)[0].startswith(what)


def test_no_run_there(here, capsys):
    assert refused(capsys, ["trace", "nowhere"])[0] == "no run at nowhere"


def test_a_checkpoint_that_does_not_belong_to_the_run_is_noticed(trained, here, capsys):
    import shutil

    write("rows.csv", HEADER + ROWS)
    assert main(["train", "--data", "rows.csv", "--target", "y", "--seed", "9", "--out", "other"]) == 0
    shutil.copytree(trained / "run", here / "run")
    shutil.copy("other/model.safetensors", "run/model.safetensors")
    capsys.readouterr()
    assert "was changed or damaged" in refused(capsys, ["trace", "run"])[0]
    Path("run/manifest.json").unlink()
    assert main(["trace", "run"]) == 2  # and now with a word: it is read unchecked
    capsys.readouterr()
    assert "its summary says" in refused(capsys, ["trace", "run"])[0]


@pytest.mark.parametrize("data", [None, b"", b"hello, this is no model", bytes(range(256)) * 40])
def test_a_file_that_is_no_onnx_model(trained, here, capsys, data):
    if data is not None:
        Path("m.onnx").write_bytes(data)
    assert "m.onnx" in refused(capsys, ["verify", "m.onnx", "--run", str(trained / "run")])[0]


def test_rows_to_predict_that_lack_a_column(trained, here, capsys):
    what, _ = refused(capsys, ["predict", str(trained / "run"), "--data", write("new.csv", "a,c\n1,2\n")])
    assert '"b"' in what


def test_an_interrupt_while_the_command_is_loaded_is_two_lines_too(here):
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from lrdiff_bench.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "error: interrupted\nhelp: nothing was left half-written; start it again when you like\n"


def test_an_interrupt_leaves_nothing_and_ends_with_130(here, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lrdiff_core.loop.train", interrupted)
    assert main(["train", "--out", "r"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted\nhelp: ")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("problem", "status", "what"),
    [
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (PermissionError(13, "Permission denied", "rows.csv"), 2, "rows.csv: Permission denied"),
        (MemoryError(), 2, "there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 2, "there is not enough memory"),
        (ZeroDivisionError("division by zero"), 1, "a fault in lrdiff, ZeroDivisionError: division by zero"),
    ],
)
def test_what_nobody_expected_is_told_without_a_traceback(here, capsys, monkeypatch, problem, status, what):
    def fails(*_, **__):
        raise problem

    monkeypatch.setattr("lrdiff_core.loop.train", fails)
    assert main(["train", "--out", "run"]) == status
    error, help = capsys.readouterr().err.splitlines()
    assert error == f"error: {what}"
    assert help.startswith("help: ")
    assert not list(here.iterdir())


def test_our_own_warnings_are_notes_of_one_line(here, capsys, monkeypatch):
    def warns(*_, **__):
        warnings.warn("of others", UserWarning, stacklevel=1)
        warn("memory ran out", MemoryWarning, help="take fewer")
        raise MemoryError

    monkeypatch.setattr("lrdiff_core.loop.train", warns)
    with pytest.warns(UserWarning, match="of others") as said:
        assert main(["train", "--out", "run"]) == 2
    assert [one.category for one in said] == [UserWarning]
    assert capsys.readouterr().err.startswith("note: memory ran out; take fewer\nerror: there is not enough memory\n")


def test_debug_shows_the_traceback(here):
    from lrdiff_core.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["--debug", "run", "nothing.toml"])


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(trained):
    command = f"{sys.executable} -m lrdiff_bench trace {trained / 'run'} | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


def test_no_run_is_replaced_unless_that_is_asked_for(here, capsys):
    """Runs are numbered; --out names one that must be free; `lrdiff runs` lists them."""
    write("rows.csv", HEADER + ROWS)
    given = ["train", "--data", "rows.csv", "--target", "y"]
    Path("runs/rows-2").mkdir(parents=True)
    write("runs/rows-2/thesis.txt", "years of work")
    for name in ("rows", "rows-3", "rows-4"):
        assert main(given) == 0
        assert f"runs/{name}: " in capsys.readouterr().out
    first = Path("runs/rows/summary.json").read_bytes()
    assert refused(capsys, [*given, "--out", "runs/rows"]) == (
        "runs/rows holds a run already", "add --overwrite to replace it, or name another folder",
    )  # fmt: skip
    Path("runs/broken").mkdir()
    write("runs/broken/summary.json", "{}")
    assert main(["runs", "--json"]) == 0
    found = {Path(one["run"]).name: one for one in json.loads(capsys.readouterr().out)["runs"]}
    assert set(found) == {"rows", "rows-3", "rows-4", "broken"}
    assert found["rows"]["loss"] == found["rows-4"]["loss"]
    assert found["broken"]["problem"] == "runs/broken/summary.json is not the summary of a run"
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["rows", "rows-3", "rows-4"]
    assert "runs/broken/summary.json is not the summary of a run" in shown
    assert main([*given, "--overwrite", "--seed", "5"]) == 0
    assert Path("runs/rows/summary.json").read_bytes() != first
    assert sorted(one.name for one in Path("runs").iterdir()) == ["broken", "rows", "rows-2", "rows-3", "rows-4"]
    assert Path("runs/rows-2/thesis.txt").read_text() == "years of work"


def test_columns_of_every_order_give_the_same_answers(trained, here, capsys):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 7, (5, 2))
    write("ab.csv", "a,b\n" + "".join(f"{a},{b}\n" for a, b in values))
    write("ba.csv", "b,a\n" + "".join(f"{b},{a}\n" for a, b in values))
    assert main(["predict", str(trained / "run"), "--data", "ab.csv"]) == 0
    first = capsys.readouterr().out
    assert main(["predict", str(trained / "run"), "--data", "ba.csv"]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_a_terminal_without_arrows_shows_question_marks_and_data_is_not_maimed(trained, here):
    def lrdiff(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "lrdiff_bench", *arguments],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )  # fmt: skip

    shown = lrdiff("trace", str(trained / "run"))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "? standardized" in shown.stdout
    write(
        "words.csv", "a,b,label\n" + "".join(f"{i % 7},{i % 5},{'größer' if i % 2 else 'kleiner'}\n" for i in range(60))
    )
    assert main(["train", "--data", "words.csv", "--target", "label", "--out", "words"]) == 0
    asked = lrdiff("predict", "words", "--data", "words.csv")
    assert asked.returncode == 2
    assert asked.stderr.startswith(
        "error: the output is in ascii, which has no character '\\xf6'\nhelp: set PYTHONUTF8=1"
    )


# ---- settings files, completion, errors as JSON


@pytest.mark.parametrize("given", [[], ["--data", "rows.csv", "--target", "y"], ["--data", "digits", "--task", "auto"]])
def test_a_settings_file_is_accepted_as_it_is_and_with_every_line_set(here, capsys, given):
    write("rows.csv", HEADER + ROWS)
    assert main(["init", "my.toml", *given]) == 0
    text = Path("my.toml").read_text()
    plain = gather("my.toml", {})
    assert plain.data == (given[1] if given else "seed")
    assert plain == make_config({"name": plain.name, "data": plain.data, "target": plain.target})
    momentum = 'optimizer = "sgd"' if "momentum" in text else ""
    write(
        "all.toml", re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE).replace('optimizer = "adam"', momentum)
    )
    write("all.toml", re.sub(r"^time = .*\n", "", Path("all.toml").read_text(), flags=re.MULTILINE))  # groups is set
    everything = gather("all.toml", {})
    assert set(RunConfig.model_fields) - {"time"} <= everything.model_fields_set
    assert set(CompareConfig.model_fields) <= everything.compare.model_fields_set
    for model in (RunConfig, CompareConfig, StudySettings, SchemeTable):
        assert not [key for key, field in model.model_fields.items() if not field.description]
    capsys.readouterr()
    refused(capsys, ["init", "my.toml"])


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["runs", "--nonsense"], 2), (["trace", "nowhere"], 2), (["report"], 2), (["run", "--device", "toaster"], 2)],
)
def test_with_json_an_error_is_a_document_too(here, capsys, arguments, status):
    assert main([*arguments, "--json"]) == status
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["format"] == "lrdiff.error"
    assert err == f"error: {told['error']['message']}\nhelp: {told['error']['help']}\n"
    assert told["error"]["status"] == status


def test_the_shell_completes_commands_and_options(here):
    asked = {"_LRDIFF_COMPLETE": "complete_bash", "COMP_WORDS": "lrdiff re", "COMP_CWORD": "1"}
    code = "from lrdiff_bench.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["report"]


def test_an_option_has_one_meaning(capsys):
    """``--out`` is never read from, and what an option is called by its metavar does not change between commands."""
    import typer

    from lrdiff_bench.cli import app

    seen = {}

    def walk(command, path):
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{path} {name}")
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--"):
                    seen.setdefault(option, {})[path] = (parameter.metavar, parameter.help or "")

    walk(typer.main.get_command(app), "lrdiff")
    assert {meta for meta, _ in seen["--target"].values()} == {"COLUMN"}
    assert {meta for meta, _ in seen["--runtime"].values()} == {"NAME"}
    assert all(meta.startswith(("DIR", "FILE")) for meta, _ in seen["--out"].values())
    for path, (_, help) in seen["--out"].items():
        assert not re.search(r"\b(holds?|read)\b", help), path
    for path in ("bench ls", "bench show", "bench compare", "study ls", "study show", "study verdict"):
        assert f"lrdiff {path}" in seen["--from"]
        assert f"lrdiff {path}" not in seen["--out"]
