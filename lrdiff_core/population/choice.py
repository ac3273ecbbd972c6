"""Which path trains a population: the generated kernel, or torch.func."""

from __future__ import annotations

import subprocess

import torch
from torch import nn

from lrdiff_core.devices import compiler_status
from lrdiff_core.errors import ConfigError, DataError, UnavailableError
from lrdiff_core.population.native import kernel_status, library
from lrdiff_core.population.network import LinearLayer, linear_layers, parameter_count
from lrdiff_core.population.rows import PopulationData
from lrdiff_core.population.settings import Settings

__all__ = ["KERNEL_PARAMETERS", "kernel_layers"]

# Measured up to here, on one core: a 64-256-256-10 network (85 002 parameters) takes the kernel 0.6 of the general
# path's time, 64-16-16-10 (1 482) a quarter. A block holds 256 bytes a parameter: much larger ones leave every cache.
KERNEL_PARAMETERS = 100_000


def kernel_layers(
    model: nn.Module, data: PopulationData, settings: Settings, device: torch.device
) -> tuple[LinearLayer, ...] | None:
    """The layers, if the kernel trains this population, or None for the general path.

    Raises:
        ConfigError: the kernel was asked for and cannot train this.
        UnavailableError: a compiler was asked for and is not here.
    """
    layers = linear_layers(model)
    if layers is not None and (fault := _misfit(layers, data)):
        raise DataError(fault[0], help=fault[1])
    reasons = [
        reason
        for reason, holds in (
            ("the model is not a chain of linear layers and activations", layers is None),
            (f"the device is {device.type}, and the kernel runs on a CPU", device.type != "cpu"),
            ("the loss is the user's own", data.loss is not None),
            ("compile is False", settings.compile is False),
        )
        if holds
    ]
    if settings.path == "kernel" and reasons:
        raise ConfigError(f"path is 'kernel', and {reasons[0]}", help='write path="auto"')
    wanted = settings.path == "kernel" or (
        settings.path == "auto" and not reasons and layers is not None and parameter_count(layers) <= KERNEL_PARAMETERS
    )
    insists = settings.compile is True or settings.path == "kernel"
    status = kernel_status() if wanted else compiler_status()
    if insists and status.reason is not None and device.type == "cpu":
        raise UnavailableError(
            f"the population cannot be compiled: {status.reason}", help="install g++, or leave compile and path out"
        )
    if not wanted or status.reason is not None or layers is None:
        return None
    try:
        library(layers, data.task, settings.dtype, weighted=data.class_weight is not None)
    except (OSError, subprocess.SubprocessError) as problem:
        if insists:
            raise UnavailableError(
                f"the C++ compiler {status.detail} cannot build the kernel: {problem}",
                help="leave compile and path out",
            ) from problem
        return None
    return layers


def _misfit(layers: tuple[LinearLayer, ...], data: PopulationData) -> tuple[str, str] | None:
    """What does not fit between a chain of layers and its rows: the fault and the way out."""
    if data.inputs.ndim != 2 or data.inputs.shape[1] != layers[0].fan_in:
        shape = list(data.inputs.shape)
        return f"inputs have the shape {shape}", f"the first layer takes [rows, {layers[0].fan_in}]"
    outputs = layers[-1].fan_out
    if data.loss is None and data.task == "multiclass":
        for targets in (data.targets, data.held_targets, data.second_targets):
            if targets is not None and int(targets.max()) >= outputs:
                return f"class {int(targets.max())} has no output", f"the last layer has {outputs}"
    elif data.loss is None and data.targets.shape[1:] != (outputs,):
        return f"targets have the shape {list(data.targets.shape)}", f"the last layer gives [rows, {outputs}]"
    return None
