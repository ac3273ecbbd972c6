"""W7, a ring of Gaussians: a generator and a discriminator, each with a rate of its own.

Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
arXiv:1706.08500: discriminator and generator at different rates, steps taken at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.parts.side_by_side import SideBySide, State
from lrdiff_bench.study.workloads.workload import FEWEST, Scheme, register_workload

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Ring", "ring"]

MODES, RADIUS, SPREAD = 8, 1.0, 0.1
CENTRE = (2.0, 0.0)  # away from 0, so that a generator that has not moved is worse than one that has
LATENT = 2
HIDDEN = 32
BATCH = 64
TRAIN_POINTS, HELD_POINTS = 1000, 200
SIZES = {"generator": (LATENT, HIDDEN, HIDDEN, 2), "discriminator": (2, HIDDEN, HIDDEN, 1)}


@dataclass(frozen=True, kw_only=True)
class Ring(SideBySide):
    """Eight Gaussians on a ring; the non-saturating loss; judged by the energy distance to fresh points."""

    def start(self, seed: int) -> State:
        """Weights and biases of both networks, as torch draws those of linear layers."""
        import torch

        from lrdiff_core.seeds import make_generator

        generator = make_generator(seed, "init")
        found: State = {}
        for network, sizes in SIZES.items():
            for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
                for name, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
                    found[f"{network}.{layer}.{name}"] = (2 * torch.rand(shape, generator=generator) - 1) / fan_in**0.5
        return found

    @override
    def columns(self) -> Mapping[str, int]:
        return {
            f"{network}.{layer}.{kind}": self.groups.index(network)
            for network in SIZES
            for layer in range(3)
            for kind in ("weight", "bias")
        }

    def given(self, seed: int, judged_on: str) -> State:
        """Points and latent vectors of every step, and those of the judgement."""
        import torch

        streams = np.random.SeedSequence([seed, 7]).spawn(4)
        random, validation, test, latents = (np.random.default_rng(stream) for stream in streams)
        train = points(random, TRAIN_POINTS)
        held = points(validation if judged_on == "validation" else test, HELD_POINTS)
        batches = random.integers(TRAIN_POINTS, size=(self.steps, BATCH))
        parts = {
            "batches": train[batches],
            "latents": latents.standard_normal((self.steps, BATCH, LATENT)),
            "train": train[:HELD_POINTS],
            "held": held,
            "judging": latents.standard_normal((HELD_POINTS, LATENT)),
        }
        return {name: torch.from_numpy(values.astype(np.float32)) for name, values in parts.items()}

    def gradients(self, parameters: State, given: State, step: Tensor) -> tuple[State, Tensor]:
        """Of each network's own loss, both at the parameters as they stand."""
        from torch.func import grad_and_value
        from torch.nn.functional import softplus

        real, latents = (given[name].index_select(0, step.reshape(1))[0] for name in ("batches", "latents"))
        nets = {net: {k: v for k, v in parameters.items() if k.startswith(net)} for net in SIZES}
        fake = call(nets["generator"], "generator", latents)

        def of_generator(own: State) -> Tensor:
            return softplus(-call(nets["discriminator"], "discriminator", call(own, "generator", latents))).mean()

        def of_discriminator(own: State) -> Tensor:
            right = softplus(-call(own, "discriminator", real)).mean()
            return right + softplus(call(own, "discriminator", fake)).mean()

        one, one_loss = grad_and_value(of_generator)(nets["generator"])
        other, other_loss = grad_and_value(of_discriminator)(nets["discriminator"])
        return {**one, **other}, one_loss + other_loss

    @override
    def judge(self, parameters: State, given: State) -> tuple[Tensor, Tensor]:
        made = call(parameters, "generator", given["judging"])
        return energy_distance(made, given["held"]), energy_distance(made, given["train"])

    @override
    def tiny(self) -> Ring:
        return replace(self, steps=6, evaluations=2)


def points(random: np.random.Generator, count: int) -> np.ndarray:
    """Points of the ring [count, 2]."""
    angle = 2 * math.pi * random.integers(MODES, size=count) / MODES
    centre = RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.array(CENTRE) + centre + SPREAD * random.standard_normal((count, 2))


def call(parameters: State, network: str, values: Tensor) -> Tensor:
    """What a network makes of values [points, features]; ReLU between the layers."""
    import torch

    for layer in range(3):
        values = values @ parameters[f"{network}.{layer}.weight"].T + parameters[f"{network}.{layer}.bias"]
        values = torch.relu(values) if layer < 2 else values
    return values


def energy_distance(one: Tensor, other: Tensor) -> Tensor:
    """``2 E|x - y| - E|x - x'| - E|y - y'|`` of two samples [points, 2], without bias: it may fall below 0.

    Székely, Rizzo 2013, "Energy statistics: a class of statistics based on distances".
    """

    def mean_distance(a: Tensor, b: Tensor, pairs: int) -> Tensor:
        return (a[:, None] - b[None]).square().sum(-1).sqrt().sum() / pairs

    n, m = len(one), len(other)
    within = mean_distance(one, one, n * (n - 1)) + mean_distance(other, other, m * (m - 1))
    return 2 * mean_distance(one, other, n * m) - within


@register_workload("ring")
def ring() -> Ring:
    """A ring of Gaussians, generator against discriminator."""
    return Ring(
        name="ring",
        title="ring of Gaussians, GAN",
        question="Does a discriminator that learns faster than its generator, or slower, help?",
        groups=("generator", "discriminator"),
        schemes=(
            Scheme(name="single", ratios={"generator": 1.0, "discriminator": 1.0}),
            Scheme(name="discriminator 4x", ratios={"generator": 1.0, "discriminator": 4.0}),
            Scheme(name="generator 4x", ratios={"generator": 1.0, "discriminator": 0.25}),
            Scheme(name="free", ratios={"generator": 1.0}, free={"discriminator": (0.01, 100.0)}),
        ),
        metric="loss",
        base_rates=(1e-5, 1.0),
        default_rate=0.001,
        smallest_difference=0.025,  # energy distance; what it costs to miss one of the eight Gaussians
        steps=500,
        report_seeds=FEWEST,
        betas=(0.5, 0.999),  # usual for GANs: Radford et al. 2015, arXiv:1511.06434
    )
