"""What torchrun starts in the tests: trainings by the library, or the command with a process that kills itself.

``train_together.py all FILE PARALLEL`` trains every case of :data:`CASES` and lets the first process write the weights;
``train_together.py kill EPOCH RANK WORDS...`` is ``lrdiff WORDS...``, keeping every epoch, whose process RANK is killed
in the first start when it has trained so many epochs. RANK -1 kills none.
"""

from __future__ import annotations

import os
import signal
import sys

from lrdiff_core.optimizers import OPTIMIZERS

CASES = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "data": "digits"},
    "adam": {"optimizer": "adam", "data": "digits", "class_weight": "balanced"},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "data": "digits", "schedule": "cosine", "warmup": 0.1},
    "muon": {"optimizer": "muon", "hidden": [16, 16], "data": "digits"},
    "regression": {"optimizer": "adam", "data": "wine", "batch_size": 25},
    "two classes": {"optimizer": "adamw", "data": "seed", "batch_size": 25},
    "fewer rows than processes": {"optimizer": "adam", "data": "seed", "batch_size": 699},
}
CASES |= {
    name: {"optimizer": name, "data": "seed", "batch_size": 50}
    for name in OPTIMIZERS
    if all(case["optimizer"] != name for case in CASES.values())
}
EPOCHS = 3


def cases(parallel):
    """Those of optimizers that can share a training so."""
    return {name: case for name, case in CASES.items() if parallel == "ddp" or OPTIMIZERS[case["optimizer"]].sharded}


def trained(settings, processes):
    from lrdiff_core import make_config, set_up, train

    config = processes.placed(make_config({"epochs": EPOCHS, "patience": 0, "device": "cpu", **settings}))
    return train(set_up(config.load_table(), config), processes=processes)


def train_all(file, parallel):
    from safetensors.torch import save_file

    from lrdiff_core.processes.group import joined

    with joined("cpu", parallel) as processes:
        found = {}
        for name, settings in cases(parallel).items():
            result = trained(settings, processes)
            found |= {f"{name}/{key}": value.contiguous() for key, value in result.net.state_dict().items()}
        if processes.is_first:
            save_file(found, file)


def command(epoch, rank, words):
    from lrdiff_bench.cli import main
    from lrdiff_bench.run.files import resuming
    from lrdiff_core.processes.group import Processes
    from lrdiff_core.processes.launch import launched

    resuming.INTERVAL_SECONDS, resuming.SHARE = 0.0, 1e9
    check, launch, done = Processes.check_same, launched(), []

    def check_and_die(self, module):
        check(self, module)
        done.append(1)
        if len(done) == epoch and launch is not None and launch.rank == rank and not launch.restarts:
            os.kill(os.getpid(), signal.SIGKILL)

    Processes.check_same = check_and_die
    return main(words)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "all":
        train_all(*rest)
    else:
        from lrdiff_bench.system.interruption import ends_on_signals

        with ends_on_signals():
            sys.exit(command(int(rest[0]), int(rest[1]), rest[2:]))
