"""How fast populations train: against JAX, against one model after the other, against the machine's matrix products.

The case: a 10-5-1 network with ReLU and binary cross-entropy, 1000 rows in float32, batches of 50, ten epochs, 4096
members with their own two rates, weights and batches shared. A training ends with the weights of all members; nobody
evaluates anything.

- ``lrdiff`` is the whole call of :func:`lrdiff_core.population.train_population`: weights and row order are made in it.
- ``lrdiff, own seeds`` has weights and a row order for each member: the whole call, which makes them, and the training
  alone, once they are made.
- JAX runs ``jit(vmap(scan))`` over the members; compiling, weights and row order are not counted. With own seeds it
  stands beside lrdiff's training alone. Without JAX the row says so. It wants an environment that holds both:
  ``pip install jax`` beside lrdiff.
- The plain loop is PyTorch's own optimizer around an ``nn.Sequential``, one member, one thread; its time is
  multiplied.

Every peer is timed against lrdiff in one run, in alternating order, by the project's timer; ratios have 95 %
intervals. ``lrdiff bench population`` writes the table, with a million members.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.compare import TimingComparison, compare_cases
from lrdiff_core.devices import repeatable
from lrdiff_core.population import Population, PopulationData, PopulationOptions, train_population
from lrdiff_core.population.kernel_path import train_tile
from lrdiff_core.population.members import build, hyperparameters, parameter_groups, row_order
from lrdiff_core.population.network import linear_layers
from lrdiff_core.population.settings import Settings
from lrdiff_core.population.tiles import make_tile
from lrdiff_core.population.work import Seeded
from lrdiff_core.seeds import make_generator

__all__ = ["FLOPS_A_ROW", "SpeedRow", "SpeedCase", "jax_status", "measure"]

# Two operations a multiplication: 55 forward, 55 for the gradients of the weights, 5 back through the second layer.
FLOPS_A_ROW = 2 * (55 + 55 + 5)
VERSION = "1"
_RATES = (-4.0, -1.0)  # powers of ten
GENERAL_SHARE = 16  # the general path is timed on one member in so many: it needs seconds


@dataclass(frozen=True, kw_only=True)
class SpeedCase:
    """One training to be timed; smaller sizes are for tests."""

    optimizer: str
    members: int = 4096
    rows: int = 1000
    batch_size: int = 50
    epochs: int = 10
    threads: int = 2
    matmul_size: int = 2048  # large enough for the library's best rate, small enough for a laptop

    @property
    def flops(self) -> int:
        """Operations of all members' matrix products."""
        return FLOPS_A_ROW * self.rows * self.epochs * self.members

    def data(self) -> PopulationData:
        """Rows with a linear border between the classes."""
        generator = make_generator(0, "population speed")
        inputs = torch.randn(self.rows, 10, generator=generator)
        targets = (inputs @ torch.randn(10, 1, generator=generator) > 0).to(torch.float32)
        return PopulationData(inputs=inputs, targets=targets, task="binary")

    def rates(self) -> Tensor:
        """Log-uniform, [members, 2]."""
        low, high = _RATES
        generator = make_generator(0, "population rates")
        return 10 ** (low + (high - low) * torch.rand(self.members, 2, generator=generator, dtype=torch.float64))

    def options(self, path: str = "auto") -> PopulationOptions:
        """Of a training without evaluation."""
        return PopulationOptions(
            optimizer=self.optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            evaluate="never",
            keep_weights=True,
            threads=self.threads,
            path=path,
        )


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One line of the table.

    Args:
        optimizer, name: what was timed.
        seconds: a training of all members, median.
        ratio: its time over lrdiff's with a 95 % interval, None for lrdiff itself.
        share: of the rate of the machine's own float32 matrix products.
        note: why there is no number, or how it was taken.
    """

    optimizer: str
    name: str
    seconds: float | None
    ratio: tuple[float, float, float] | None = None
    share: float | None = None
    note: str = ""


def network(seed: int = 0) -> nn.Module:
    """The 10-5-1 network."""
    return nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))


def ours(case: SpeedCase, *, seeds: Any = 0, path: str = "auto") -> Callable[[], Population]:
    """A training by lrdiff."""
    data, rates = case.data(), case.rates()
    return lambda: train_population(network, data, rates, seeds, case.options(path))


def ours_alone(case: SpeedCase) -> Callable[[], object]:
    """A training by lrdiff's kernel with own seeds; weights and the order of the rows are made before, as JAX's are."""
    data, seeds = case.data(), list(range(case.members))
    settings, model = Settings.of(case.options(), data.rows), build(network, 0)
    layers = linear_layers(model)
    assert layers is not None
    group_of = {name: i for i, names in enumerate(parameter_groups(model, None, 2)) for name in names}
    tile = make_tile(
        seeds,
        hyperparameters(case.rates(), settings),
        dict.fromkeys(seeds, data),
        {id(data): data},
        Seeded(network, (0, model), settings),
        settings,
    )

    def train() -> object:
        with repeatable(torch.device("cpu"), threads=1):  # the kernel brings its own
            return train_tile(tile, layers, group_of, threads=case.threads)

    return train


def plain_loop(case: SpeedCase) -> Callable[[], nn.Module]:
    """A training of one member as PyTorch's tutorials write it, with two parameter groups."""
    data = case.data()
    first, second = case.rates()[0].tolist()
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[case.optimizer]

    def train() -> nn.Module:
        with repeatable(torch.device("cpu"), threads=1):  # its fastest: two threads wait for each other
            return alone()

    def alone() -> nn.Module:
        net = network()
        optimizer = make([{"params": net[0].parameters(), "lr": first}, {"params": net[2].parameters(), "lr": second}])  # type: ignore[index]
        loss_of = nn.BCEWithLogitsLoss()
        for _ in range(case.epochs):
            for batch in torch.randperm(case.rows).split(case.batch_size):
                optimizer.zero_grad()
                loss_of(net(data.inputs[batch]), data.targets[batch]).backward()
                optimizer.step()
        return net

    return train


def jax_status() -> str | None:
    """Why JAX cannot be timed here, or None."""
    return None if importlib.util.find_spec("jax") is not None else "not installed: pip install jax"


def jax_training(case: SpeedCase, *, own_seeds: bool = False) -> Callable[[], object]:
    """A training by JAX: ``jit(vmap(scan))``, compiled before it is handed out.

    Args:
        case: the training.
        own_seeds: each member has weights and an order of the rows of its own, made before, as in the row of lrdiff.
    """
    import jax
    import jax.numpy as jnp

    data = case.data()
    inputs, targets = jnp.asarray(data.inputs.numpy()), jnp.asarray(data.targets.numpy())
    rates = jnp.asarray(case.rates().to(torch.float32).numpy())
    seeds = range(case.members) if own_seeds else (0,)
    order = torch.stack([row_order(seed, case.rows, case.epochs) for seed in seeds])
    every = jnp.asarray(order.reshape(len(seeds), -1, case.batch_size).numpy())
    nets = [[p.detach() for p in build(network, seed).parameters()] for seed in seeds]
    stacked = [jnp.asarray(torch.stack(one).numpy()) for one in zip(*nets, strict=True)]
    first, order_of = (stacked, every) if own_seeds else ([one[0] for one in stacked], every[0])

    def loss(p: Any, x: Any, y: Any) -> Any:
        hidden = jax.nn.relu(x @ p[0].T + p[1])
        z = hidden @ p[2].T + p[3]
        return jnp.mean(jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z))))

    def member(params: Any, rate: Any, batches: Any) -> Any:
        group = (rate[0], rate[0], rate[1], rate[1])

        def sgd(carry: Any, batch: Any) -> Any:
            p = carry
            g = jax.grad(loss)(p, inputs[batch], targets[batch])
            return [v - r * d for v, r, d in zip(p, group, g, strict=True)], None

        def adam(carry: Any, batch: Any) -> Any:
            p, m, v, t = carry
            t = t + 1
            g = jax.grad(loss)(p, inputs[batch], targets[batch])
            m = [0.9 * a + 0.1 * d for a, d in zip(m, g, strict=True)]
            v = [0.999 * a + 0.001 * d * d for a, d in zip(v, g, strict=True)]
            c1, c2 = 1 - 0.9**t, jnp.sqrt(1 - 0.999**t)
            p = [w - r / c1 * a / (jnp.sqrt(b) / c2 + 1e-8) for w, r, a, b in zip(p, group, m, v, strict=True)]
            return (p, m, v, t), None

        if case.optimizer == "sgd":
            return jax.lax.scan(sgd, params, batches)[0]
        zeros = [jnp.zeros_like(w) for w in params]
        return jax.lax.scan(adam, (params, zeros, zeros, 0.0), batches)[0][0]

    run = jax.jit(jax.vmap(member, in_axes=(0, 0, 0) if own_seeds else (None, 0, None)))
    jax.block_until_ready(run(first, rates, order_of))
    return lambda: jax.block_until_ready(run(first, rates, order_of))


def matmul(size: int) -> Callable[[], Tensor]:
    """A float32 matrix product of torch, ``2 * size**3`` operations."""
    a, b = torch.ones(size, size), torch.ones(size, size)
    return lambda: a @ b


def measure(case: SpeedCase, *, rounds: int = 6, every_path: bool = True) -> Iterator[SpeedRow]:
    """Time one optimizer: lrdiff, then each peer against it.

    Args:
        case: the training.
        rounds: of each comparison, four trainings each.
        every_path: also the general path, and a seed for each member.
    """

    def timed(name: str, train: Callable[[], object]) -> Case:
        return Case(name=name, version=VERSION, parameters=vars(case), factory=lambda: Workload(train))

    base = timed("lrdiff", ours(case))

    def compared(name: str, train: Callable[[], object], over: Case = base) -> TimingComparison:
        return compare_cases(over, timed(name, train), rounds=rounds, threads=case.threads)

    # Rates are compared in one run, too: on a machine that others use, a rate taken before says little.
    product = compared("matmul", matmul(case.matmul_size))
    share = case.flops / (2 * case.matmul_size**3) * product.ratio.estimate
    yield SpeedRow(
        optimizer=case.optimizer,
        name="lrdiff",
        seconds=product.a.median,
        share=share,
        note=f"{ours(case)().path} path, {case.threads} threads; "
        f"matrix products {2 * case.matmul_size**3 / product.b.median / 1e9:.0f} GFLOP/s",
    )

    def against(
        name: str, train: Callable[[], object], *, over: Case = base, times: int = 1, note: str = ""
    ) -> SpeedRow:
        found = compared(name, train, over)
        estimate, low, high = (times * r for r in (found.ratio.estimate, found.ratio.low, found.ratio.high))
        return SpeedRow(
            optimizer=case.optimizer,
            name=name,
            seconds=found.b.median * times,
            ratio=(estimate, low, high),
            share=share / estimate if over is base else None,
            note=note,
        )

    reason = jax_status()
    if every_path:
        yield against("lrdiff, own seeds", ours(case, seeds=range(case.members)), note="own weights and row order")
        train = ours_alone(case)
        alone = timed("lrdiff, own seeds, alone", train)
        made = "weights and row order made before"
        yield against(alone.name, train, note=f"the same, {made}")
        if reason is None:
            note = f"over {alone.name}; {made} for both"
            yield against("JAX, own seeds", jax_training(case, own_seeds=True), over=alone, note=note)
        fewer = replace(case, members=max(1, case.members // GENERAL_SHARE))
        yield against(
            "lrdiff, general path",
            ours(fewer, path="general"),
            times=case.members // fewer.members,
            note=f"vmap of grad, one thread; {fewer.members} members, times {case.members // fewer.members}",
        )
    if reason is None:
        yield against("JAX jit(vmap(scan))", jax_training(case))
    else:
        yield SpeedRow(optimizer=case.optimizer, name="JAX jit(vmap(scan))", seconds=None, note=reason)
    yield against("plain PyTorch loop", plain_loop(case), times=case.members, note=f"one member, times {case.members}")
