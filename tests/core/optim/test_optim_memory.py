"""The memory bound: no more state than torch keeps, and nothing that grows with the parameters beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from optim_pairs import PAIRS, feed, make

BIG = [(1000, 1000)] * 8  # 32 MB of parameters

PEAK = """
import resource, sys, torch
from lrdiff_core import optim
torch.set_num_threads(1)
kind = getattr(optim if sys.argv[1] == "ours" else torch.optim, sys.argv[2])
params = [torch.nn.Parameter(torch.randn(1000, 1000)) for _ in range(40)]  # 160 MB
for p in params:
    p.grad = torch.randn_like(p)
options = {"fused": True} if sys.argv[1] == "torch" else {}
optimizer = kind([{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(params)], **options)
for _ in range(3):
    optimizer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("name", PAIRS)
def test_the_state_takes_as_many_bytes_as_torchs(name, form):
    def state_bytes(optimizer):
        tensors = [v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, torch.Tensor)]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    counts = []
    for kind in PAIRS[name]:
        params = make(BIG)
        options = {"momentum": 0.9} if name == "SGD" else {}
        optimizer = kind([{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(params)], lr=0.1, **options)
        feed(params, seed=0)
        optimizer.step()
        counts.append(state_bytes(optimizer))
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units or absent elsewhere")
def test_the_whole_process_peaks_no_higher_than_with_torchs_fused_step():
    peaks = {}
    for whose in ("ours", "torch"):
        done = subprocess.run([sys.executable, "-c", PEAK, whose, "AdamW"], capture_output=True, text=True, check=True)
        peaks[whose] = int(done.stdout) * 1024
    one_flat_copy = 40 * 1000 * 1000 * 4
    assert peaks["ours"] - peaks["torch"] < one_flat_copy / 10
