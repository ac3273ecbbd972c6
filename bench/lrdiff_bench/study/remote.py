"""Batches of a study trained by the workers of a Dask cluster, each as one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lrdiff_bench.study.search.ledger import TrainBatches
from lrdiff_bench.study.search.tasks import Task, TaskResult, results_of, trials_of
from lrdiff_bench.system.cluster import cluster_trouble, wait_for_workers
from lrdiff_bench.system.factory import user_code

__all__ = ["train_remotely", "workers_of"]

_WORKLOADS: dict[str, Any] = {}  # of a worker: making one may load data


def workers_of(client: Any) -> int:
    """How many batches can run at once, as soon as one can.

    Raises:
        UnavailableError: no worker comes.
    """
    wait_for_workers(client)
    return max(1, len(client.scheduler_info()["workers"]))


def train_remotely(client: Any, source: Mapping[str, Any]) -> TrainBatches:
    """Train batches on the workers.

    Args:
        client: of Dask's.
        source: of the workload, see :func:`lrdiff_bench.study.folder.workload_from`: workers make their own.
    """
    from distributed import as_completed

    def train(batches: Sequence[Sequence[Task]], on_batch: Callable[[int, list[TaskResult]], None]) -> None:
        # pure=False: a task that was trained and lost is trained again, not looked up
        futures = {
            client.submit(train_batch, dict(source), list(batch), pure=False): i for i, batch in enumerate(batches)
        }
        with cluster_trouble(what="what is trained is kept", smaller="train smaller models, or give them more"):
            for future in as_completed(list(futures), loop=client.loop):
                on_batch(futures[future], future.result())

    return train


def train_batch(source: dict[str, Any], batch: list[Task]) -> list[TaskResult]:
    """What a worker does."""
    from lrdiff_bench.study.folder import workload_from

    key = repr(sorted(source.items(), key=str))
    with user_code():
        if key not in _WORKLOADS:
            _WORKLOADS[key] = workload_from(source)
        return results_of(batch, _WORKLOADS[key].train(trials_of(batch)))
