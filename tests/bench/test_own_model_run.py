"""A model of one's own in the main job: every form of rows, the whole folder, and what commands do with it."""

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lrdiff_bench.cli import main
from lrdiff_bench.report.json import json_ready
from lrdiff_bench.report.tables import make_console
from lrdiff_bench.run.job import run_job
from lrdiff_bench.run.kinds import kind_of
from lrdiff_bench.run.own_model.compare import compare_own, rate_keys
from lrdiff_bench.run.own_model.development import development_of, with_rates
from lrdiff_bench.run.own_model.files import open_own
from lrdiff_bench.run.own_model.setup import set_up_own
from lrdiff_bench.run.own_model.summary import own_data_sections, own_training_section, own_training_sections
from lrdiff_bench.run.own_model.training import train_own
from lrdiff_bench.run.screen import DRAW
from lrdiff_bench.system.factory import load_model
from lrdiff_core import make_config
from lrdiff_core.checkpoint import TrainingFile, save_training
from lrdiff_core.errors import CheckpointError, ConfigError, InputError, LrdiffError

MODELS = '''
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(121, 6, generator=DRAWN)
SIGN = (X.sum(1) > 0).long()


def net(*sizes, between=nn.ReLU):
    made = nn.Sequential()
    for i, (low, high) in enumerate(zip(sizes, sizes[1:])):
        made.add_module(f"layer{i}", nn.Linear(low, high))
        made.add_module(f"act{i}", between())
    return made[:-1]


def table():
    return net(13, 8, 3)


def regression():
    return net(6, 8, 1), X[:2], {"rows": X, "targets": X @ torch.arange(6.0)[:, None] + 3}


def images():
    made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    return made, {"train": TensorDataset(X.repeat(1, 3)[:, :16].reshape(-1, 1, 4, 4), SIGN), "batch_size": 16}


class Words(Dataset):
    def __len__(self):
        return 90

    def __getitem__(self, i):
        draw = torch.Generator().manual_seed(i)
        tokens = torch.randint(1, 20, (int(torch.randint(3, 9, (1,), generator=draw)),), generator=draw)
        return {"tokens": tokens, "labels": int(tokens[0] < 10)}


def padded(rows):
    tokens = nn.utils.rnn.pad_sequence([row["tokens"] for row in rows], batch_first=True)
    return {"tokens": tokens, "labels": torch.tensor([row["labels"] for row in rows])}


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.2)
        self.head = nn.Linear(8, 2)

    def forward(self, tokens):
        return self.head(self.block(self.embed(tokens)).mean(dim=1))


def transformer():
    return Reader(), {"train": DataLoader(Words(), batch_size=16, shuffle=True, collate_fn=padded)}


class Adapted(nn.Module):
    """A frozen base and a low-rank path beside it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, 6).requires_grad_(False)
        self.down, self.up, self.head = nn.Linear(6, 2), nn.Linear(2, 6), nn.Linear(6, 1)

    def forward(self, rows):
        return self.head(torch.tanh(self.base(rows) + self.up(self.down(rows))))


def lora():
    return Adapted(), {"rows": X, "targets": SIGN[:, None].float(), "loss": F.binary_cross_entropy_with_logits}


def norm():
    """121 rows: 85 to train, in batches of 12, leave one behind, of which batch norm has no statistics."""
    made = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    return made, {"train": TensorDataset(X, SIGN), "batch_size": 12}


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 8), nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, a, b):
        return self.out(torch.relu(self.left(a) + self.right(b)))


def two():
    more = {"rows": (X[:, :4], X[:, 4:]), "targets": SIGN[:, None].float(), "loss": nn.BCEWithLogitsLoss()}
    return Two(), (X[:2, :4], X[:2, 4:]), more


def auto():
    return net(6, 2, 6, between=nn.Tanh), {"train": TensorDataset(X)}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, SIGN))


def stream():
    rows = DataLoader(Stream(), batch_size=16)
    return net(6, 4, 2), {"train": rows, "validation": rows, "test": rows}


def hinge(outputs, targets):
    return (1 - outputs[:, 0] * (2 * targets - 1)).clamp(min=0).mean()


def right_share(outputs, targets):
    return ((outputs[:, 0] > 0) == targets).mean()


def own_loss():
    return net(6, 4, 1), {"rows": X, "targets": SIGN, "loss": hinge, "score": right_share}


def raises():
    raise ValueError("no weights here")


def bare():
    return nn.ReLU(), {"train": TensorDataset(X)}


def module_alone():
    return net(6, 4, 1)


def narrow():
    return net(5, 4, 2), {"train": TensorDataset(X, SIGN)}


def shapes():
    return net(6, 4, 1), {"rows": X, "targets": SIGN.float()}


def cut():
    return net(6, 4, 1), {"train": DataLoader(Stream(), batch_size=8)}


def vector_loss():
    return net(6, 4, 1), {"rows": X, "targets": X[:, :1], "loss": lambda outputs, targets: (outputs - targets) ** 2}


def wide():
    return net(6, 4, 2), {"train": TensorDataset(X, SIGN + 5)}


def doubles():
    return net(6, 4, 2), {"train": TensorDataset(X.double(), SIGN)}


def huge():
    return net(6, 4, 1), {"rows": X, "targets": X[:, :1] * 1e30}


def sampled():
    rows = TensorDataset(X, SIGN)
    loader = DataLoader(rows, batch_sampler=BatchSampler(RandomSampler(rows), 16, True))
    return net(6, 4, 2), {"train": loader, "validation": rows, "test": rows}


class Hungry(nn.Sequential):
    def forward(self, rows):
        if self.training and len(rows) > 5:
            raise RuntimeError("[enforce fail at alloc.cpp:1] . DefaultCPUAllocator: can't allocate memory")
        return super().forward(rows)


def hungry():
    return Hungry(*net(6, 4, 2)), {"train": TensorDataset(X, SIGN), "batch_size": 32}


def three():
    return net(3, 8, 1)


def few():
    return net(6, 4, 1), {"rows": X[:2], "targets": X[:2, :1]}
'''

QUICK = {"epochs": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the models, which is the current one while these tests run."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_zoo.py").write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    sys.modules.pop("own_zoo", None)


def train(place, name, **settings):
    config = make_config({"name": name, "model": f"own_zoo:{name}", **QUICK, **settings})
    return run_job(config, out=place / "runs" / name, overwrite=True, stages=())


@pytest.mark.parametrize(
    ("name", "task", "score"),
    [
        ("regression", "regression", "R2"),
        ("images", "multiclass", "accuracy"),
        ("transformer", "multiclass", "accuracy"),
        ("lora", "binary", "accuracy"),
        ("norm", "multiclass", "accuracy"),
        ("two", "binary", "accuracy"),
        ("auto", "regression", "R2"),
        ("stream", "multiclass", "accuracy"),
        ("own_loss", "own", "right share"),
    ],
)
def test_models_of_every_kind_are_trained(place, name, task, score):
    config = make_config({"name": name, "model": f"own_zoo:{name}", **QUICK})
    once, again = (train_own(set_up_own(config)) for _ in range(2))
    sections = dict(
        [*own_data_sections(once.setup), ("training", own_training_section(once.setup)), *own_training_sections(once)]
    )
    assert (sections["data"]["task"], sections["metrics"]["score"]) == (task, score)
    assert set(sections["data"]["split"]) == {"train", "validation", "test"}
    assert [row.split for row in once.observations] == [*["train", "validation"] * 2, "test"]
    assert not math.isnan(once.observations[0].score)
    assert sections["prediction"]["trace"][-1]["name"] == "answer"
    # The same settings, the same weights: order, dropout and initial weights follow from the seed.
    weights = again.setup.module.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in once.setup.module.state_dict().items())
    assert json_ready(sections)


def test_a_step_that_does_not_fit_the_memory_says_the_batch_to_use(place):
    with pytest.raises(ConfigError, match="not enough memory for a step of 32 rows: DefaultCPUAllocator") as caught:
        train_own(set_up_own(make_config({"model": "own_zoo:hungry", **QUICK})))
    assert caught.value.help == "write batch_size = 4: a step of 4 rows fits here"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("raises", {}, "no weights here"),
        ("bare", {}, "nothing to train"),
        ("module_alone", {}, "nothing to learn from"),
        ("narrow", {}, "does not take its rows"),
        ("shapes", {}, "shape"),
        ("cut", {}, "cannot be split"),
        ("vector_loss", {}, "scalar"),
        ("few", {}, "cannot be split"),
        ("wide", {}, "number classes from 0"),
        ("doubles", {}, "float32"),
        ("nowhere", {}, "nowhere"),
        ("table", {"data": "digits"}, "does not take its rows"),
        ("table", {"data": "breast_cancer"}, "does not take its rows"),
        ("regression", {"hidden": [4]}, "hidden"),
        ("regression", {"groups": "customer"}, "groups"),
        ("regression", {"rates": {"layer9": 0.1}}, "layer9"),
        ("regression", {"rates": {"lr": "fast"}}, "lr"),
        ("regression", {"cv": 3}, "cv"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_do(place, name, settings, words):
    with pytest.raises(LrdiffError) as caught:
        train(place, name, **settings)
    assert words in f"{caught.value.message} {caught.value.help}"
    assert caught.value.help
    assert isinstance(caught.value, InputError | ConfigError)
    assert not (place / "runs" / "raises").exists()


def test_a_training_that_diverges_says_where_and_is_never_exported(place):
    rates = {"layer0.*": 0.01, "layer1.*": 1e30}
    config = make_config({"name": "lost", "model": "own_zoo:regression", "optimizer": "sgd", "rates": rates, **QUICK})
    summary = run_job(config, out=place / "lost", stages=("export",)).summary
    first = summary["metrics"]["not_finite"]
    assert first == {"epoch": 1, "step": first["step"], "layer": "layer1", "rate": 1e30}
    assert first["step"] > 1
    assert "not finite" in summary["warnings"][0]
    assert summary["checks"]["verification"] is False
    assert "is not finite: a model whose training diverged" in summary["export"]["not_exported"]
    assert not (place / "lost" / "model.onnx").exists()
    assert main(["export", str(place / "lost")]) == 2
    assert not (place / "lost" / "model.onnx").exists()


def test_rates_of_the_settings_reach_the_optimizer(place):
    rates = {"lr": 0.01, "layer1": 0.1, "freeze": ["layer0.bias"]}
    setup = set_up_own(make_config({"model": "own_zoo:regression", "rates": rates, **QUICK}))
    before = setup.module.layer0.bias.clone()
    train_own(setup)
    assert torch.equal(before, setup.module.layer0.bias)
    assert {name: group["lr"] for group in setup.groups() for name in group["param_names"]} == {
        "layer0.weight": 0.01,
        "layer1.weight": 0.1,
        "layer1.bias": 0.1,
    }


@pytest.fixture(scope="module")
def on_table(place):
    """A whole run on a table, with a comparison as small as it can be."""
    text = (
        'name = "wine"\nmodel = "own_zoo:table"\ndata = "wine"\nepochs = 3\ndevice = "cpu"\n'
        "[rates]\nlr = 0.02\nlayer1 = 0.01\n"
        "[compare]\nseeds = 10\nsearches = 2\ntuning_seeds = 1\nsweep = [0.003, 0.03, 0.3]\n"
    )
    (place / "wine.toml").write_text(text)
    assert main(["run", "wine.toml", "--out", "runs/wine"]) == 0
    return place / "runs" / "wine"


@pytest.mark.slow
def test_a_table_goes_through_all_stages(on_table, capsys):
    summary = json.loads((on_table / "summary.json").read_text())
    assert summary["checks"] == {"verification": True, "parity": True}
    comparison = summary["comparison"]
    assert comparison["price"]["side_by_side"]
    assert comparison["price"]["epochs"] == comparison["price"]["of"]
    assert [scheme["name"] for scheme in comparison["schemes"]][-2:] == ["tuned single", "tuned ratios"]
    # What did best is what was trained, under names that [rates] takes.
    trained = {layer["name"]: layer["rate"] for layer in summary["training"]["layers"]}
    assert set(trained.values()) == set(comparison["chosen"]["rates"].values())
    assert set(comparison["chosen"]["rates"]) == {"layer0", "layer1"}
    assert [row["name"] for row in summary["metrics"]["test"]["models"]][1:] == ["logistic regression", "class shares"]
    assert summary["export"]["preprocessing"]
    for command in (["trace", on_table], ["verify", on_table / "model.onnx", "--run", on_table], ["rates", on_table]):
        assert main([*map(str, command)]) == 0, capsys.readouterr().err
    assert "own_zoo:table" in capsys.readouterr().out


@pytest.mark.slow
def test_a_comparison_that_nothing_can_come_of_says_so(place):
    """Trainings end in no number; a loader with batches of its own cannot be cut, and is compared all the same."""
    small = {"epochs": 1, "device": "cpu", "compare": {"minutes": 0.2, "sweep": [0.001, 0.01]}}
    section = compare_own(set_up_own(make_config({"model": "own_zoo:huge", **small}))).section()
    assert "no number" in section["skipped"]
    setup = set_up_own(make_config({"model": "own_zoo:sampled", **small}))
    assert development_of(setup).parts["test"] is setup.parts["validation"]


def test_what_the_comparison_found_is_drawn_and_says_what_it_cost(place, capsys):
    settings = {"compare": {"minutes": 0.5, "sweep": [0.003, 0.03], "searches": 2, "tuning_seeds": 1, "seeds": 10}}
    config = make_config({"model": "own_zoo:norm", "epochs": 1, "device": "cpu", **settings})
    section = kind_of(config).compare(set_up_own(config), lambda done, total: None)
    assert "skipped" not in section, section
    assert section["chosen"]["scheme"] in [scheme["name"] for scheme in section["schemes"]]
    assert set(section["chosen"]["rates"]) == {"0", "1", "4"}
    DRAW["comparison"](make_console(), json_ready(section))
    said = " ".join(capsys.readouterr().out.split())
    for words in ("one after the other", "without the run's test rows", "trained next: ", f"{section['rows']} rows"):
        assert words in said


def test_no_choice_sees_the_runs_test_rows(place):
    for name in ("regression", "images"):
        setup = set_up_own(make_config({"model": f"own_zoo:{name}", **QUICK}))

        def rows(part):
            return {tuple(row.flatten().tolist()) for batch in part.batches(50) for row in batch.tensors()[0]}

        held, kept = rows(setup.parts["test"]), development_of(setup)
        trial = set_up_own(make_config({"model": f"own_zoo:{name}", **QUICK}), seed=5, rows=kept)
        seen = set().union(*map(rows, trial.parts.values()))
        assert len(held) == 18
        assert not held & seen
        assert held | seen == rows(setup.user.parts()["train"])


def test_a_streamed_table_is_trained_on_as_a_whole(place):
    """All rows of the file in every epoch, though the rows at hand are a sample; rates are compared on the sample."""
    drawn = np.random.default_rng(0).normal(size=(3000, 3))
    lines = [",".join(f"{v:.4f}" for v in row) + f",{row.sum():.4f}" for row in drawn]
    (place / "long.csv").write_text("a,b,c,y\n" + "\n".join(lines) + "\n")
    settings = {"data": "long.csv", "target": "y", "stream": "always", **QUICK}
    setup = set_up_own(make_config({"model": "own_zoo:three", **settings}))
    order = torch.Generator().manual_seed(0)
    seen = [batch.rows for batch in setup.parts["train"].batches(setup.batch_size, order)]
    assert sum(seen) == setup.parts["train"].rows > 1900
    assert set(seen[:-1]) == {setup.batch_size}
    trained = train_own(setup)
    assert trained.observations[2].loss < trained.observations[0].loss
    assert set_up_own(setup.config, rows=development_of(setup)).parts["train"].can_be_cut


def test_other_rates_are_those_that_are_trained():
    assert list(rate_keys({"a.0.w": 1.0, "a.0.b": 1.0, "a.1.w": 2.0, "b": 1.0, "c.w": 3.0, "c.b": 3.0})) == [
        "a.0", "a.1", "b", "c",
    ]  # fmt: skip


def test_tuned_rates_keep_what_is_frozen(place):
    rates = {"lr": 0.01, "freeze": "layer0.bias", "weight_decay": 0.1}
    setup = with_rates(set_up_own(make_config({"model": "own_zoo:regression", "rates": rates})), {"layer1": 0.5})
    assert {(g["lr"], g["weight_decay"]) for g in setup.groups()} == {(0.01, 0.1), (0.5, 0.1)}
    assert "layer0.bias" in setup.plan.frozen
    assert setup.config.rates == {"freeze": "layer0.bias", "weight_decay": 0.1, "layer1": 0.5}


@pytest.mark.slow
def test_raw_rows_are_predicted_alike_by_run_and_file(on_table, place, capsys):
    from sklearn.datasets import load_wine

    table = load_wine()
    rows = "\n".join(",".join(map(str, row)) for row in table.data[:20])
    (place / "new.csv").write_text(",".join(table.feature_names) + "\n" + rows + "\n")
    answers = []
    for source in (on_table, on_table / "model.onnx"):
        assert main(["predict", str(source), "--data", "new.csv"]) == 0
        answers.append(list(csv.reader(capsys.readouterr().out.splitlines())))
    assert answers[0][0] == answers[1][0]
    values = [np.array([row[1:] for row in one[1:]], dtype=float) for one in answers]
    np.testing.assert_allclose(*values, atol=1e-5)
    assert main(["export", str(on_table), "--out", str(place / "again.onnx")]) == 0


def test_a_run_of_tensors_is_read_back_and_predicts_arrays(place, capsys):
    result = train(place, "two")
    folder = result.folder
    assert (folder / "report.html").is_file()
    weights, opened = load_file(folder / "model.safetensors"), open_own(folder)
    # The file has the names that the module itself uses.
    assert set(weights) == set(result.trained.setup.module.state_dict())
    assert all(torch.equal(weights[key], value) for key, value in opened.module.state_dict().items())
    a, b = (np.random.default_rng(0).normal(size=(5, width)).astype(np.float32) for width in (4, 2))
    np.savez(place / "new.npz", a=a, b=b)
    assert main(["predict", str(folder), "--data", "new.npz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    module = open_own(folder).shipped
    with torch.no_grad():
        wanted = module(torch.from_numpy(a), torch.from_numpy(b))
    assert lines[0] == "output"
    np.testing.assert_allclose([float(one) for one in lines[1:]], wanted[:, 0], rtol=1e-6)
    for file, words in (("new.csv", "arrays"), ("gone.npy", "not exist")):
        assert main(["predict", str(folder), "--data", file]) == 2
        assert words in capsys.readouterr().err
    assert main(["trace", str(folder)]) == 0
    assert main(["runs", "runs", "--json"]) == 0


def test_a_factory_that_changed_is_not_taken_for_the_runs(place):
    folder = train(place, "two").folder
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("own_zoo:two", "own_zoo:own_loss"))
    (folder / "manifest.json").unlink()
    load_model("own_zoo:own_loss")  # or it would not be imported: test_named_code.py
    with pytest.raises(CheckpointError, match="no longer"):
        open_own(folder)


@pytest.mark.slow
def test_what_no_population_trains_is_compared_within_minutes(place):
    config = make_config({
        "name": "norm", "model": "own_zoo:norm", "epochs": 3, "device": "cpu", "compare": {"minutes": 0.2},
    })  # fmt: skip
    summary = run_job(config, out=place / "runs" / "norm", overwrite=True, stages=("comparison", "export")).summary
    comparison = summary["comparison"]
    assert "skipped" in comparison or (not comparison["price"]["side_by_side"] and comparison["price"]["epochs"] <= 3)
    assert summary["checks"]["verification"]
    tiny = make_config({"name": "n", "model": "own_zoo:norm", "epochs": 3, "compare": {"minutes": 1e-6}})
    found = run_job(tiny, out=place / "runs" / "tiny", stages=("comparison",)).summary["comparison"]
    assert "minutes" in found["skipped"]


@pytest.mark.parametrize("name", ["transformer", "norm"])
def test_a_training_that_goes_on_ends_as_one_that_nobody_interrupted(place, name):
    """Bit for bit, with dropout, statistics of batch norm and the order of a DataLoader."""
    config = make_config({"name": name, "model": f"own_zoo:{name}", "epochs": 3, "patience": 2, "device": "cpu"})
    file = place / "training.safetensors"

    def keep(net, state):
        if state.epoch == 1:
            save_training(file, net, state)

    whole = train_own(set_up_own(config), on_state=keep)
    rest = train_own(set_up_own(config), go_on=TrainingFile(file).restore)
    assert rest.observations == whole.observations
    weights = whole.setup.module.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in rest.setup.module.state_dict().items())
