"""torch.distributed.checkpoint under fully_shard, with every optimizer: saved by two, loaded by one and by four."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_loop import RATE, STEPS

from lrdiff_core.optimizers import OPTIMIZERS

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("sharded_loop.py")
ROOT = Path(__file__).parents[2]
PATIENCE_S = 240


def by(count, folder, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), str(SCRIPT), *words]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, capture_output=True,
        text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return load_file(folder / words[-1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Where two processes kept every optimizer half-way, and the weights that they ended with."""
    folder = tmp_path_factory.mktemp("saved")
    return folder, by(2, folder, "save", "kept", "two.safetensors")


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.long)])
def test_it_goes_on_by_other_processes_in_other_groups_with_every_optimizer(saved, count):
    folder, wanted = saved
    found = by(count, folder, "load", "kept", f"{count}.safetensors")
    assert found.keys() == wanted.keys()
    assert {name.partition("/")[0] for name in found} == {name for name, entry in OPTIMIZERS.items() if entry.sharded}
    # Two ends within float32 arithmetic of each other, as in test_torchrun; Muon, too, though it works in bfloat16.
    allowed = 8 * 10 * 2 * STEPS * torch.finfo(torch.float32).eps
    for name, value in wanted.items():
        off = (found[name] - value).abs().max().item()
        assert off <= allowed * (value.abs().max().item() + RATE), f"{name}: {off:.3g}"
