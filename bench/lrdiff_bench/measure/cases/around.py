"""What surrounds training: tables, splits, groups by rules, a range test, checkpoints; and Muon's step."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lrdiff_bench.measure.cases.state import restorer
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import case_family

__all__ = ["checkpoint", "load_table", "lr_find", "muon_step", "param_groups", "split_table"]

FEATURES, LAYERS, WIDTH = 10, 12, 64
POINTS = 20  # of the range test
NAMES = [*(f"x{i}" for i in range(FEATURES)), "label"]


def _folder_of(step: Callable[[], object]) -> Path:
    """A folder that is gone when the step is."""
    folder = tempfile.mkdtemp(prefix="lrdiff-case-")
    weakref.finalize(step, shutil.rmtree, folder, True)
    return Path(folder)


def _deep() -> nn.Module:
    """Twelve layers of 64, with a head: 26 tensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = [nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)]
        return nn.Sequential(*body, nn.Linear(WIDTH, 1))


def _rows(count: int) -> np.ndarray:
    """Features and, in the last column, a label of two classes, [rows, features + 1]."""
    drawn = np.random.default_rng(0).standard_normal((count, FEATURES + 1))
    drawn[:, -1] = drawn[:, 0] > 0
    return drawn


@case_family(
    version="1",
    parameters={"kind": ("csv", "parquet"), "rows": (1000, 100_000)},
    quick={"kind": ("csv", "parquet")},
    parity=False,
)
def load_table(kind: str, rows: int) -> Workload:
    """A file of ten numbers and a label a row, read and looked at column by column."""
    import polars as pl

    from lrdiff_core.data import load_table as load

    frame = pl.DataFrame(_rows(rows), schema=NAMES).with_columns(pl.col("label").cast(pl.Int64))
    file: list[Path] = []

    def step() -> object:
        return load(file[0], target="label")

    file.append(_folder_of(step) / f"table.{kind}")
    frame.write_csv(file[0]) if kind == "csv" else frame.write_parquet(file[0])
    return Workload(step=step, facts={"bytes_of_file": file[0].stat().st_size})


@case_family(version="1", parameters={"rows": (1000, 100_000)}, quick={"rows": (1000,)}, parity=False)
def split_table(rows: int) -> Workload:
    """A table of two classes, split into three parts with strata."""
    from lrdiff_core.data import load_table as load, split_table as split

    table = load(_rows(rows), columns=NAMES, target="label")
    return Workload(step=lambda: split(table, seed=0))


@case_family(version="1", parity=False)
def checkpoint() -> Workload:
    """The weights of twelve layers of 64, written whole or not at all, and read again."""
    from lrdiff_core.checkpoint import load_weights, save_weights

    weights = _deep().state_dict()
    file: list[Path] = []

    def step() -> object:
        save_weights(file[0], weights, info={"epoch": 1})
        return load_weights(file[0])

    file.append(_folder_of(step) / "weights.safetensors")
    return Workload(step=step, facts={"tensors": len(weights)})


@case_family(version="1", parity=False)
def param_groups() -> Workload:
    """The rate plan of twelve layers by layer decay and a rule, and its groups."""
    from lrdiff_core.rates import LayerDecay, Rule, param_groups as plan

    model = _deep()
    rules = [Rule("*.bias", weight_decay=0.0)]
    return Workload(step=lambda: plan(model, lr=1e-3, rules=rules, scale=[LayerDecay(0.8)]).groups())


@case_family(version="1", parity=False)
def lr_find() -> Workload:
    """A range test of twenty points on a batch of 32, with two rates."""
    from lrdiff_core.lr_find import lr_find as find

    model, generator = _deep(), torch.Generator().manual_seed(0)
    inputs, wanted = torch.randn(32, WIDTH, generator=generator), torch.randn(32, 1, generator=generator)
    head = list(model[-1].parameters())  # type: ignore[index]
    body = [p for p in model.parameters() if all(p is not one for one in head)]
    optimizer = torch.optim.SGD([{"params": body, "lr": 0.01}, {"params": head, "lr": 0.1}])

    def closure() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), wanted)
        loss.backward()
        return loss

    return Workload(step=lambda: find(model, optimizer, closure, low=1e-6, high=0.1, steps=POINTS))


@case_family(version="1", parity=False)
def muon_step() -> Workload:
    """Step of Muon on twelve matrices of 64 x 64, and of AdamW on the rest, on fixed gradients."""
    from lrdiff_core.optim import MuonAdamW

    model, generator = _deep(), torch.Generator().manual_seed(0)
    hidden = [layer.weight for layer in model][:-1]  # type: ignore[attr-defined]
    rest = [p for p in model.parameters() if all(p is not one for one in hidden)]
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=generator)
    optimizer = MuonAdamW([{"params": hidden, "use_muon": True, "lr": 0.02}, {"params": rest, "lr": 1e-3}])
    optimizer.step()  # states
    return Workload(step=optimizer.step, reset=restorer(model, optimizer), facts={"matrices": len(hidden)})
