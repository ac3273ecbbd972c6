"""The clocks of a device: what a block is timed by, beside the host's clock.

CUDA runs behind the host, so a block has three times: what the host took to hand the work over (launch), what the
device took by its own events, and the whole until the device is done. Where launch is as long as the whole, the step
is launch-bound and a faster kernel gains nothing. MPS has no trustworthy events (its timer did not synchronize,
pytorch#152199): the host's clock around ``torch.mps.synchronize()`` is the truth there.
"""

from __future__ import annotations

from typing import Any, Protocol

from lrdiff_core.errors import UnavailableError

__all__ = ["DeviceClock", "device_clock"]


class DeviceClock(Protocol):
    """Waits for a device and reads its own time; a protocol, so that tests can bring a device that is not there."""

    name: str
    behind: bool  # whether the host runs ahead of it

    def wait(self) -> None:
        """Return when everything handed over is done."""

    def mark(self) -> Any:
        """Put a mark into the device's queue."""

    def between(self, start: Any, end: Any) -> float | None:
        """Seconds between two marks, after :meth:`wait`; None where the device has no clock of its own."""

    def reset_peak(self) -> None:
        """Forget the peak of the memory so far."""

    def peak(self) -> int | None:
        """Peak bytes since :meth:`reset_peak`; None where the device does not tell."""


class _Cpu:
    name, behind = "cpu", False

    def wait(self) -> None: ...

    def mark(self) -> None: ...

    def between(self, start: None, end: None) -> None: ...

    def reset_peak(self) -> None: ...

    def peak(self) -> None: ...


class _Cuda:
    name, behind = "cuda", True

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda

    def wait(self) -> None:
        self._cuda.synchronize()

    def mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1e3  # events tell milliseconds

    def reset_peak(self) -> None:
        self._cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        return int(self._cuda.max_memory_allocated())


class _Mps(_Cpu):
    name, behind = "mps", True

    def wait(self) -> None:
        import torch

        torch.mps.synchronize()


def device_clock(name: str) -> DeviceClock:
    """The clock of a device.

    Raises:
        UnavailableError: the device is not here, or there is none of that name.

    Example:
        >>> device_clock("cpu").name
        'cpu'
    """
    if name == "cpu":
        return _Cpu()
    from lrdiff_core.devices import device_status

    status = device_status(name)
    if not status.available:
        raise UnavailableError(f"no {name} here: {status.reason}", help="measure on another device: --device cpu")
    return _Cuda() if name == "cuda" else _Mps()
