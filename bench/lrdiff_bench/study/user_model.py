"""The user's own workload: rows from a file, a model from a factory (or the project's own network), rates by group.

Models that a population can train are trained side by side; others one after the other, on the device.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from lrdiff_bench.study.workloads.outcomes import mask_diverged, outcomes, time_compiling, time_step
from lrdiff_bench.study.workloads.workload import AT_ONCE, FEWEST, Outcomes, Trials, Workload
from lrdiff_core.errors import ConfigError, DataError, InputError, LrdiffError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrdiff_core.config import OptimizerName
    from lrdiff_core.population import PopulationData, PopulationTask

__all__ = ["UserModelWorkload", "group_columns"]

SMALL = 200_000  # parameters up to which a population pays; larger models fill the machine alone
_PROBE = 2  # members and steps that show whether torch.func takes the model

Factory = Callable[[int], "nn.Module"]


@dataclass(frozen=True, kw_only=True)
class UserModelWorkload(Workload):
    """A workload over a table.

    Attributes:
        data, target, task: of the table, as for ``lrdiff run``.
        model: ``MODULE:FACTORY``; None for the project's own network with ``hidden``.
        hidden: hidden sizes of that.
        patterns: which parameters each group has: names, globs or ``/expressions/``; empty: each layer is a group.
        optimizer, momentum, weight_decay, batch_size: of the training.
        evaluations: how often the metric is taken.
        device: as for ``lrdiff run``.
    """

    report_seeds: int = FEWEST
    data: str
    target: str | None = None
    task: Literal["auto", "binary", "multiclass", "regression"] = "auto"
    model: str | None = None
    hidden: tuple[int, ...] | None = None
    patterns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    optimizer: str = "adam"
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 32
    evaluations: int = 10
    device: str = "auto"
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def at_once(self) -> int:
        """Trainings of one call: one where they come one after the other."""
        return AT_ONCE if self.side_by_side() else 1

    def train(self, trials: Trials) -> Outcomes:
        """Train all of them, side by side where that works."""
        seeds = [int(seed) for seed in trials.seeds]
        rows = {seed: self.rows(seed, trials.judged_on) for seed in dict.fromkeys(seeds)}
        columns = group_columns(self.build(seeds[0]), self.patterns, self.groups)
        if self.side_by_side():
            return self._population(trials, rows, seeds, columns)
        return self._alone(trials, rows, seeds, columns)

    def tiny(self) -> UserModelWorkload:
        """A few steps."""
        return replace(self, steps=min(self.steps, 4), evaluations=2)

    def fingerprint(self) -> str:
        """Rows of the file, and parts and weights of the model of seed 0."""
        model, table = self.build(0), self.table_task.table
        digest = hashlib.sha256(repr([(name, type(part).__name__) for name, part in model.named_modules()]).encode())
        for values in (table.features, table.target, *(v.detach().cpu().numpy() for v in model.state_dict().values())):
            digest.update(f"{values.dtype}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    def evaluated_after(self) -> list[int]:
        """Numbers of steps at which the metric is taken."""
        every = max(1, self.steps // self.evaluations)
        return sorted({*range(every, self.steps + 1, every), self.steps})

    def rows(self, seed: int, judged_on: str) -> PopulationData:
        """Rows to learn from and those of one other split, standardized by the former."""
        return self.table_task.rows(seed, judged_on)

    def build(self, seed: int) -> nn.Module:
        """The model of a seed; a factory's weights are drawn anew for each, a ready module's are taken as they are.

        Raises:
            InputError: the factory fails, or makes no module.
        """
        if self.model is None:
            from lrdiff_core import build_model

            return build_model(self.table_task.spec, seed=seed)
        from lrdiff_bench.system.factory import load_model
        from lrdiff_core.population.members import build

        target = self.model
        return copy.deepcopy(build(lambda _: load_model(target).module, seed))

    def side_by_side(self) -> bool:
        """Whether populations train it: small enough, and torch.func takes it."""
        if "side by side" not in self._kept:
            self._kept["side by side"] = self._fits()
        return bool(self._kept["side by side"])

    @cached_property
    def table_task(self) -> PopulationTask:
        """Rows for every seed, and the project's own network for them."""
        from lrdiff_core.config import make_config
        from lrdiff_core.population import population_task

        settings = {
            "data": self.data, "target": self.target, "task": self.task, "batch_size": self.batch_size,
            "hidden": self.hidden,
        }  # fmt: skip
        return population_task(make_config({key: value for key, value in settings.items() if value is not None}))

    def check(self) -> None:
        """Check that model, groups and rows fit together, before anything is trained.

        Raises:
            InputError: the model makes no use of the rows, or not what the task needs.
            RateError: a pattern that matches nothing.
            ConfigError: a parameter in no group.
        """
        model = self.build(0)
        self._check_outputs(model)
        group_columns(model, self.patterns, self.groups)

    def _fits(self) -> bool:
        model = self.build(0)
        if sum(p.numel() for p in model.parameters()) > SMALL:
            return False
        rows, columns = self.rows(0, "validation"), group_columns(model, self.patterns, self.groups)
        try:
            self._kept["compiling"] = time_compiling(self._stander(0, rows, columns))
            self._train_population(
                {0: rows},
                np.full((_PROBE, len(self.groups)), 1e-6),
                [0] * _PROBE,
                columns,
                steps=_PROBE,
                evaluate=_PROBE,
            )
        except DataError:
            raise  # rows that do not fit the model fit it no better alone
        except (LrdiffError, RuntimeError):
            return False  # BatchNorm, Dropout, a loop over values: what torch.func cannot stack
        return True

    def _check_outputs(self, model: nn.Module) -> None:
        """Refuse a model whose outputs are not what the task's loss takes."""
        import torch

        rows = self.rows(0, "validation")
        classes = self.table_task.spec.outputs
        model.eval()
        network = _network(model)
        try:
            with torch.no_grad():
                outputs = network(rows.inputs[:2].cpu())
        except Exception as problem:  # whatever the user's own code raises
            reason = " ".join(str(problem).split()) or type(problem).__name__
            raise InputError(
                f"{self.model} cannot take rows [2, {rows.inputs.shape[1]}]: {reason[:200]}",
                help=f"let it map [rows, {rows.inputs.shape[1]}] to [rows, {classes}]",
            ) from problem
        if not isinstance(outputs, torch.Tensor):
            raise InputError(
                f"{self.model} gives a {type(outputs).__name__}, not a tensor",
                help=f"let it map [rows, {rows.inputs.shape[1]}] to [rows, {classes}]",
            )
        if tuple(outputs.shape) != (2, classes):
            raise InputError(
                f"{self.model} maps [2, {rows.inputs.shape[1]}] to {list(outputs.shape)}",
                help=f"a {rows.task} task over these rows needs [rows, {classes}], logits without a sigmoid or softmax",
            )

    def _train_population(
        self,
        rows: Mapping[int, PopulationData],
        rates: np.ndarray,
        seeds: list[int],
        columns: Mapping[str, int],
        **options: Any,
    ) -> Any:
        from lrdiff_core.population import PopulationOptions, train_population

        return train_population(
            self.build,
            rows,
            rates,
            seeds,
            PopulationOptions(
                batch_size=self.batch_size,
                optimizer=self.optimizer,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                device=self.device,
                **options,
            ),
            groups=dict(columns),
        )

    def _population(
        self, trials: Trials, rows: Mapping[int, PopulationData], seeds: list[int], columns: Mapping[str, int]
    ) -> Outcomes:
        every = max(1, self.steps // self.evaluations)
        found = self._train_population(rows, trials.rates, seeds, columns, steps=self.steps, evaluate=every)
        return outcomes(
            found,
            self.metric,
            seconds_a_step=self._seconds_side_by_side(seeds[0], rows[seeds[0]], columns),
            seconds_to_compile=float(self._kept["compiling"]),
        )

    def _seconds_side_by_side(self, seed: int, rows: PopulationData, columns: Mapping[str, int]) -> float:
        """Measured once."""
        if "seconds" not in self._kept:
            parameters = sum(p.numel() for p in self.build(seed).parameters())
            still = self._stander(seed, rows, columns)
            self._kept["seconds"] = time_step(still, parameters=parameters, steps=self.steps)
        return float(self._kept["seconds"])

    def _stander(self, seed: int, rows: PopulationData, columns: Mapping[str, int]) -> Callable[[int, int], Any]:
        """What trains so many trials for so many steps without moving them."""
        return lambda count, steps: self._train_population(
            {seed: rows}, np.zeros((count, len(self.groups))), [seed] * count, columns, steps=steps, evaluate="never"
        )

    def _alone(
        self, trials: Trials, rows: Mapping[int, PopulationData], seeds: list[int], columns: Mapping[str, int]
    ) -> Outcomes:
        after = self.evaluated_after()
        metric, losses = (np.full((len(seeds), len(after)), np.nan) for _ in range(2))
        spent, steps = 0.0, 0
        for i, (seed, rates) in enumerate(zip(seeds, trials.rates, strict=True)):
            seconds, done = self._one(self.build(seed), rows[seed], rates, seed, columns, metric[i], losses[i])
            spent, steps = spent + seconds, steps + done
        return mask_diverged(
            metric,
            losses,
            evaluated_after=np.array(after),
            seconds_a_step=spent / max(1, steps),  # a trial that diverged was spared its other steps
        )

    def _one(
        self,
        model: nn.Module,
        rows: PopulationData,
        rates: np.ndarray,
        seed: int,
        columns: Mapping[str, int],
        metric: np.ndarray,
        losses: np.ndarray,
    ) -> tuple[float, int]:
        """Train one model as a population trains a member, and write down its metric and losses.

        Returns:
            Seconds of its steps, and how many it made.
        """
        import torch

        from lrdiff_core.devices import choose_device, repeatable
        from lrdiff_core.population.members import row_order
        from lrdiff_core.population.rows import loss_function, score
        from lrdiff_core.setup import make_optimizer

        where = choose_device(self.device)
        model, data = model.to(where), rows.to(where, torch.float32)
        network = _network(model)
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in model.named_parameters() if columns.get(n) == i], "lr": float(rate),
             "weight_decay": self.weight_decay}
            for i, rate in enumerate(rates)
        ]  # fmt: skip
        optimizer = make_optimizer(cast("OptimizerName", self.optimizer), groups, momentum=self.momentum)
        loss_of, after = loss_function(data), self.evaluated_after()
        steps_an_epoch = -(-data.rows // self.batch_size)
        order = row_order(seed, data.rows, -(-self.steps // steps_an_epoch)).long()
        spent, done, at = 0.0, 0, 0
        with repeatable(where, threads=torch.get_num_threads()):
            for step in range(self.steps):
                begin = time.perf_counter()
                epoch, within = divmod(step, steps_an_epoch)
                first = epoch * data.rows + within * self.batch_size
                batch = order[first : min(first + self.batch_size, (epoch + 1) * data.rows)].to(where)
                optimizer.zero_grad()
                loss = loss_of(network(data.inputs[batch]), data.targets[batch])
                loss.backward()
                if not math.isfinite(float(loss.detach())):
                    break
                optimizer.step()
                spent, done = spent + time.perf_counter() - begin, step + 1
                if step + 1 == after[at]:
                    losses[at], metric[at] = self._evaluate(model, network, data, loss_of, score)
                    at += 1
        return spent, done

    def _evaluate(
        self, model: nn.Module, network: Any, data: PopulationData, loss_of: Any, score: Any
    ) -> tuple[float, float]:
        import torch

        model.eval()
        with torch.no_grad():
            train = float(loss_of(network(data.inputs), data.targets))
            outputs = network(data.held_inputs)
            held = float(loss_of(outputs, cast("Tensor", data.held_targets)))
            found = held if self.metric == "loss" else float(score(data, outputs, data.held_targets))
        model.train()
        if not (math.isfinite(train) and math.isfinite(held)):
            return math.nan, math.nan
        return train, found  # fmt: skip


def _network(model: nn.Module) -> Any:
    """What maps standardized rows to outputs: the project's own network brings its standardizing as well."""
    from lrdiff_core import TabularNet

    return model.network if isinstance(model, TabularNet) else model


def group_columns(model: nn.Module, patterns: Mapping[str, Sequence[str]], groups: Sequence[str]) -> dict[str, int]:
    """Column of every trained parameter by its name.

    Args:
        model: any module.
        patterns: of each group, as in :class:`lrdiff_core.rates.Rule`; empty: each module with parameters is a group.
        groups: names in the order of the columns.

    Raises:
        RateError: a pattern that matches nothing.
        ConfigError: a parameter in no group, or groups that are no layers.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> group_columns(net, {"body": ["0"], "head": ["1.*"]}, ["body", "head"])
        {'0.weight': 0, '0.bias': 0, '1.weight': 1, '1.bias': 1}
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not patterns:
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        if tuple(layers) != tuple(groups) and len(layers) != len(groups):
            raise ConfigError(
                f"the model has {len(layers)} layers, and there are {len(groups)} groups",
                help=f"say which parameters each group has; layers: {', '.join(layers)}",
            )
        return {name: layers.index(name.rpartition(".")[0]) for name in names}
    from lrdiff_core.rates import Rule, param_groups

    # A plan finds dead, shadowed and misspelt patterns; the multiplier says which rule took a parameter.
    rules = [
        Rule([Rule.parse(f"{one} lr_mult=1").match for one in patterns[group]], lr_mult=float(i + 2))
        for i, group in enumerate(groups)
    ]
    found = {}
    for entry in param_groups(model, lr=1.0, rules=rules):
        if entry.name in names:
            if entry.lr == 1.0:
                raise ConfigError(
                    f'parameter "{entry.name}" is in no group',
                    help=f"add a pattern for it; groups: {', '.join(groups)}",
                )
            found[entry.name] = int(entry.lr) - 2
    return found
