"""The training loop: mini-batches in a seeded order, metrics of every split after every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lrdiff_core.devices import repeatable
from lrdiff_core.errors import ConfigError
from lrdiff_core.machine.memory import rows_in_parts, with_room
from lrdiff_core.model import TabularNet
from lrdiff_core.processes.divided import Divided
from lrdiff_core.processes.group import ALONE, Processes, lost
from lrdiff_core.schedules import Schedule
from lrdiff_core.seeds import derive_seed, make_generator
from lrdiff_core.setup import Prepared, Setup, make_optimizer, set_mode

__all__ = [
    "Best",
    "NotFinite",
    "Observation",
    "Trained",
    "TrainingState",
    "evaluate",
    "fit",
    "loss_function",
    "run_epochs",
    "score_name",
    "seen_by_all",
    "stepping",
    "train",
    "train_epoch",
    "watching",
]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One row of the metrics: one split after one epoch.

    ``score`` is the accuracy (classification) or the coefficient of determination (regression). ``loss`` is the
    mean cross-entropy in nats (classification; rows weighted by class where the settings say so) or the squared error
    in units of the target's training variance. Both are taken with the weights as they stand at the end of the epoch,
    or with those that are kept (split ``test``). A loss that is not finite is kept.
    """

    epoch: int
    split: str
    loss: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What :func:`train` returns."""

    net: TabularNet  # on the CPU
    setup: Setup
    observations: tuple[Observation, ...]

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return self.last("validation").epoch

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights the model has."""
        return self.last("test").epoch

    def last(self, split: str) -> Observation:
        """Return the last observation of ``split``."""
        return next(row for row in reversed(self.observations) if row.split == split)


def score_name(task: str) -> str:
    """Return what :attr:`Observation.score` is called for ``task``."""
    return "R2" if task == "regression" else "accuracy"


def loss_function(task: str, class_weight: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of ``task`` on logits [batch, outputs] and targets.

    Args:
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        class_weight: [classes]; a row's loss is multiplied by that of its class before the mean over rows.
    """
    losses: dict[str, Callable[..., Tensor]] = {
        "binary": nn.functional.binary_cross_entropy_with_logits,
        "multiclass": nn.functional.cross_entropy,
        "regression": nn.functional.mse_loss,
    }
    plain = losses[task]
    if class_weight is None:
        return plain

    def weighted(logits: Tensor, targets: Tensor) -> Tensor:
        return (plain(logits, targets, reduction="none") * class_weight[targets.long()]).mean()

    return weighted


@dataclass(frozen=True, kw_only=True)
class Best:
    """The epoch with the lowest validation loss so far."""

    epoch: int
    loss: float
    weights: dict[str, Tensor]  # copies, on the device


@dataclass(frozen=True, kw_only=True)
class NotFinite:
    """The first step whose loss was infinite or no number, and where that began.

    Args:
        epoch: counted from 1.
        step: of that epoch, counted from 1.
        layer: the first one of the forward pass whose output is not finite, by its name; where the loss alone is not,
            the one with the largest output. None where several processes trained.
        rate: the greatest of that layer's parameters, at that step.
    """

    epoch: int
    step: int
    layer: str | None
    rate: float | None


@dataclass(kw_only=True)
class TrainingState:
    """What the next epoch depends on besides the network's weights.

    Args:
        optimizer: over the parameters of the network.
        order: gives the order of the rows of each epoch.
        schedule: moves the rates after every step, or None.
        epoch: epochs done.
        observations: of these.
        best: the epoch to go back to at the end, or None.
        not_finite: the first step with such a loss, or None.
    """

    optimizer: torch.optim.Optimizer
    order: torch.Generator
    schedule: Schedule | None = None
    epoch: int = 0
    observations: list[Observation] = field(default_factory=list)
    best: Best | None = None
    not_finite: NotFinite | None = None

    def of(self, divided: Divided) -> TrainingState:
        """The same for the steps of a network that is divided over processes."""
        schedule: Any = divided.schedule
        return replace(self, optimizer=divided.optimizer, schedule=schedule)

    def is_done(self, *, epochs: int, patience: int) -> bool:
        """Whether all epochs are done, or ``patience`` of them without a better validation loss."""
        since = self.epoch - (self.best.epoch if self.best else 0)
        return self.epoch >= epochs or (patience > 0 and since >= patience)


def fit(
    net: TabularNet,
    rows: Prepared,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    patience: int = 0,
    schedule: Schedule | None = None,
    compile: bool = False,
    on_epoch: Callable[[int, Sequence[Observation]], None] | None = None,
    state: TrainingState | None = None,
    on_state: Callable[[TabularNet, TrainingState], None] | None = None,
    processes: Processes = ALONE,
) -> list[Observation]:
    """Train ``net`` in place and return the metrics of train and validation for every epoch.

    Args:
        net: on the device of ``rows``.
        rows: from :func:`prepare`.
        optimizer: over the parameters of ``net``.
        epochs: passes over the training rows, at most.
        batch_size: rows a step; the last step of an epoch takes what is left.
        seed: fixes the order of the rows, and what dropout leaves out, the same on every device.
        patience: epochs without a better validation loss that end the training; ``net`` then has the weights of the
            best epoch. 0: all epochs are trained, and the last one's weights stay.
        schedule: takes a step after every one of the optimizer.
        compile: run the network through ``torch.compile``.
        on_epoch: called after each epoch with its number and observations.
        state: where to go on from, updated in place; left out, training begins.
        on_state: called after each epoch, with what :func:`~lrdiff_core.checkpoint.save_training` takes.
        processes: that train together, each its share of the rows of every step.

    Raises:
        ConfigError: there is not enough memory for a step; it says the batch size for which there is. Or ``compile``,
            and processes that divide the network.
    """
    if compile and processes.divide:
        raise ConfigError("compile is set, and fsdp2 is not compiled", help="leave compile out, or train with ddp")
    loss_of = loss_function(rows.table.task, rows.class_weight)
    state = state or TrainingState(optimizer=optimizer, order=make_generator(seed, "order"), schedule=schedule)
    # dynamic: the last, smaller batch must not compile the network a second time
    network: Callable[[Tensor], Tensor] = torch.compile(net.network, dynamic=True) if compile else net.network
    divided, stepped = None, state
    if processes.divide:
        divided = Divided(net, state.optimizer, state.schedule, processes, forward="network")
        network, stepped = divided.module.network, state.of(divided)
    elif processes.count > 1:
        inputs, targets = rows.inputs["train"][:2], rows.targets["train"][:2]
        network = processes.data_parallel(_Network(net, network), lambda module: loss_of(module(inputs), targets))
    own = f" of process {processes.rank}" if processes.rank else ""

    def loss_of_first(inputs: Tensor, targets: Tensor, count: int) -> Tensor:
        share = processes.share(count)
        rows = slice(share.begin, share.end)
        return loss_of(net.network(inputs[rows]), targets[rows])

    def one_epoch(epoch: int) -> None:
        look = watching(net, state, epoch, net.network if processes.count == 1 else None)
        with _dropping(net, derive_seed(seed, f"dropout {epoch}{own}")), stepping(divided):
            for inputs, targets in _blocks(rows):
                permutation = torch.randperm(len(inputs), generator=state.order).to(inputs.device)
                steps = partial(
                    train_epoch, network, stepped.optimizer, loss_of, inputs, targets, permutation.split(batch_size),
                    schedule=stepped.schedule, on_loss=look, processes=processes,
                )  # fmt: skip
                with_room(
                    steps, optimizer=stepped.optimizer, rows=batch_size, loss_of=partial(loss_of_first, inputs, targets)
                )

    def look(epoch: int) -> list[Observation]:
        return [evaluate(net, rows, part, epoch=epoch) for part in ("train", "validation")]

    run_epochs(
        net, state, one_epoch, look, epochs=epochs, patience=patience, on_epoch=on_epoch, on_state=on_state,
        processes=processes,
    )  # fmt: skip
    return state.observations


def run_epochs(
    net: nn.Module,
    state: TrainingState,
    one_epoch: Callable[[int], None],
    look: Callable[[int], list[Observation]],
    *,
    epochs: int,
    patience: int = 0,
    on_epoch: Callable[[int, Sequence[Observation]], None] | None = None,
    on_state: Callable[[Any, TrainingState], None] | None = None,
    processes: Processes = ALONE,
) -> None:
    """Train until all epochs are done, or ``patience`` of them without a better loss; the best one's weights are kept.

    Args:
        net: any module, trained in place.
        state: where to begin; updated in place.
        one_epoch: takes the steps of an epoch, whose number it is given.
        look: gives the observations after an epoch; the last one decides which epoch is best.
        epochs: as for :func:`fit`.
        patience: as for :func:`fit`.
        on_epoch: as for :func:`fit`.
        on_state: as for :func:`fit`.
        processes: that train together; the first looks, the others take what it saw.
    """
    net.train()
    while not state.is_done(epochs=epochs, patience=patience):
        epoch = state.epoch + 1
        set_mode(state.optimizer, "train")
        one_epoch(epoch)
        set_mode(state.optimizer, "eval")
        processes.check_same(net)
        news = seen_by_all(processes, partial(look, epoch))
        state.epoch = epoch
        state.observations += news
        if patience:
            _keep_best(state, net, news[-1])
        if on_epoch is not None:
            on_epoch(epoch, news)
        if on_state is not None:
            on_state(net, state)
    if state.best is not None:
        net.load_state_dict(state.best.weights)


def seen_by_all(processes: Processes, look: Callable[[], list[Observation]]) -> list[Observation]:
    """What the first process sees, so that all come to the same decisions."""
    if processes.count == 1:
        return look()
    return [Observation(**row) for row in processes.told(lambda: [asdict(one) for one in look()])]


class _Network(nn.Module):
    """What a network does with rows that are standardized already, as a module."""

    def __init__(self, net: TabularNet, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        self._network = network

    def forward(self, rows: Tensor) -> Tensor:  # [batch, features] -> [batch, outputs]
        return self._network(rows)


@contextmanager
def stepping(divided: Divided | None) -> Iterator[None]:
    """Take the steps of an epoch; what is divided over processes is put together after them."""
    if divided is None:
        yield
        return
    set_mode(divided.optimizer, "train")
    yield
    set_mode(divided.optimizer, "eval")
    divided.gather()


def _blocks(rows: Prepared) -> Iterator[tuple[Tensor, Tensor]]:
    """The training rows of an epoch: all at once, or what a stream gives, block by block."""
    if rows.blocks is None:
        yield rows.inputs["train"], rows.targets["train"]
    else:
        yield from rows.blocks()


def _keep_best(state: TrainingState, net: nn.Module, validation: Observation) -> None:
    if math.isfinite(validation.loss) and (state.best is None or validation.loss < state.best.loss):
        weights = {name: value.detach().clone() for name, value in net.state_dict().items()}
        state.best = Best(epoch=validation.epoch, loss=validation.loss, weights=weights)


@contextmanager
def _dropping(net: TabularNet, seed: int) -> Iterator[None]:
    """Draw what dropout leaves out from a seed of the epoch; the global generators are put back."""
    if not net.dropout:
        yield
        return
    device = next(net.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed)
        yield


def train_epoch(
    network: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    batches: Sequence[Tensor],
    *,
    schedule: Schedule | None = None,
    on_loss: Callable[[Tensor, Tensor], None] | None = None,
    processes: Processes = ALONE,
) -> None:
    """Take one step for each batch of row numbers.

    Args:
        network: rows [batch, features] to logits [batch, outputs].
        optimizer: over its parameters.
        loss_of: logits and targets to a scalar.
        inputs: all rows [rows, features].
        targets: of all rows.
        batches: row numbers of each step.
        schedule: takes a step after each of the optimizer.
        on_loss: called with the loss of each batch and its rows, before the step.
        processes: each of which takes its share of a batch.
    """
    with lost():
        for batch in batches:
            optimizer.zero_grad()
            share = processes.share(len(batch))
            mine = batch[share.begin : share.end]
            loss = loss_of(network(inputs[mine]), targets[mine])
            if on_loss is not None:
                on_loss(loss, inputs[mine])
            share.weighted(loss).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()


def watching(
    net: nn.Module, state: TrainingState, epoch: int, again: Callable[[Any], object] | None
) -> Callable[[Tensor, Any], None]:
    """A function of each loss of an epoch and its rows, which notes the first loss that is not finite in ``state``.

    Args:
        net: that is trained.
        state: of its training.
        epoch: counted from 1.
        again: passes rows through ``net`` once more, so that the layer can be told; None: it is not.
    """
    steps = 0

    def look(loss: Tensor, rows: Any) -> None:
        nonlocal steps
        steps += 1
        if state.not_finite is None and not math.isfinite(loss.item()):
            layer = None if again is None else _where(net, partial(again, rows))
            rate = None if layer is None else _rate_of(net.get_submodule(layer), state.optimizer)
            state.not_finite = NotFinite(epoch=epoch, step=steps, layer=layer, rate=rate)

    return look


@torch.no_grad()
def _where(net: nn.Module, again: Callable[[], object]) -> str | None:
    """Name of the first module with parameters of its own whose output is not finite, or of that with the largest."""
    largest: dict[str, float] = {}

    def hook(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [
            one for one in tree_leaves(output) if isinstance(one, Tensor) and one.is_floating_point() and one.numel()
        ]
        largest[name] = max(
            [one.abs().max().nan_to_num(nan=math.inf, posinf=math.inf).item() for one in tensors], default=0.0
        )

    layers = [(name, one) for name, one in net.named_modules() if next(one.parameters(recurse=False), None) is not None]
    hooks = [one.register_forward_hook(partial(hook, name)) for name, one in layers]
    training = net.training
    try:
        net.eval()  # nothing is dropped out, so nothing drawn
        again()
    finally:
        net.train(training)
        for one in hooks:
            one.remove()
    return max(largest, key=largest.__getitem__, default=None)  # the first of several that are infinite


def _rate_of(layer: nn.Module, optimizer: torch.optim.Optimizer) -> float | None:
    own = {id(one) for one in layer.parameters()}
    rates = [group["lr"] for group in optimizer.param_groups if any(id(one) in own for one in group["params"])]
    return max(map(float, rates), default=None)


@torch.no_grad()
def evaluate(net: TabularNet, rows: Prepared, part: str, *, epoch: int = 0) -> Observation:
    """Return loss and score of one split with the weights as they are, and nothing dropped out."""
    training = net.training
    logits = rows_in_parts(net.eval().network, rows.inputs[part], help="free memory; results are the same")
    target = rows.targets[part]
    net.train(training)
    loss = loss_function(rows.table.task, rows.class_weight)(logits, target).item()
    if rows.table.task == "regression":
        spread = (target - target.mean()).square().mean().item()
        error = (logits - target).square().mean().item()
        score = 1.0 - error / spread if spread > 0 else math.nan
    elif rows.table.task == "binary":
        score = ((logits > 0) == (target > 0.5)).float().mean().item()
    else:
        score = (logits.argmax(dim=1) == target).float().mean().item()
    return Observation(epoch=epoch, split=part, loss=loss, score=score)


def train(
    setup: Setup,
    *,
    on_epoch: Callable[[int, Sequence[Observation]], None] | None = None,
    on_state: Callable[[TabularNet, TrainingState], None] | None = None,
    go_on: Callable[[TabularNet, TrainingState], None] | None = None,
    processes: Processes = ALONE,
) -> Trained:
    """Train the main model.

    With patience, training ends when the validation loss has not become better for so many epochs, and the model has
    the weights of the best epoch. The seed fixes the split, the initial weights and the order of the rows. The same
    seed, machine and number of threads give the same weights bit for bit.

    Args:
        setup: from :func:`set_up`; its model is trained in place.
        on_epoch: called after each epoch with its number and its observations.
        on_state: called after each epoch, with what :func:`~lrdiff_core.checkpoint.save_training` takes.
        go_on: called before the first epoch, to put in what an interrupted training had come to:
            :meth:`lrdiff_core.checkpoint.TrainingFile.restore`. The end is then bit for bit that of a training that
            nobody interrupted.
        processes: that train together, from :func:`~lrdiff_core.processes.group.joined`; all of them call this.

    Example:
        >>> from lrdiff_core import load_table, make_config, set_up
        >>> config = make_config({"epochs": 2, "patience": 0})
        >>> trained = train(set_up(load_table("seed"), config))
        >>> [row.split for row in trained.observations]
        ['train', 'validation', 'train', 'validation', 'test']
    """
    config = setup.config
    optimizer = make_optimizer(config.optimizer, setup.plan.groups(), momentum=config.momentum)
    shape = config.shape()
    steps = setup.epochs * -(-setup.rows.training_rows // setup.batch_size)
    schedule = None if shape is None else Schedule(optimizer, total_steps=steps, shape=shape)
    state = TrainingState(optimizer=optimizer, order=make_generator(setup.seed, "order"), schedule=schedule)
    if go_on is not None:
        go_on(setup.net, state)
    with repeatable(setup.device, threads=config.threads):
        observations = fit(
            setup.net,
            setup.rows,
            optimizer,
            epochs=setup.epochs,
            batch_size=setup.batch_size,
            seed=setup.seed,
            patience=setup.patience,
            compile=config.compile,
            on_epoch=on_epoch,
            state=state,
            on_state=on_state,
            processes=processes,
        )
        kept = state.epoch if state.best is None else state.best.epoch
        test = evaluate(setup.net, setup.rows, "test", epoch=kept)
    return Trained(net=setup.net.cpu().eval(), setup=setup, observations=(*observations, test))
