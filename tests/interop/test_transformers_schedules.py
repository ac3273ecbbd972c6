"""Shapes against transformers' ``get_*_schedule``: the same rates, bit for bit."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e .[interop]")

from transformers import optimization

from lrdiff_core.schedules import Schedule, Shape

pytestmark = pytest.mark.interop

TOTAL, WARMUP, DECAY = 40, 7, 11
STEPS = {"num_warmup_steps": WARMUP, "num_training_steps": TOTAL}
WSD = {**STEPS, "num_decay_steps": DECAY}
PAIRS = {
    "constant": (Shape(kind="constant", warmup=WARMUP), "constant_schedule_with_warmup", {"num_warmup_steps": WARMUP}),
    "linear": (Shape(kind="linear", warmup=WARMUP), "linear_schedule_with_warmup", STEPS),
    "cosine": (Shape(warmup=WARMUP), "cosine_schedule_with_warmup", STEPS),
    "cosine, floor": (
        Shape(warmup=WARMUP, floor=0.1),
        "cosine_with_min_lr_schedule_with_warmup",
        {**STEPS, "min_lr_rate": 0.1},
    ),
    "restarts": (
        Shape(kind="cosine_restarts", warmup=WARMUP, cycles=3),
        "cosine_with_hard_restarts_schedule_with_warmup",
        {**STEPS, "num_cycles": 3},
    ),
    "polynomial": (
        Shape(kind="polynomial", warmup=WARMUP, power=2.0),
        "polynomial_decay_schedule_with_warmup",
        {**STEPS, "power": 2.0, "lr_end": 0.0},
    ),
    "inverse sqrt": (
        Shape(kind="inverse_sqrt", warmup=WARMUP),
        "inverse_sqrt_schedule",
        {"num_warmup_steps": WARMUP},
    ),
    "inverse sqrt, timescale": (
        Shape(kind="inverse_sqrt", warmup=WARMUP, timescale=23),
        "inverse_sqrt_schedule",
        {"num_warmup_steps": WARMUP, "timescale": 23},
    ),
    "inverse sqrt, no warm-up": (Shape(kind="inverse_sqrt"), "inverse_sqrt_schedule", {"num_warmup_steps": 0}),
    **{
        f"wsd, {up} up, {down} down": (
            Shape.wsd(warmup=WARMUP, decay=DECAY, kind=down, warmup_kind=up),
            "wsd_schedule",
            {**WSD, "decay_type": down, "warmup_type": up},
        )
        for up in ("linear", "cosine", "1-sqrt")
        for down in ("linear", "cosine", "1-sqrt")
    },
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_rates_to_the_bit(name):
    shape, function, options = PAIRS[name]
    rate = 1.0 if "polynomial" in name else 0.003  # theirs multiplies and divides by the rate
    mine, other = (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=rate) for _ in range(2))
    schedule = Schedule(mine, total_steps=TOTAL, shape=shape)
    theirs = getattr(optimization, f"get_{function}")(other, **options)
    for step in range(TOTAL + 1 if name.startswith("cosine") else TOTAL + 5):  # past the end their cosine rises again
        assert schedule.get_last_lr() == theirs.get_last_lr(), step
        for part in (mine, other, schedule, theirs):
            part.step()


@pytest.mark.parametrize("fraction", [0.05, 0.1, 1 / 3, 0.101])
@pytest.mark.parametrize("total", [7, 40, 1000])
def test_a_fraction_of_the_training_is_the_trainers(fraction, total, tmp_path):
    arguments = optimization_arguments(tmp_path, fraction)
    shape = Shape(kind="linear", warmup=fraction)
    shape.check(total)
    assert shape.start(total) == arguments.get_warmup_steps(total)


def optimization_arguments(folder, fraction):
    from transformers import TrainingArguments

    return TrainingArguments(output_dir=str(folder), warmup_steps=fraction, use_cpu=True, report_to=[])
