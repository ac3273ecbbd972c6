"""Wrong input: each error names the value and says what to write instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from population_models import chain, rows_for, train_members
from torch import nn

from lrdiff_core.errors import ConfigError, DataError, LrdiffError, RateError, UnavailableError
from lrdiff_core.population import Gain, PopulationData, PopulationOptions, train_population

RATES = [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]


def attempt(**changes: Any) -> None:
    given = {"model_factory": chain(nn.Tanh), "data": rows_for("binary"), "rates": RATES, "seeds": 0, "groups": None}
    options = {"batch_size": 9, "epochs": 1} | {name: changes[name] for name in changes.keys() - given.keys()}
    train_population(
        **given | {name: changes[name] for name in changes.keys() & given.keys()}, options=PopulationOptions(**options)
    )


@pytest.mark.parametrize(
    ("changes", "kind", "message", "help"),
    [
        ({"optimizer": "lion"}, ConfigError, "optimizer is 'lion'", "sgd, adam, adamw"),
        ({"path": "fast"}, ConfigError, "path is 'fast'", "auto, kernel, general"),
        ({"dtype": torch.float16}, ConfigError, "dtype is torch.float16", "torch.float32"),
        ({"epochs": None}, ConfigError, "length of the training", "either epochs or steps"),
        ({"steps": 3}, ConfigError, "length of the training", "either epochs or steps"),
        ({"epochs": 0}, ConfigError, "epochs is 0", "1 up"),
        ({"epochs": 1.5}, ConfigError, "epochs is 1.5", "1 up"),
        ({"batch_size": True}, ConfigError, "batch_size is True", "1 up"),
        ({"tile": 0}, ConfigError, "tile is 0", "1 up"),
        ({"evaluate": "often"}, ConfigError, "evaluate is 'often'", '"epoch", "end", "never"'),
        ({"evaluate": 0}, ConfigError, "evaluate is 0", "every how many steps"),
        ({"nesterov": True}, ConfigError, "nesterov is set, and adam", 'optimizer="sgd"'),
        ({"nesterov": True, "optimizer": "sgd"}, ConfigError, "nesterov is set without momentum", "momentum"),
        ({"momentum": 0.9}, ConfigError, "momentum is set, and adam", 'optimizer="sgd"'),
        ({"momentum": 1.0, "optimizer": "sgd"}, ConfigError, "momentum is 1.0", "[0, 1)"),
        ({"betas": (0.9, [0.9, -0.1])}, ConfigError, "betas[1] is -0.1", "[0, 1)"),
        ({"betas": (0.9,)}, ConfigError, "betas is (0.9,)", "a pair"),
        ({"eps": float("nan")}, ConfigError, "eps is nan", "0 or more"),
        ({"weight_decay": [0.1, 0.1, 0.1]}, ConfigError, "weight_decay has the shape [3]", "[2] (members)"),
        ({"schedule": "cosin"}, RateError, '"cosin" is unknown', "cosine"),
        ({"rates": "high"}, RateError, "not a table of numbers", "[members, groups]"),
        ({"rates": [0.1, 0.2]}, RateError, "rates have the shape [2]", "[members, groups]"),
        ({"rates": [[0.1, 0.1]]}, RateError, "2 columns and the model 3 layers", "0, 3, 5"),
        ({"rates": [[0.1, -1.0, 0.1]]}, RateError, "rate of member 0 in group 1 is -1.0", "0 or more"),
        ({"rates": [[0.1, 0.1, float("inf")]]}, RateError, "in group 2 is inf", "finite"),
        ({"groups": {"0.weight": 0}}, RateError, 'parameter "0.bias" has no column', "every parameter"),
        ({"seeds": [1]}, ConfigError, "1 seeds for 2 members", "one for all"),
        ({"seeds": [1, -1]}, ConfigError, "seed is -1", "0 to 2**63 - 1"),
        ({"seeds": True}, ConfigError, "seed is True", "whole number"),
        ({"seeds": 1.5}, ConfigError, "seed is 1.5", "whole number"),
        ({"betas": None}, ConfigError, "betas is None", "a pair"),
        ({"weight_decay": "some"}, ConfigError, "weight_decay is 'some'", "0 or more"),
        ({"data": (torch.ones(3, 7), torch.ones(3, 1))}, DataError, "the rows are a tuple", "PopulationData"),
        ({"model_factory": lambda seed: nn.LazyLinear(1)}, ConfigError, '"weight" has no shape yet', "sizes"),
        (
            {"model_factory": lambda seed: nn.Linear(7, 1 + seed), "seeds": [0, 1], "rates": [[0.1], [0.1]]},
            ConfigError,
            '"weight" of seed 1 has the shape (2, 7), that of another seed (1, 7)',
            "not its sizes",
        ),
        ({"device": "tpu"}, UnavailableError, "unknown device 'tpu'", "cpu"),
        ({"path": "kernel", "compile": False}, ConfigError, "path is 'kernel', and compile is False", "auto"),
        ({"model_factory": lambda seed: None}, ConfigError, "returned NoneType", "torch.nn.Module"),
        ({"data": rows_for("binary", 2)}, DataError, "targets have the shape [53, 2]", "[rows, 1]"),
        ({"data": rows_for("multiclass", 3)}, DataError, "class 2 has no output", "last layer has 1"),
        ({"data": {1: rows_for("binary")}}, DataError, "no rows for seed 0", "every seed"),
        (
            {"data": {0: rows_for("binary"), 1: rows_for("binary", rows=50)}, "seeds": [0, 1]},
            DataError,
            "inputs of seed 1 have the shape (50, 7)",
            "as many rows",
        ),
        (
            {"data": {0: rows_for("binary"), 1: rows_for("regression")}, "seeds": [0, 1]},
            DataError,
            "seed 1 has another task",
            "all the same",
        ),
    ],
)
def test_wrong_options(changes: dict[str, Any], kind: type[LrdiffError], message: str, help: str) -> None:
    with pytest.raises(kind) as caught:
        attempt(**changes)
    assert type(caught.value) is kind
    assert message in caught.value.message
    assert help in caught.value.help


def test_names_in_groups_are_checked() -> None:
    known = dict.fromkeys(("0.weight", "0.bias", "3.weight", "5.weight", "5.bias"), 0)
    for groups, message in (
        (known | {"7.weight": 0}, 'no parameter "7.weight"'),
        (known | {"5.bias": 3}, '"5.bias" is in column 3 of 3'),
        (known, "column 1 of the rates serves no parameter"),
    ):
        with pytest.raises(RateError, match=message):
            attempt(groups=groups)


def test_a_module_that_cannot_be_stacked_is_named() -> None:
    def factory(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(7, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    with pytest.raises(ConfigError, match="cannot train a stack of this module") as caught:
        attempt(model_factory=factory, rates=[[0.1, 0.1]])
    assert "no Dropout" in caught.value.help


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(rows[..., None])[0][:, -1])


class _Two(nn.Linear):
    def forward(self, rows: torch.Tensor) -> Any:
        return super().forward(rows), rows


def test_recurrent_layers_train_and_are_named_where_they_would_be_evaluated() -> None:
    given: dict[str, Any] = {"model_factory": lambda seed: _Recurrent(), "rates": [[0.1], [0.1]]}
    attempt(**given, evaluate="never")
    with pytest.raises(ConfigError, match="a stack of this module: Batching rule not implemented") as caught:
        attempt(**given, evaluate="end")
    assert 'evaluate="never"' in caught.value.help


def test_a_module_gives_one_tensor() -> None:
    with pytest.raises(ConfigError, match="the module returns a tuple"):
        attempt(model_factory=lambda seed: _Two(7, 1), rates=[[0.1], [0.1]])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [np.int64(3), torch.tensor(3), np.array([3, 3]), [3, 3], range(3, 5)], ids=repr)
def test_seeds_may_come_from_arrays_and_tensors(seeds: Any) -> None:
    found = train_members(seeds=seeds, epochs=1, batch_size=9)
    assert found.seeds.tolist() == ([3, 4] if isinstance(seeds, range) else [3, 3])


def test_rows_are_checked_where_they_are_given() -> None:
    x, y = torch.zeros(4, 2), torch.zeros(4, 1)
    for given, kind, message in (
        ({"inputs": x, "targets": y, "task": "ranking"}, ConfigError, "task is 'ranking'"),
        ({"inputs": x, "targets": y[:3]}, DataError, "4 training rows have 3 targets"),
        ({"inputs": x[:0], "targets": y[:0]}, DataError, "training inputs have the shape [0, 2]"),
        ({"inputs": x, "targets": y[:, 0]}, DataError, "binary task have the shape [4]"),
        ({"inputs": x, "targets": y, "task": "multiclass"}, DataError, "multiclass task have the shape [4, 1]"),
        ({"inputs": x, "targets": -torch.ones(4).long(), "task": "multiclass"}, DataError, "a negative class"),
        ({"inputs": x * torch.nan, "targets": y}, DataError, "training inputs hold NaN"),
        ({"inputs": x, "targets": y / 0}, DataError, "training targets hold NaN"),
        ({"inputs": x, "targets": y, "held_inputs": x}, DataError, "held-out rows need inputs and targets"),
    ):
        with pytest.raises(kind) as caught:
            PopulationData(**given)  # type: ignore[arg-type]
        assert message in caught.value.message


def test_a_scale_is_a_finite_number() -> None:
    with pytest.raises(ConfigError, match="scale factor is inf"):
        Gain(float("inf"))
