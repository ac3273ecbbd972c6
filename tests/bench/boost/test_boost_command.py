"""``lrdiff boost`` as a command: what a script sees of its surroundings, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from lrdiff_bench.cli import main

TRAIN = """
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(16, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(5):
        loss = model(torch.ones(4, 16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("trained")
"""


def write(folder, text, name="train.py"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return str(file)


def run_python(*arguments, cwd, **options):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=120, **options)


def test_output_and_report_are_apart(tmp_path, capsys):
    assert main(["boost", "--no-estimate", write(tmp_path, TRAIN)]) == 0
    out, err = capsys.readouterr()
    assert out == "trained\n"
    assert err.startswith("lrdiff boost: 1 of 1 optimizer replaced\n   AdamW: 5 steps; 2 tensors by ")
    assert "the steps took" in err
    assert all(len(line) <= 80 for line in err.splitlines())


def test_a_document_and_nothing_else(tmp_path, capsys):
    assert main(["boost", "--json", "--check", "3", write(tmp_path, TRAIN)]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["format"], document["version"], document["status"]) == ("lrdiff.boost", 1, 0)
    assert document["replaced"] == 1
    (optimizer,) = document["optimizers"]
    assert (optimizer["name"], optimizer["steps"], optimizer["check"]["steps"]) == ("AdamW", 5, 3)
    assert optimizer["check"]["other"] == 0
    assert document["share"] is None
    assert err == "trained\n"


@pytest.mark.slow
def test_what_torchs_own_step_would_have_taken_is_told(tmp_path, capsys):
    assert main(["boost", "--json", write(tmp_path, TRAIN)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["torch_over_ours"] > 1
    assert 0 < document["share"] < document["share_before"] < 1


SEEN = """
    import os, sys
    print(__name__, __file__, __spec__ and __spec__.name, __package__, sys.argv)
    print(sys.path[0] in (os.path.dirname(__file__), os.getcwd()))
    print(sys.modules["__main__"].__dict__ is globals(), "torch" in sys.modules, type(sys.stdout).__name__)
    import neighbour
"""


def test_a_script_sees_what_python_shows_it(tmp_path):
    """Its name, file, arguments, path, stdout, and no torch before it imports it."""
    write(tmp_path, "print('neighbour')", "folder/neighbour.py")
    write(tmp_path, SEEN, "folder/train.py")
    given = ["folder/train.py", "--json", "-h", "--epochs", "3", "a b"]
    alone, ours = run_python(*given, cwd=tmp_path), run_python("-m", "lrdiff_bench", "boost", *given, cwd=tmp_path)
    assert (ours.returncode, ours.stdout) == (0, alone.stdout)
    assert "'--json', '-h', '--epochs', '3', 'a b'" in ours.stdout
    assert ours.stderr.startswith("lrdiff boost: no optimizer of torch was made")


def test_a_module_sees_what_python_shows_it(tmp_path):
    write(tmp_path, "", "package/__init__.py")
    write(tmp_path, "value = 7", "package/other.py")
    write(tmp_path, SEEN.replace("import neighbour", "from .other import value; print(value)"), "package/train.py")
    given = ["-m", "package.train", "--json", "-m", "x"]
    alone, ours = run_python(*given, cwd=tmp_path), run_python("-m", "lrdiff_bench", "boost", *given, cwd=tmp_path)
    assert (ours.returncode, ours.stdout) == (0, alone.stdout)
    assert ours.stdout.endswith("7\n")


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return {}['key']\n\n\nf()\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('after') from e\n",
        "x = (\n",
        "import nothing_of_that_name\n",
        "import sys\nsys.exit(3)\n",
        "import sys\nsys.exit('told')\n",
        "import sys\nprint('left')\nsys.exit()\n",
        "raise SystemExit(0)\n",
        "import sys\nsys.excepthook = lambda *a: print('own hook', a[0].__name__)\nraise ValueError\n",
    ],
    ids=["exception", "chained", "syntax", "import", "status", "words", "exit", "zero", "hook"],
)
def test_a_script_ends_as_it_ends_in_python(text, tmp_path, capsys):
    script = write(tmp_path, text)
    alone = run_python(script, cwd=tmp_path)
    assert main(["boost", script]) == alone.returncode
    out, err = capsys.readouterr()
    assert out == alone.stdout
    assert err.startswith(alone.stderr)
    assert err[len(alone.stderr) :].startswith("lrdiff boost: no optimizer")


@pytest.mark.parametrize(
    ("given", "said", "help"),
    [
        (["missing.py"], "there is no script missing.py", "write the path of a Python file"),
        (["-m", "nothing_of_that_name.train"], "there is no module nothing_of_that_name.train", "python -m"),
        (["-m"], "-m needs a module", "lrdiff boost [OPTIONS] train.py"),
        (["--nonsense", "train.py"], "there is no option --nonsense", "options come before the script"),
    ],
)
def test_what_cannot_be_run_is_told_in_two_lines(given, said, help, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["boost", *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first == f"error: {said}"
    assert help in second


def test_a_failed_check_ends_with_one(tmp_path, capsys, monkeypatch):
    from lrdiff_bench.boost.twins import AdamTwin

    right = AdamTwin.take_step

    def wrong(self):
        right(self)
        self.param_groups[0]["params"][0].data[0, 0] += 1e-6

    monkeypatch.setattr(AdamTwin, "take_step", wrong)
    assert main(["boost", "--check", "2", write(tmp_path, TRAIN)]) == 1
    err = capsys.readouterr().err
    assert "error: AdamW differs from torch's own step: step 1: parameter, 1 of 256 numbers" in err
    assert "help: run the script without lrdiff boost" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_the_scripts_own(number, tmp_path):
    """A script that saves what it has when it is told to end may take its time."""
    script = write(
        tmp_path,
        """
        import signal, sys, time

        def end(number, frame):
            time.sleep(8)  # longer than lrdiff gives its own commands
            print("saved", flush=True)
            sys.exit(5)

        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        time.sleep(60)
        """,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "lrdiff_bench", "boost", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.kill(process.pid, number)
    assert process.communicate(timeout=60)[0] == "saved\n"
    assert process.returncode == 5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_start_from_the_script(method, tmp_path):
    script = write(
        tmp_path,
        f"""
        import torch

        class Rows(torch.utils.data.Dataset):
            def __len__(self):
                return 8

            def __getitem__(self, i):
                return torch.full((16,), float(i))

        if __name__ == "__main__":
            workers = dict(num_workers=1, multiprocessing_context="{method}")
            loader = torch.utils.data.DataLoader(Rows(), batch_size=4, **workers)
            model = torch.nn.Linear(16, 16)
            optimizer = torch.optim.AdamW(model.parameters())
            for x in loader:
                optimizer.zero_grad()
                model(x).mean().backward()
                optimizer.step()
            print("done")
        """,
    )
    done = run_python("-m", "lrdiff_bench", "boost", "--no-estimate", script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "1 of 1 optimizer replaced" in done.stderr


@pytest.mark.slow
def test_the_environment_may_be_set_before_torch_is_imported(tmp_path):
    text = """
        import os
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch
        print(torch.get_num_threads(), torch.optim.SGD.__module__)
        weight = torch.zeros(16, requires_grad=True)
        weight.grad = torch.ones(16)
        optimizer = torch.optim.SGD([weight], lr=1.0)
        optimizer.step()
        print(weight.sum().item())
    """
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    script = write(tmp_path, text)
    done = run_python("-m", "lrdiff_bench", "boost", script, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (0, "1 torch.optim.sgd\n-16.0\n"), done.stderr
    assert "1 of 1 optimizer replaced" in done.stderr
