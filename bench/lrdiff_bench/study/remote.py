"""Batches of a study trained by the workers of a Dask cluster, each as one task."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lrdiff_bench.study.search.ledger import TrainBatches
from lrdiff_bench.study.search.tasks import Task, TaskResult, trained
from lrdiff_bench.system.cluster import Tasks, ask_workers, cluster_trouble, wait_for_workers
from lrdiff_bench.system.factory import user_code
from lrdiff_core.errors import UnavailableError
from lrdiff_core.text import count

__all__ = ["Workers", "workers_for"]

_WORKLOADS: dict[str, Any] = {}  # of a worker: making one may load data
_KEPT = {"what": "what is trained is kept", "smaller": "train smaller models, or give them more"}


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Those workers of a cluster that have the device of a study.

    Attributes:
        client: of Dask's.
        source: of the workload, see :func:`lrdiff_bench.study.folder.workload_from`: workers make their own.
        names: their addresses.
        together: whether trainings go side by side there; None for workloads that do not ask.
        seconds: of one training there, where they come one after the other.
    """

    client: Any
    source: Mapping[str, Any]
    names: tuple[str, ...]
    together: bool | None
    seconds: float | None

    def workload(self, workload: Any) -> Any:
        """The driver's own workload, with what depends on the device answered by the workers."""
        return workload if self.together is None else replace(workload, together=self.together)

    def train(self, tell: Callable[[str], None] | None = None) -> TrainBatches:
        """Train batches on them; ``tell`` gets a line about one that gives no sign of life."""

        def train(batches: Sequence[Sequence[Task]], on_batch: Callable[[int, list[TaskResult]], None]) -> None:
            run, tasks = uuid.uuid4().hex[:12], Tasks(self.client, tell)
            where: dict[str, Any] = {} if self._any_will_do else {"workers": list(self.names)}
            with cluster_trouble(**_KEPT):
                for i, batch in enumerate(batches):
                    key = f"lrdiff-study-{run}-{i}"
                    tasks.send(i, train_batch, dict(self.source), list(batch), key=key, **where)
                for i, rows in tasks.results():
                    on_batch(i, rows)

        return train

    @property
    def _any_will_do(self) -> bool:
        """Workers that come later have a CPU, too."""
        return device_of(self.source) in ("auto", "cpu")


def workers_for(client: Any, source: Mapping[str, Any], tell: Callable[[str], None] | None = None) -> Workers:
    """Ask the workers of a cluster what they say of a study, as soon as there is one.

    Args:
        client: of Dask's.
        source: of the workload.
        tell: gets a line about a worker that gives no sign of life.

    Raises:
        UnavailableError: no worker comes, none answers, or none has the device.
    """
    wait_for_workers(client)
    device = device_of(source)
    with cluster_trouble(**_KEPT):
        reasons = ask_workers(client, missing, device, tell=tell)
        able = tuple(sorted(name for name, reason in reasons.items() if reason is None))
        if not able:
            name, reason = min(reasons.items())
            raise UnavailableError(
                f"none of {count(len(reasons), 'worker')} can train on {device}; {name}: {reason}",
                help="start workers where the device is, or leave --device out",
            )
        tasks = Tasks(client, tell)
        tasks.send("about", about, dict(source), key=f"lrdiff-study-about-{uuid.uuid4().hex[:12]}", workers=able)
        ((_, (together, seconds)),) = tasks.results()
    return Workers(client=client, source=source, names=able, together=together, seconds=seconds)


def device_of(source: Mapping[str, Any]) -> str:
    """The device that a study asks for."""
    return str(source.get("settings", {}).get("device", "auto"))


def missing(device: str) -> str | None:
    """Why a worker does not have a device, or None; runs on the worker."""
    from lrdiff_core.devices import choose_device

    try:
        choose_device(device)
    except UnavailableError as problem:
        return problem.message
    return None


def about(source: dict[str, Any]) -> tuple[bool | None, float | None]:
    """Whether trainings go side by side on a worker, and the seconds of one that does not; runs on the worker."""
    with user_code():
        workload = _workload(source)
        side_by_side = getattr(workload, "side_by_side", None)
        return None if side_by_side is None else bool(side_by_side()), workload.seconds_of_training()


def train_batch(source: dict[str, Any], batch: list[Task]) -> list[TaskResult]:
    """What a worker does."""
    with user_code():
        workload = _workload(source)
        return trained(workload, batch)


def _workload(source: dict[str, Any]) -> Any:
    from lrdiff_bench.study.folder import workload_from

    key = repr(sorted(source.items(), key=str))
    if key not in _WORKLOADS:
        _WORKLOADS[key] = workload_from(source)
    return _WORKLOADS[key]
