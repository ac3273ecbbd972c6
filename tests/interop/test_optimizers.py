"""Plans drive other libraries' optimizers: the ones that are installed, by the code that writes the table."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from optimizers_table import ARGUMENTS, classes_of, drive

pytestmark = pytest.mark.interop

DRIVEN = {  # a few of each kind; docs/results/optimizers.md has them all
    "torch": ["SGD", "Adam", "AdamW", "Adafactor", "RMSprop"],
    "pytorch_optimizer": ["Lion", "Lamb", "SOAP", "AdaBelief", "Adan", "Ranger", "NorMuon", "Fromage"],
    "schedulefree": ["AdamWScheduleFree", "SGDScheduleFree", "AdamWScheduleFreeClosure"],
    "torchao": ["AdamW8bit", "AdamW4bit"],
    "bitsandbytes": ["AdamW", "Lion", "LAMB"],
    "heavyball": ["SOAP", "PSGDKron", "Muon"],
    "transformers": ["Adafactor"],
}
OWN_SCALE = {"pytorch_optimizer": ["Prodigy", "DAdaptAdam"]}  # the method estimates its rate


def cases(table):
    return [pytest.param(library, name, id=f"{library}.{name}") for library, names in table.items() for name in names]


def outcome(library, name):
    kinds = classes_of(library)
    if not kinds:
        pytest.skip(f"{library} is not installed: pip install {library}")
    full = f"{library}.{name}"
    return drive(full, kinds[name], ARGUMENTS.get(full, {}))


@pytest.mark.parametrize(("library", "name"), cases(DRIVEN))
def test_twice_the_rate_moves_the_head_twice_as_far(library, name):
    found = outcome(library, name)
    assert (found.verdict, found.note) in [("driven", ""), ("driven", "wants a closure")], found


@pytest.mark.parametrize(("library", "name"), cases(OWN_SCALE))
def test_a_method_with_a_scale_of_its_own_takes_the_groups(library, name):
    assert outcome(library, name).verdict == "takes the groups"


def test_a_rate_that_is_not_applied_is_told():
    """What the table has to tell apart: an optimizer that takes groups and steps all by the first rate."""
    import torch

    class FirstRate(torch.optim.SGD):
        def step(self, closure=None):
            rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = rates[0]
            super().step(closure)

    assert drive("mine.FirstRate", FirstRate, {}).verdict == "takes the groups"
    assert drive("mine.SGD", torch.optim.SGD, {}).verdict == "driven"
