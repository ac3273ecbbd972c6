"""Lanes: one implementation on one device in one arithmetic, a row of the matrix each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrdiff_core.devices import device_status
from lrdiff_core.errors import ConfigError
from lrdiff_export.training.arithmetic import ARITHMETICS
from lrdiff_export.training.implementations import IMPLEMENTATIONS

__all__ = ["Lane", "find_lanes", "why_not"]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One row of the matrix: who makes the updates, where, in which arithmetic."""

    implementation: str
    device: str = "cpu"
    arithmetic: str = "float32"

    def __str__(self) -> str:
        return f"{self.implementation} on {self.device} in {self.arithmetic}"


def find_lanes(
    wanted: Sequence[str] | None = None,
    *,
    devices: Sequence[str] = ("cpu", "cuda", "mps"),
    arithmetics: Sequence[str] = ("float32",),
) -> list[Lane]:
    """Return the lanes that names select: implementations, devices and arithmetics in any order, each kind optional.

    Args:
        wanted: such as ``["ours", "cuda", "bfloat16"]``; None for every implementation.
        devices: where none is named.
        arithmetics: where none is named.

    Raises:
        ConfigError: an unknown name.

    Example:
        >>> [str(lane) for lane in find_lanes(["ours", "cpu", "float64"])]
        ['ours on cpu in float64']
    """
    names = list(wanted or [])
    for name in names:
        if name not in IMPLEMENTATIONS and name not in ARITHMETICS and name not in ("cpu", "cuda", "mps"):
            raise ConfigError(
                f'"{name}" is not an implementation, device or arithmetic',
                help=f"write some of: {', '.join([*IMPLEMENTATIONS, 'cpu', 'cuda', 'mps', *ARITHMETICS])}",
            )
    chosen_devices = [name for name in names if name in ("cpu", "cuda", "mps")] or list(devices)
    chosen_arithmetics = [name for name in names if name in ARITHMETICS] or list(arithmetics)
    named = [name for name in names if name in IMPLEMENTATIONS]
    return [
        Lane(implementation=name, device=device, arithmetic=arithmetic)
        for device in chosen_devices
        for arithmetic in chosen_arithmetics
        for name in named or IMPLEMENTATIONS
        # What can never be there is a row only where it was asked for by name.
        if name in named or (device in IMPLEMENTATIONS[name].devices and device in ARITHMETICS[arithmetic].devices)
    ]


def why_not(lane: Lane, optimizer: str) -> str | None:
    """Return why a lane cannot run here, in one line, or None.

    Example:
        >>> why_not(Lane(implementation="ours-graph"), "adam")
        'ours-graph needs cuda'
    """
    arithmetic = ARITHMETICS[lane.arithmetic]
    if lane.device not in arithmetic.devices:
        return f"there is no {lane.arithmetic} on {lane.device}"
    if (reason := device_status(lane.device).reason) is not None:
        return reason
    return IMPLEMENTATIONS[lane.implementation].unavailable(optimizer, lane.device, arithmetic)
