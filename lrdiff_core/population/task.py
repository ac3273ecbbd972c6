"""A run's settings as a population: the one way from a configuration to models, rows and options for every seed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrdiff_core.data import Table
from lrdiff_core.devices import repeatable
from lrdiff_core.model import ModelSpec, TabularNet, build_model
from lrdiff_core.population.rows import PopulationData
from lrdiff_core.setup import Prepared, class_weights, model_spec, prepare, rate_table

if TYPE_CHECKING:  # names of types alone: populations train where pydantic is not installed
    from lrdiff_core.config import RunConfig

__all__ = ["PopulationTask", "population_task"]

CACHE_BYTES = 256 * 2**20  # of what was made for seeds: callers come back to the same seeds again and again


@dataclass(frozen=True, kw_only=True)
class PopulationTask:
    """The training of a run at any seed.

    A seed has its own split, first weights and order of the rows, and rows of its own where they are generated.

    Args:
        config: the run's settings.
        table: its rows; of a generator, those of one seed.
        spec: its model.
        batch_size: rows a step.
        layers: names of the layers, in order; each is a group.
        rates: the run's own rate of each layer.
        class_weight: [classes] of the run's own split, for every seed, so that all losses are of one kind.
    """

    config: RunConfig
    table: Table
    spec: ModelSpec
    batch_size: int
    layers: tuple[str, ...]
    rates: dict[str, float]
    class_weight: Tensor | None = None
    _made: OrderedDict[int, _Seeded] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)

    def model(self, seed: int) -> TabularNet:
        """The network of a seed before training, its preprocessing fitted."""
        return self._of(seed).net

    def rows(self, seed: int, held: str = "validation") -> PopulationData:
        """The rows of a seed, standardized by its training rows; ``held``: the split that is evaluated on."""
        return self._of(seed).rows[held]

    def rows_of_both(self, seed: int) -> PopulationData:
        """The same with the validation rows held out, and the test rows as the second ones."""
        return self._of(seed).rows["both"]

    def prepared(self, seed: int) -> Prepared:
        """The rows of a seed as the training loop takes them."""
        return self._of(seed).prepared

    @property
    def steps_an_epoch(self) -> int:
        """Steps of one pass over the training rows."""
        return -(-self.rows(self.config.seed).rows // self.batch_size)

    @property
    def epochs(self) -> int:
        """Passes over the training rows, at most."""
        return self.config.most_epochs(self.rows(self.config.seed).rows)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`PopulationOptions` besides the length."""
        config = self.config
        return {
            "batch_size": self.batch_size,
            "optimizer": config.optimizer,
            "momentum": config.momentum,
            "weight_decay": config.weight_decay,
            "schedule": config.shape(),
            # "auto" would send small networks past the kernel to a GPU that all processes share.
            "device": "cpu" if config.device == "auto" else config.device,
        }

    def _of(self, seed: int) -> _Seeded:
        if seed in self._made:
            self._made.move_to_end(seed)
            return self._made[seed]
        made = self._made[seed] = self._make(seed)
        while len(self._made) > max(1, CACHE_BYTES // made.bytes):
            self._made.popitem(last=False)
        return made

    def _make(self, seed: int) -> _Seeded:
        config, table = self.config, self.table
        if table.source == "generator":
            table = config.load_table(seed=seed)
        net = build_model(self.spec, seed=seed)
        split = config.split(table, seed=seed)
        # On the CPU, wherever training happens: what drives a cluster need not have its workers' device. On one thread:
        # rows are few, and a small parallel region waits for whoever else uses the processors.
        cpu = torch.device("cpu")
        with repeatable(cpu, threads=1):
            prepared = replace(
                prepare(net, table, split, device=cpu, impute=config.impute), class_weight=self.class_weight
            )
            rows = {part: PopulationData.of(prepared, held=part) for part in ("validation", "test")}
            rows["both"] = PopulationData.of(prepared, second="test")
        return _Seeded(net=net, prepared=prepared, rows=rows)


@dataclass(frozen=True, kw_only=True)
class _Seeded:
    net: TabularNet
    prepared: Prepared
    rows: dict[str, PopulationData]

    @property
    def bytes(self) -> int:
        parts = [(one.inputs, one.targets, one.held_inputs, one.held_targets) for one in self.rows.values()]
        return sum({t.data_ptr(): t.nbytes for part in parts for t in part if t is not None}.values())


def population_task(config: RunConfig, *, table: Table | None = None) -> PopulationTask:
    """Turn the settings of a run into what a population trains; member and run of one seed and rate end alike.

    Args:
        config: the settings.
        table: its rows, where they have been read already.

    Raises:
        DataError: the rows cannot be used.

    Example:
        >>> from lrdiff_core import PRESETS, make_config
        >>> from lrdiff_core.population import PopulationOptions, train_population
        >>> task = population_task(make_config(PRESETS["seed"]))
        >>> data = {seed: task.rows(seed) for seed in (0, 1)}
        >>> rates = [[0.01, 0.01], [0.01, 0.001]]  # [members, layers]
        >>> options = PopulationOptions(epochs=2, **task.options)
        >>> train_population(task.model, data, rates, [0, 1], options).held_loss.shape
        torch.Size([2, 2])
    """
    if table is None:
        table = config.load_table()
    spec = model_spec(table, config)
    net = build_model(spec, seed=config.seed)
    split = config.split(table)
    return PopulationTask(
        config=config,
        table=table,
        spec=spec,
        batch_size=config.rows_per_step(len(split.train)),
        layers=tuple(net.layer_names),
        rates=rate_table(config, net),
        class_weight=None if config.class_weight is None else class_weights(table, split, config.class_weight),
    )
