"""Train: data, model, rates, optimizers, loop, devices, checkpoints.

Names are looked up on first use, so that ``import lrdiff_core`` costs nothing and the command line can answer
``--help`` without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrdiff_core.checkpoint import load_checkpoint, save_checkpoint
    from lrdiff_core.config import CompareConfig, RunConfig, load_config, make_config
    from lrdiff_core.data import BUILTIN_TABLES, Split, Table, load_table, read_features, split_table
    from lrdiff_core.devices import choose_device, compiler_status, device_status, repeatable
    from lrdiff_core.errors import LrdiffError
    from lrdiff_core.loop import Observation, Setup, Trained, evaluate, fit, prepare, score_name, set_up, train
    from lrdiff_core.model import ModelSpec, Predictor, TabularNet, build_model, constant_columns
    from lrdiff_core.presets import PRESETS
    from lrdiff_core.rates import layer_rates, param_groups

_HOME = {
    "checkpoint": ("load_checkpoint", "save_checkpoint"),
    "config": ("CompareConfig", "RunConfig", "load_config", "make_config"),
    "data": ("BUILTIN_TABLES", "Split", "Table", "load_table", "read_features", "split_table"),
    "devices": ("choose_device", "compiler_status", "device_status", "repeatable"),
    "errors": ("LrdiffError",),
    "loop": ("Observation", "Setup", "Trained", "evaluate", "fit", "prepare", "score_name", "set_up", "train"),
    "model": ("ModelSpec", "Predictor", "TabularNet", "build_model", "constant_columns"),
    "presets": ("PRESETS",),
    "rates": ("layer_rates", "param_groups"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BUILTIN_TABLES",
    "CompareConfig",
    "LrdiffError",
    "ModelSpec",
    "Observation",
    "PRESETS",
    "Predictor",
    "RunConfig",
    "Setup",
    "Split",
    "Table",
    "TabularNet",
    "Trained",
    "build_model",
    "choose_device",
    "compiler_status",
    "constant_columns",
    "device_status",
    "evaluate",
    "fit",
    "layer_rates",
    "load_checkpoint",
    "load_config",
    "load_table",
    "make_config",
    "param_groups",
    "prepare",
    "read_features",
    "repeatable",
    "save_checkpoint",
    "score_name",
    "set_up",
    "split_table",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
