"""Training a model of one's own: the project's loop over batches in whatever form they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lrdiff_bench.run.own_model.setup import OwnSetup
from lrdiff_bench.run.own_model.tasks import Tally, loss_fault
from lrdiff_bench.system.batches import Batch, Part, stacked
from lrdiff_bench.system.user_code import their_fault, user_code
from lrdiff_core.devices import torch_threads
from lrdiff_core.errors import LrdiffError
from lrdiff_core.loop import Observation, TrainingState, run_epochs, seen_by_all, stepping, watching
from lrdiff_core.machine.memory import is_out_of_memory, with_room
from lrdiff_core.processes.divided import Divided
from lrdiff_core.processes.group import ALONE, Processes, lost
from lrdiff_core.schedules import Schedule
from lrdiff_core.seeds import derive_seed, make_generator
from lrdiff_core.setup import make_optimizer

__all__ = ["OwnTrained", "evaluate_own", "fit_own", "train_own"]

MOST_TRIED = 4  # rows of the passes before the first step of several processes
MOST_WATCHED = 2048  # training rows that the loss is taken on after an epoch

OnEpoch = Callable[[int, Sequence[Observation]], None]
OnState = Callable[[nn.Module, TrainingState], None]
OnLoss = Callable[[torch.Tensor, Batch], None]


@dataclass(frozen=True, kw_only=True)
class OwnTrained:
    """What :func:`train_own` returns; as :class:`lrdiff_core.loop.Trained` has it."""

    setup: OwnSetup
    observations: tuple[Observation, ...]
    kept_epoch: int

    @property
    def net(self) -> nn.Module:
        """What is shipped, on the CPU."""
        return self.setup.shipped

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return self.last("validation").epoch

    def last(self, split: str) -> Observation:
        """Return the observation of ``split`` after the last epoch."""
        return next(row for row in reversed(self.observations) if row.split == split)


def train_own(
    setup: OwnSetup,
    *,
    on_epoch: OnEpoch | None = None,
    on_state: OnState | None = None,
    go_on: OnState | None = None,
    processes: Processes = ALONE,
) -> OwnTrained:
    """Train in place.

    Args:
        setup: of :func:`lrdiff_bench.run.own_model.setup.set_up_own`.
        on_epoch: called after each epoch with its number and its observations.
        on_state: called after each epoch with the module and what the next one depends on.
        go_on: puts both as they were where a training goes on.
        processes: that train together, each its share of the rows of every step.

    Raises:
        InputError: the user's code raises.
    """
    with user_code(), torch_threads(setup.config.threads):
        observations, kept = fit_own(setup, on_epoch=on_epoch, on_state=on_state, go_on=go_on, processes=processes)
        test = seen_by_all(processes, lambda: [evaluate_own(setup, "test", epoch=kept)])
        observations = [*observations, *test]
    setup.shipped.cpu().eval()
    return OwnTrained(setup=setup, observations=tuple(observations), kept_epoch=kept)


def fit_own(
    setup: OwnSetup,
    *,
    rates: Mapping[str, float] | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    judged_on: str = "validation",
    on_epoch: OnEpoch | None = None,
    on_state: OnState | None = None,
    go_on: OnState | None = None,
    processes: Processes = ALONE,
) -> tuple[list[Observation], int]:
    """Train the module of a setup in place, and say which epoch's weights it has.

    Args:
        setup: whose module.
        rates: of each parameter by name, in place of the plan's; 0 lets it stand still.
        epochs, patience: in place of the setup's.
        judged_on: the part that is looked at beside the training rows.
        on_epoch, on_state, go_on, processes: as for :func:`train_own`.
    """
    module, seed = setup.module, setup.config.seed
    epochs = setup.epochs if epochs is None else epochs
    groups = setup.groups()
    if rates is not None:
        groups = [part for group in groups for part in _by_rate(group, rates)]
    optimizer = make_optimizer(setup.config.optimizer, groups, momentum=setup.config.momentum)
    order, shape, steps = make_generator(seed, "order"), setup.config.shape(), setup.steps_an_epoch
    schedule = None
    if shape is not None and steps is not None:
        schedule = Schedule(optimizer, total_steps=epochs * steps, shape=shape)
    state = TrainingState(optimizer=optimizer, order=order, schedule=schedule)

    if go_on is not None:
        go_on(module, state)

    divided, stepped = None, state
    if processes.divide:
        divided = Divided(module, optimizer, schedule, processes)
        stepped = state.of(divided)
    network = _shared(setup, processes) if divided is None else divided.module

    def one_epoch(epoch: int) -> None:
        network.train()
        with _seeded(setup.device, derive_seed(seed, f"epoch {epoch}")), stepping(divided):
            own = derive_seed(seed, f"epoch {epoch} of process {processes.rank}")
            draws: AbstractContextManager[None] = nullcontext()
            if processes.count > 1:
                draws = _Draws(setup.device, own)
            again = partial(_answer, setup, module) if processes.count == 1 else None
            look = watching(module, state, epoch, again)
            batches = setup.parts["train"].batches(setup.batch_size, order)
            _steps(setup, network, batches, stepped, look, processes, draws)

    def look(epoch: int) -> list[Observation]:
        parts = ("train", judged_on)
        return [evaluate_own(setup, part, epoch=epoch) for part in parts]

    run_epochs(
        module, state, one_epoch, look, epochs=epochs, patience=setup.patience if patience is None else patience,
        on_epoch=on_epoch, on_state=on_state, processes=processes,
    )  # fmt: skip
    return state.observations, state.epoch if state.best is None else state.best.epoch


@torch.no_grad()
def evaluate_own(setup: OwnSetup, part: str, *, epoch: int = 0) -> Observation:
    """Loss and score of one part with the weights as they are; of training rows the first 2048."""
    module, tally = setup.module, Tally(task=setup.task)
    training = module.training
    module.eval()
    try:
        for batch in _on(setup.device, setup.parts[part], setup.batch_size):
            outputs = _answer(setup, module, batch)
            tally.add(outputs, batch.targets, _loss(setup, outputs, batch), batch.rows)
            if part == "train" and tally.rows >= MOST_WATCHED:
                break
    finally:
        module.train(training)
    return Observation(epoch=epoch, split=part, loss=tally.loss, score=tally.score())


def _by_rate(group: dict[str, Any], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """A group, cut into those of equal rates."""
    found: dict[float, list[int]] = {}
    for i, name in enumerate(group["param_names"]):
        found.setdefault(rates[name], []).append(i)
    return [
        {**group, "lr": rate, **{key: [group[key][i] for i in places] for key in ("params", "param_names")}}
        for rate, places in found.items()
    ]


def _shared(setup: OwnSetup, processes: Processes) -> nn.Module:
    """The module, its gradients those of all processes."""
    if processes.count == 1:
        return setup.module
    rows = setup.held.rows_from(0, MOST_TRIED) if setup.table is None else stacked(setup.parts["train"], MOST_TRIED)
    batch = rows.to(setup.device)
    return processes.data_parallel(setup.module, lambda module: _loss(setup, _answer(setup, module, batch), batch))


def _steps(
    setup: OwnSetup,
    network: nn.Module,
    batches: Iterable[Batch],
    state: TrainingState,
    look: OnLoss,
    processes: Processes,
    draws: AbstractContextManager[None],
) -> None:
    fewest = 2
    if processes.count > 1 and any(isinstance(one, _BatchNorm) for one in setup.module.modules()):
        fewest = 2 * processes.count
    for number, batch in enumerate(batches):
        if batch.rows < fewest and number:
            continue  # what is left of an epoch: batch norm has no statistics of one row
        if processes.count > 1:
            share = processes.share(batch.rows)
            batch = batch.rows_from(share.begin, share.end)
        weighted = share.weighted if processes.count > 1 else None
        with_room(
            partial(_step, setup, network, batch, state, look, weighted, draws),
            optimizer=state.optimizer,
            rows=batch.rows * processes.count,
            loss_of=partial(_loss_of_first, setup, batch, processes),
        )


def _loss_of_first(setup: OwnSetup, batch: Batch, processes: Processes, count: int) -> torch.Tensor:
    """Of so many rows of all processes together, in this one."""
    some = batch.rows_from(0, max(1, count // processes.count)).to(setup.device)
    return _loss(setup, _answer(setup, setup.module, some), some)


def _step(
    setup: OwnSetup,
    network: nn.Module,
    batch: Batch,
    state: TrainingState,
    look: OnLoss,
    weighted: Callable[[torch.Tensor], torch.Tensor] | None,
    draws: AbstractContextManager[None],
) -> None:
    batch = batch.to(setup.device)
    state.optimizer.zero_grad()
    with draws:
        outputs = _answer(setup, network, batch)
        loss = _loss(setup, outputs, batch)
    look(loss, batch)
    if weighted is not None:
        loss = weighted(loss)
    try:
        with lost():
            loss.backward()
    except RuntimeError as problem:
        if is_out_of_memory(problem):
            raise
        raise their_fault(f"the backward pass of {setup.user.source}", problem) from problem
    with lost():  # norms and directions of what is divided are made by all
        state.optimizer.step()
    if state.schedule is not None:
        state.schedule.step()


def _answer(setup: OwnSetup, module: nn.Module, batch: Batch) -> Any:
    try:
        with lost():
            return batch.answer(module)
    except LrdiffError:
        raise
    except Exception as problem:  # the user's forward
        if is_out_of_memory(problem):
            raise
        raise their_fault(setup.user.source, problem) from problem


def _loss(setup: OwnSetup, outputs: Any, batch: Batch) -> torch.Tensor:
    try:
        return setup.task.loss(outputs, batch.targets)
    except LrdiffError:
        raise
    except Exception as problem:
        if is_out_of_memory(problem):
            raise
        raise loss_fault(setup.user.source, setup.task, outputs, batch.targets, problem) from problem


def _on(device: torch.device, part: Part, size: int) -> Iterable[Batch]:
    return (batch.to(device) for batch in part.batches(size))


class _seeded:  # noqa: N801 (used as a function)
    """Dropout and augmentation draw from a seed of the epoch; global generators are put back."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._fork = torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda")
        self._seed = seed

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *problem: Any) -> None:
        self._fork.__exit__(*problem)


class _Draws:
    """What a process's own forward passes draw from on the CPU; loaders go on drawing what all processes draw."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._state = torch.Generator().manual_seed(seed).get_state()
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def __enter__(self) -> None:
        self._before = torch.get_rng_state()
        torch.set_rng_state(self._state)

    def __exit__(self, *problem: Any) -> None:
        self._state = torch.get_rng_state()
        torch.set_rng_state(self._before)
