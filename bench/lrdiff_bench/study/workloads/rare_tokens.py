"""W5, rare tokens: most rows of an embedding are seen seldom, and a mean over the bag makes their gradients small."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.common import PopulationWorkload
from lrdiff_bench.study.workloads.workload import FEWEST, Scheme, Trials, register_workload

if TYPE_CHECKING:
    from torch import Tensor

    from lrdiff_core.population import PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["RareTokens", "tokens_adam", "tokens_sgd"]

TOKENS = 400
WIDTH = 8  # of an embedding
CLASSES = 4
BAG = 20  # tokens a row
EXPONENT = 1.0  # of Zipf's law
SHARPNESS = 6.0  # of the classes' probabilities
TRAIN_ROWS, HELD_ROWS = 800, 500


@dataclass(frozen=True, kw_only=True)
class RareTokens(PopulationWorkload):
    """Bags of tokens drawn by Zipf's law; every token leans towards some classes; embedding (mean of the bag), head."""

    train_rows: int = TRAIN_ROWS

    @override
    def rows(self, seed: int, judged_on: str) -> PopulationData:
        import torch

        from lrdiff_core.population import PopulationData

        bags, labels = make_bags(seed, self.train_rows + 2 * HELD_ROWS)
        begin = self.train_rows + (HELD_ROWS if judged_on == "test" else 0)

        def part(rows: slice) -> tuple[Tensor, Tensor]:
            return torch.from_numpy(bags[rows]), torch.from_numpy(labels[rows])

        inputs, targets = part(slice(self.train_rows))
        held_inputs, held_targets = part(slice(begin, begin + HELD_ROWS))
        return PopulationData(
            inputs=inputs, targets=targets, held_inputs=held_inputs, held_targets=held_targets, task="multiclass"
        )

    def network(self, trials: Trials) -> ModelFactory:
        """An embedding bag (mean) is a linear layer without bias over shares of tokens."""
        from torch import nn

        def make(seed: int) -> nn.Module:
            embedding = nn.Linear(TOKENS, WIDTH, bias=False)
            nn.init.normal_(embedding.weight)  # as torch draws an embedding
            return nn.Sequential(embedding, nn.Linear(WIDTH, CLASSES))

        return make

    @override
    def tiny(self) -> RareTokens:
        return replace(self, steps=12, evaluations=2, train_rows=100)


def make_bags(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of every token [rows, TOKENS] and classes [rows]; token 0 is the most frequent."""
    random = np.random.default_rng([seed, 5])
    frequency = 1 / np.arange(1, TOKENS + 1) ** EXPONENT
    leaning = random.standard_normal((TOKENS, CLASSES))  # of a token to each class
    drawn = random.choice(TOKENS, size=(rows, BAG), p=frequency / frequency.sum())
    bags = np.zeros((rows, TOKENS), dtype=np.float32)
    np.add.at(bags, (np.arange(rows)[:, None], drawn), np.float32(1 / BAG))
    logits = SHARPNESS * bags @ leaning + random.gumbel(size=(rows, CLASSES))
    return bags, logits.argmax(axis=1).astype(np.int64)


def _embedding(ratio: float) -> dict[str, float]:
    return {"embedding": 1.0, "head": 1 / ratio}


def _tokens(optimizer: str, *, base_rates: tuple[float, float]) -> RareTokens:
    return RareTokens(
        name=f"tokens-{optimizer}",
        title=f"rare tokens, {'SGD' if optimizer == 'sgd' else 'Adam'}",
        question="Do embeddings of rare tokens want a larger rate than the head?",
        groups=("embedding", "head"),
        schemes=(
            Scheme(name="single", ratios=_embedding(1.0)),
            *(Scheme(name=f"embedding {ratio:g}x", ratios=_embedding(ratio)) for ratio in (10.0, 100.0, 1000.0)),
            Scheme(name="free", ratios={"embedding": 1.0}, free={"head": (1e-4, 10.0)}),
        ),
        metric="loss",
        base_rates=base_rates,
        default_rate=0.001,
        # 2 % of what a guess without looking loses
        smallest_difference=round(0.02 * math.log(CLASSES), 3),
        steps=400,
        report_seeds=FEWEST,  # rows of other seeds are gathered for each trial, at several times a search's price
        optimizer=optimizer,
        batch_size=24,
        evaluations=8,
    )


@register_workload("tokens-sgd")
def tokens_sgd() -> RareTokens:
    """Rare tokens with SGD."""
    return _tokens("sgd", base_rates=(1e-2, 1e3))


@register_workload("tokens-adam")
def tokens_adam() -> RareTokens:
    """Rare tokens with Adam."""
    return _tokens("adam", base_rates=(1e-4, 10.0))
