"""W2, feature distortion: fine-tuning a good body through a head that knows nothing spoils the body where no row looks.

Kumar, Raghunathan, Jones, Ma, Liang 2022, "Fine-tuning can distort pretrained features and underperform
out-of-distribution", arXiv:2202.10054: two-layer linear networks, rows in a subspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.common import PopulationWorkload, check_trials
from lrdiff_bench.study.workloads.outcomes import mask_diverged
from lrdiff_bench.study.workloads.workload import Outcomes, Scheme, Trials, register_workload

if TYPE_CHECKING:
    from torch import Tensor

    from lrdiff_core.population import Population, PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["Distortion", "distortion"]

FEATURES = 40
SUBSPACE = 20  # directions in which in-distribution rows vary
BODY = 8  # features the body hands on
SAMPLES = 40  # in-distribution rows to learn from
HELD = 500
NOISE = 0.1  # standard deviation; the target's own is about 1
BODY_ERROR = 0.3  # of the pretrained body, as a share of the true one


@dataclass(frozen=True, kw_only=True)
class Distortion(PopulationWorkload):
    """``y = v . B x + noise``; the body starts near ``B``, the head at random; steps take all rows at once."""

    def rows(self, seed: int, judged_on: str) -> PopulationData:
        """Validation rows come from the subspace, test rows from everywhere."""
        import torch

        from lrdiff_core.population import PopulationData

        random, body, head, basis = truth(seed)
        inside = random.standard_normal((SAMPLES + HELD, SUBSPACE)) @ basis.T  # [rows, FEATURES]
        outside = random.standard_normal((HELD, FEATURES))
        noise = NOISE * random.standard_normal(SAMPLES + HELD)
        targets = inside @ body.T @ head + noise
        if judged_on == "validation":
            held = inside[SAMPLES:], targets[SAMPLES:]
        else:
            held = outside, outside @ body.T @ head

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

        return PopulationData(
            inputs=tensor(inside[:SAMPLES]),
            targets=tensor(targets[:SAMPLES, None]),
            held_inputs=tensor(held[0]),
            held_targets=tensor(held[1][:, None]),
            task="regression",
        )

    def network(self, trials: Trials) -> ModelFactory:
        """A body near the true one, and a head as torch draws it."""
        import torch
        from torch import nn

        def make(seed: int) -> nn.Module:
            _, body, _, _ = truth(seed)
            off = np.random.default_rng([seed, 1]).standard_normal(body.shape)
            near = body + BODY_ERROR * np.linalg.norm(body) / np.linalg.norm(off) * off
            layer = nn.Linear(FEATURES, BODY, bias=False)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(near))
            return nn.Sequential(layer, nn.Linear(BODY, 1, bias=False))

        return make

    def train(self, trials: Trials) -> Outcomes:
        """As every population; a scheme with ``probe_steps`` leaves the body alone for so many steps first."""
        share = trials.scheme.options.get("probe_share", 0.0)
        if not share:
            return super().train(trials)
        check_trials(self, trials)
        factory = self.network(trials)
        every = max(1, self.steps // self.evaluations)
        probe = every * max(1, round(share * self.steps / every))
        head_only = replace(trials, rates=trials.rates * np.array([0.0, 1.0]))
        first = self.population_of(factory, head_only, steps=probe, evaluate=every, keep_weights=True)
        second = self._go_on(first, trials, steps=self.steps - probe, evaluate=every)
        parts: dict[str, np.ndarray] = {}
        for name in ("held_loss", "train_loss"):
            parts[name] = np.concatenate([getattr(first, name).double(), getattr(second, name).double()], axis=1)
        return mask_diverged(
            parts["held_loss"],
            parts["train_loss"],
            evaluated_after=np.concatenate([first.evaluated_after, probe + second.evaluated_after]),
            seconds_a_step=self._seconds_a_step(factory, trials),
        )

    def _go_on(self, first: Population, trials: Trials, *, steps: int, evaluate: int) -> Population:
        """Train each trial on from its own weights, as a seed of its own: all rows at once have no order."""
        from torch import nn

        from lrdiff_core.population import PopulationOptions, train_population

        weights = first.weights
        assert weights is not None

        def make(member: int) -> nn.Module:
            net = nn.Sequential(nn.Linear(FEATURES, BODY, bias=False), nn.Linear(BODY, 1, bias=False))
            net.load_state_dict({name: values[member] for name, values in weights.items()})
            return net

        seeds = [int(seed) for seed in trials.seeds]
        rows = {seed: self.rows(seed, trials.judged_on) for seed in set(seeds)}
        return train_population(
            make,
            {member: rows[seed] for member, seed in enumerate(seeds)},
            trials.rates,
            list(range(len(seeds))),
            PopulationOptions(batch_size=self.batch_size, steps=steps, optimizer=self.optimizer, evaluate=evaluate),
        )

    @override
    def tiny(self) -> Distortion:
        return replace(self, steps=40, evaluations=4)


def truth(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """The stream of a seed after drawing body, head and the basis of the subspace.

    Body [BODY, FEATURES] and basis [FEATURES, SUBSPACE] are orthonormal, the head [BODY] has norm 1.
    """
    random = np.random.default_rng([seed, 0])
    body = np.linalg.qr(random.standard_normal((FEATURES, BODY)))[0].T
    head = random.standard_normal(BODY)
    basis = np.linalg.qr(random.standard_normal((FEATURES, SUBSPACE)))[0]
    return random, body, head / np.linalg.norm(head), basis


def _head(ratio: float) -> Mapping[str, float]:
    return {"body": 1 / ratio, "head": 1.0}


@register_workload("distortion")
def distortion() -> Distortion:
    """Feature distortion with SGD, chosen in distribution and judged out of it."""
    return Distortion(
        name="distortion",
        title="feature distortion, SGD",
        question="Tuned only in distribution, which rates keep a good body good out of distribution?",
        groups=("body", "head"),
        schemes=(
            Scheme(name="single", ratios=_head(1.0)),
            Scheme(name="head only", ratios={"body": 0.0, "head": 1.0}),
            *(Scheme(name=f"head {ratio:g}x", ratios=_head(ratio)) for ratio in (10.0, 30.0, 100.0)),
            Scheme(name="probe, then tune", ratios=_head(1.0), options={"probe_share": 0.5}),
            Scheme(name="free", ratios={"head": 1.0}, free={"body": (1e-4, 10.0)}),
        ),
        metric="loss",
        base_rates=(1e-3, 10.0),
        default_rate=0.001,
        smallest_difference=0.02,  # squared error; 2 % of the variance of targets out of distribution, which is 1
        steps=300,
        label="mechanism",
        optimizer="sgd",
        batch_size=SAMPLES,
    )
