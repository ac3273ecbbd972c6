"""Settings that ship with the project, by name."""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    # The example the project began with. The page it comes from states neither optimizer, generator nor
    # batch size; Adam and 25 rows a step bring its loss and accuracy about (tests/bench/test_seed_preset.py).
    "seed": {
        "name": "seed",
        "data": "seed",
        "hidden": [5],
        "rates": {"layer1": 0.01, "layer2": 0.001},
        "optimizer": "adam",
        "batch_size": 25,
        "epochs": 10,
    },
}
