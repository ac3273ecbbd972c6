"""What a factory may give to learn from, and rates in the words of a settings file."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lrdiff_bench.cli import main
from lrdiff_bench.system.batches import as_batch, as_part, stacked
from lrdiff_bench.system.factory import as_model, default_loss
from lrdiff_bench.system.rate_settings import plan_from_settings
from lrdiff_core.errors import ConfigError, InputError, LrdiffError, RateError

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


class Words(Dataset):
    """Rows of different lengths, as mappings."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return {"tokens": torch.full((1 + i % 3,), i), "labels": i % 2}


def padded(rows):
    tokens = nn.utils.rnn.pad_sequence([row["tokens"] for row in rows], batch_first=True)
    return {"tokens": tokens, "labels": torch.tensor([row["labels"] for row in rows])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Broken(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("given", "inputs", "targets"),
    [
        ((X, Y), [X], Y),
        ([X, X, Y], [X, X], Y),
        (((X, X), Y), [X, X], Y),
        ({"a": X, "target": Y}, [X], Y),
        (({"a": X, "b": X}, Y), [X, X], Y),
        (X, [X], X),  # an autoencoder
        ([X], [X], X),
        ((X.numpy(), Y.numpy()), [X], Y),
    ],
)
def test_a_batch_in_every_form_is_read(given, inputs, targets):
    found = as_batch(given, "mine")
    assert [one.tolist() for one in found.tensors()] == [one.tolist() for one in inputs]
    assert found.targets.tolist() == targets.tolist()
    assert found.rows == 10


@pytest.mark.parametrize("given", [3, "text", {"a": X}, {"targets": Y}, [], ("a", Y), (torch.tensor(1.0), Y), None])
def test_what_is_no_batch_is_refused_with_what_to_do(given):
    with pytest.raises(InputError) as caught:
        as_batch(given, "mine")
    assert "mine" in caught.value.message
    assert "batch" in caught.value.help


@pytest.mark.parametrize(
    "given",
    [TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True), list(zip(X, Y, strict=True))],
    ids=["dataset", "loader", "list"],
)
def test_every_row_comes_once_in_the_order_of_the_generator(given):
    part = as_part(given, "mine")
    assert part.rows == 10

    def seen(seed):
        order = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.cat([batch.targets for batch in part.batches(4, order)]).tolist()

    assert seen(None) == Y.tolist()
    assert seen(3) == seen(3) != seen(4)
    assert sorted(seen(3)) == Y.tolist()
    assert torch.cat([b.targets for b in part.subset(torch.tensor([7, 2])).batches(4)]).tolist() == [7, 2]


def test_a_loader_keeps_its_own_way_of_making_batches():
    part = as_part(DataLoader(Words(), batch_size=4, collate_fn=padded), "mine").subset(torch.arange(2, 10))
    shapes = [tuple(batch.inputs["tokens"].shape) for batch in part.batches(part.batch_size)]
    assert shapes == [(4, 3), (4, 3)]
    assert stacked(part, 100).rows == 8
    uneven = stacked(as_part(DataLoader(Words(), batch_size=2, collate_fn=padded), "mine"), 100)
    assert uneven.rows == 2  # batches of different lengths are no one batch


def test_streams_are_gone_through_but_not_split():
    part = as_part(DataLoader(Stream(), batch_size=3), "mine")
    assert part.rows is None
    assert [batch.rows for batch in part.batches(3)] == [3, 3, 3, 1]
    with pytest.raises(InputError, match="split"):
        part.subset(torch.arange(2))


def test_faults_of_a_dataset_are_told_with_their_line():
    with pytest.raises(InputError, match="the disk is gone.*test_own_batches.py, line"):
        next(iter(as_part(Broken(), "mine").batches(2)))
    with pytest.raises(InputError, match="no rows"):
        as_part([], "mine")
    with pytest.raises(InputError, match="int"):
        as_part(3, "mine")


@pytest.mark.parametrize(
    ("made", "rows"),
    [
        ((nn.Linear(2, 3), {"train": TensorDataset(X, Y)}), 10),
        ((nn.Linear(2, 3), X[:2], {"rows": X, "targets": Y.numpy()}), 10),
        ((nn.Linear(2, 3), {"rows": (X,), "targets": Y}), 10),
    ],
)
def test_a_factory_gives_rows_in_either_form(made, rows):
    model = as_model("m:f", made, needs=("example", "targets"))
    assert len(model.rows()[0]) == len(model.options["targets"]) == rows
    assert model.parts()["train"].rows == rows
    example = model.example[0] if isinstance(model.example, tuple) else model.example
    assert example.shape == (2, 2)
    outputs = model.module(model.rows()[0])
    assert model.own_loss()(outputs, model.options["targets"] % 3).item() > 0


def test_losses_follow_from_the_targets():
    scores = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    right = default_loss(scores, torch.tensor([0, 1]))
    assert right < default_loss(scores, torch.tensor([1, 0]))
    assert default_loss((scores, None), scores + 1).item() == 1.0
    with pytest.raises(InputError, match="shape"):
        default_loss(scores, torch.zeros(2))  # would be broadcast to a wrong loss
    with pytest.raises(InputError, match="loss"):
        default_loss(scores, {"boxes": scores})


def net():
    made = nn.Sequential()
    for name in ("embed", "body", "head"):
        made.add_module(name, nn.Linear(2, 2))
    return made


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [1e-3] * 6),
        ({"lr": 0.1, "layer_decay": 0.5}, [0.025, 0.025, 0.05, 0.05, 0.1, 0.1]),
        ({"lr": 1, "head": 3.0, "/.*bias/": 2}, [1, 2, 1, 2, 3, 2]),
        ({"head_multiplier": 10.0, "head": "body.*"}, [1e-3, 1e-3, 1e-2, 1e-2, 1e-3, 1e-3]),
        ({"*.weight": 0.5, "slices": "0.1:1"}, [0.5, 1e-4, 0.5, 3.162e-4, 0.5, 1e-3]),
        ({"rules": ["body lr_mult=4"], "freeze": "embed"}, [1e-3, 1e-3, 4e-3, 4e-3, 1e-3, 1e-3]),
    ],
)
def test_rates_of_a_settings_file_are_those_of_the_command_line(settings, rates):
    plan = plan_from_settings(net(), settings)
    np.testing.assert_allclose([entry.lr for entry in plan], rates, rtol=1e-3)
    assert plan["embed.bias"].frozen == ("freeze" in settings)


@pytest.mark.parametrize(
    "settings",
    [{"hed": 0.1}, {"head": -1.0}, {"lr": "fast"}, {"rules": [3]}, {"layer_decay": True}, {"slices": 1}, {"body": "x"}],
)
def test_rates_that_cannot_be_are_refused(settings):
    with pytest.raises(LrdiffError) as caught:
        plan_from_settings(net(), settings)
    assert next(iter(settings)) in caught.value.message
    assert caught.value.help
    assert isinstance(caught.value, ConfigError | RateError)


def test_commands_take_a_dataset(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_sets.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.utils.data import TensorDataset\n"
        "def make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)), "
        "{'train': TensorDataset(torch.randn(40, 2), torch.arange(40) % 3)}\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        assert main(["lr-find", "own_sets:make", "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)["rates"]) == {"0", "1"}
        assert main(["rates", "own_sets:make", "--freeze", "0", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"][0]["frozen"]
    finally:
        sys.modules.pop("own_sets", None)
