"""The general path: any module that torch.func can call, on any device, one vectorised gradient for all members.

``vmap`` of ``grad`` over the stacked parameters of a tile, rows gathered for each member. No member's numbers enter
another's, but a matrix-product library may round a product differently at another place in memory (MKL does), so
another tile or order of members agrees to rounding here, where the kernel agrees to the bit.

On a CPU it runs with one thread by default: for small models that is the faster way. With two threads on the 2-core
machine the 10-5-1 network took 2.4 times as long (4096 members at once, 10.5 s against 4.4 s).

No GPU has run this file yet: it is tested on CPUs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from lrdiff_core.errors import ConfigError
from lrdiff_core.model import TabularNet
from lrdiff_core.population.rows import ROWS, loss_function, score
from lrdiff_core.population.tiles import numbers_a_row, rows_at_once
from lrdiff_core.population.updates import UpdateRule
from lrdiff_core.population.work import Tile, TileResult

__all__ = ["train_tile"]

_LOOK_EVERY = 64  # steps between looks at whether any member is left: each look waits for the device

State = dict[str, Tensor]


class _Network(nn.Module):
    """A :class:`TabularNet` from its standardized rows on, as the loop trains it."""

    def __init__(self, net: TabularNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, rows: Tensor) -> Tensor:
        return self.net.network(rows)


def train_tile(tile: Tile, model: nn.Module, group_of: dict[str, int], device: torch.device) -> TileResult:
    """Train the members of a tile.

    Args:
        tile: with rows on ``device``.
        model: what is called; its own weights are not used.
        group_of: column of each parameter.
        device: where.

    Raises:
        ConfigError: torch.func cannot call the module for a stack of members.
    """
    settings = tile.settings
    parameters = {name: tile.stacked(name).to(device) for name in group_of}
    buffers = {name: tile.stacked(name).to(device) for name, _ in model.named_buffers()}
    like = next(iter(parameters.values()))
    rule = UpdateRule(
        settings.optimizer, tile.columns, group_of, settings.factors(), nesterov=settings.nesterov, like=like
    )
    moments = rule.start(parameters)
    rows = _Rows(tile, device)
    rows_each = rows_at_once(len(tile), numbers_a_row(model, rows.first), settings)
    wrapped = _Network(model) if type(model) is TabularNet else model
    call, outputs_of = _functions(wrapped, rows)
    step = _step(rule, call, buffers)
    if settings.compile:
        step = torch.compile(step, dynamic=False)
    alive = torch.ones(len(tile), dtype=torch.bool, device=device)
    diverged = torch.full((len(tile),), -1, dtype=torch.int64, device=device)
    step_losses: list[Tensor] = []
    evaluations: list[tuple[Tensor, ...]] = []
    evaluated_after = set(settings.evaluated_after())
    any_left = True
    for t in range(settings.total_steps):
        scalars = rule.scalars(t)
        if any_left:
            inputs, targets = rows.batch(t)
            with _stacking():
                parameters, moments, losses, now = step(parameters, moments, scalars, inputs, targets, alive)
            diverged = torch.where(alive & ~now, t, diverged)
            alive = now
        if settings.step_losses:
            step_losses.append(torch.where(alive, losses, torch.nan))
        if t + 1 in evaluated_after:
            with _evaluating(wrapped), _stacking():
                evaluations.append(_evaluate(rows, outputs_of, parameters, buffers, alive, rows_each))
        if t % _LOOK_EVERY == _LOOK_EVERY - 1:
            any_left = bool(alive.any())

    def gather(part: int) -> Tensor:
        if not evaluations:
            return torch.empty(len(tile), 0)
        return torch.stack([one[part] for one in evaluations], dim=1).cpu()

    return TileResult(
        train_loss=gather(0),
        train_score=gather(1),
        held_loss=gather(2),
        held_score=gather(3),
        second_loss=gather(4),
        second_score=gather(5),
        step_loss=torch.stack(step_losses, dim=1).cpu() if step_losses else None,
        diverged_after=diverged.cpu(),
        weights={name: value.cpu() for name, value in parameters.items()} if settings.keep_weights else None,
    )


class _Rows:
    """Rows of a tile on the device: batches [members, batch, ...] in each member's own order."""

    def __init__(self, tile: Tile, device: torch.device) -> None:
        settings = tile.settings
        self.settings = settings
        self.first = tile.data[tile.seeds[0]]
        # Members without rows of their own share one copy: [1, rows, ...]
        sets = list({id(tile.data[seed]): tile.data[seed] for seed in tile.seeds}.values())
        at = {id(data): i for i, data in enumerate(sets)}
        self.set_of = torch.tensor([at[id(tile.data[seed])] for seed in tile.seeds])[tile.seed_of].to(device)
        self.parts: list[Tensor | None] = []
        for name in ROWS:
            values = [getattr(data, name) for data in sets]
            self.parts.append(None if values[0] is None else torch.stack(values))
        orders = torch.stack([tile.seeded.order(seed) for seed in tile.seeds])
        self.orders = orders.to(device)  # [seeds, epochs * rows]
        self.seed_of = tile.seed_of.to(device)

    def batch(self, t: int) -> tuple[Tensor, Tensor]:
        """Rows of step ``t``: [members, batch, ...] each."""
        epoch, within = divmod(t, self.settings.steps_an_epoch)
        begin = within * self.settings.batch_size
        end = min(begin + self.settings.batch_size, self.settings.rows)
        start = epoch * self.settings.rows
        index = self.orders[:, start + begin : start + end][self.seed_of].long()
        inputs, targets = self.parts[0], self.parts[1]
        assert inputs is not None
        assert targets is not None
        return inputs[self.set_of[:, None], index], targets[self.set_of[:, None], index]

    def split(self, number: int) -> tuple[Tensor, Tensor] | None:
        """All rows of a split, [sets, rows, ...] each: 0 to learn from, 1 held out, 2 the second ones held out."""
        inputs, targets = self.parts[2 * number : 2 * number + 2]
        return None if inputs is None or targets is None else (inputs, targets)


Outputs = Callable[[State, State, Tensor], Tensor]


def _functions(wrapped: nn.Module, rows: _Rows) -> tuple[Callable[..., Any], Outputs]:
    """Gradient and loss of every member, and outputs of one member."""
    loss_of = loss_function(rows.first)
    prefix = "net." if isinstance(wrapped, _Network) else ""

    def outputs(parameters: State, buffers: State, inputs: Tensor) -> Tensor:
        state = {prefix + name: value for name, value in {**parameters, **buffers}.items()}
        found = functional_call(wrapped, state, (inputs,))
        if not isinstance(found, Tensor):
            raise ConfigError(
                f"the module returns a {type(found).__name__}", help="return one tensor of outputs from forward"
            )
        return found

    def loss(parameters: State, buffers: State, inputs: Tensor, targets: Tensor) -> Tensor:
        return loss_of(outputs(parameters, buffers, inputs), targets)

    return vmap(grad_and_value(loss)), outputs


def _step(rule: UpdateRule, call: Callable[..., Any], buffers: State) -> Callable[..., Any]:
    """One step of all members, a pure function of tensors."""

    def step(
        parameters: State,
        moments: dict[str, State],
        scalars: State,
        inputs: Tensor,
        targets: Tensor,
        alive: Tensor,
    ) -> tuple[State, dict[str, State], Tensor, Tensor]:
        gradients, losses = call(parameters, buffers, inputs, targets)
        alive = alive & torch.isfinite(losses)
        parameters, moments = rule.update(parameters, gradients, moments, scalars, alive)
        return parameters, moments, losses, alive

    return step


@contextmanager
def _stacking() -> Iterator[None]:
    """What torch.func cannot do with a module becomes an error that says so."""
    try:
        yield
    except RuntimeError as problem:
        if not any(word in str(problem) for word in ("vmap", "functorch", "Batching rule")):
            raise
        reason = str(problem).strip().splitlines()[0]
        raise ConfigError(
            f"torch.func cannot train a stack of this module: {reason}",
            help="use modules that draw no random numbers (no Dropout) and call nothing data-dependent; "
            'nn.RNN, GRU and LSTM only with evaluate="never"',
        ) from problem


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model as it predicts (BatchNorm by its running statistics), and back."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


@torch.no_grad()
def _evaluate(
    rows: _Rows, outputs_of: Outputs, parameters: State, buffers: State, alive: Tensor, rows_each: int
) -> tuple[Tensor, ...]:
    """Loss and score of every split, [members] each; NaN for members that diverged, and where nothing is held out."""
    nothing = torch.full_like(alive, torch.nan, dtype=next(iter(parameters.values())).dtype)
    loss_of = loss_function(rows.first)
    found: list[Tensor] = []
    for number in range(3):
        split = rows.split(number)
        if split is None:
            found += [nothing, nothing]
            continue
        inputs, targets = split
        losses, scores = torch.zeros_like(nothing), torch.zeros_like(nothing)
        count = inputs.shape[1]

        def judge(parameters: State, buffers: State, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            outputs = outputs_of(parameters, buffers, inputs)
            return loss_of(outputs, targets), score(rows.first, outputs, targets)

        shared = len(inputs) == 1  # then no member needs a copy
        judge_all = vmap(judge, in_dims=(0, 0, None, None) if shared else 0)
        for begin in range(0, count, rows_each):
            chunk = slice(begin, min(begin + rows_each, count))
            share = (chunk.stop - chunk.start) / count
            which = 0 if shared else rows.set_of
            loss, hit = judge_all(parameters, buffers, inputs[which, chunk], targets[which, chunk])
            losses = losses + share * loss
            scores = scores + share * hit
        fine = alive & torch.isfinite(losses)
        found += [torch.where(alive, losses, torch.nan), torch.where(fine, scores, torch.nan)]
    return tuple(found)
