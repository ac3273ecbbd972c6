"""A process that ends while somebody steps: a daemon thread, or a ``__del__`` that runs when Python is taken down."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ENDS = 4  # of a process that is forked when all is imported

DAEMON = """
import os, sys, threading, time
import torch
from lrdiff_core import optim

torch.set_num_threads(1)

def begin():
    params = [torch.nn.Parameter(torch.randn(300, 300)) for _ in range(8)]
    for param in params:
        param.grad = torch.randn_like(param)
    return optim.AdamW([{"params": params[:4]}, {"params": params[4:], "lr": 1e-4}], lr=1e-3)

def work(begun):
    optimizer = begin()
    while True:
        optimizer.step()
        begun.set()

class Last:
    def __init__(self):
        self.optimizer = begin()
        self.optimizer.step()

    def __del__(self):
        self.optimizer.step()

begin().step()  # what is built and loaded once
for i in range(int(sys.argv[1])):
    if pid := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            sys.exit(f"{i}: status {status}")
        continue
    if sys.argv[2] == "daemon":
        begun = threading.Event()
        threading.Thread(target=work, args=(begun,), daemon=True).start()
        begun.wait()
        time.sleep(0.01 * i)
    else:
        last = Last()
        if i % 2:
            last.itself = last  # it is found when modules are gone already
    break
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("how", ["daemon", "del"])
def test_a_process_ends_well_while_somebody_steps(how: str) -> None:
    """With torch's own AdamW in the daemon thread the process is aborted (torch 2.13)."""
    done = subprocess.run([sys.executable, "-c", DAEMON, str(ENDS), how], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "terminate called" not in done.stderr
    assert "Traceback" not in done.stderr
