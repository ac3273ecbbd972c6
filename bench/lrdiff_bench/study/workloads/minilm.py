"""W11, a pretrained transformer: the six layers of all-MiniLM-L6-v2, fine-tuned on a few subject lines of mail.

Layer decay: Howard and Ruder 2018, arXiv:1801.06146 (1/2.6), Clark et al. 2020, arXiv:2003.10555 (0.8), Bao et al.
2021, arXiv:2106.08254 (0.65 to 0.95). Adapters: Hu et al. 2021, arXiv:2106.09685; LoRA+: Hayou et al. 2024,
arXiv:2402.12354. The weights and the mail are fetched by ``lrdiff doctor --install-pretrained``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.common import check_trials
from lrdiff_bench.study.workloads.outcomes import mask_diverged
from lrdiff_bench.study.workloads.parts.digits import permutation
from lrdiff_bench.study.workloads.parts.minilm_files import find_pretrained
from lrdiff_bench.study.workloads.parts.minilm_material import LAYERS, Material, drawn, published, tokenizers_module
from lrdiff_bench.study.workloads.workload import FEWEST, Outcomes, Scheme, Trials, Workload, decayed, register_workload

if TYPE_CHECKING:
    from torch import Tensor

    from lrdiff_bench.study.workloads.parts.encoder import TextClassifier

__all__ = ["FineTuning", "minilm", "minilm_lora"]

ALL_LAYERS = ("embeddings", *(f"layer{i}" for i in range(1, LAYERS + 1)), "head")
HELD_ROWS = 104
RANK = 8  # of adapters, LoRA's choice for models of this size
SHAPE: dict[str, Any] = {"kind": "linear", "warmup": 0.1, "warmup_start": 0.5}  # up, and then down to 0
# One number is searched, in three decades: with the protocol's 64 points on 4 seeds a look would take days.
SIZES = {"budget": 12, "tuning_seeds": 1, "finalists": 4, "final_seeds": 6}


@dataclass(frozen=True, kw_only=True)
class FineTuning(Workload):
    """Few rows, two epochs of Adam, rates that warm up and then fall in a line; a new head of one logit; no dropout.

    Args:
        adapters: train adapters and the head; else everything.
        train_rows: half of each class.
        batch_size: rows a step.
        real: the published weights and mail; else a tiny encoder and rows that are drawn, for tests.
    """

    adapters: bool
    train_rows: int = 48
    batch_size: int = 8
    real: bool = True

    @property
    @override
    def plan_sizes(self) -> Mapping[str, int]:
        return SIZES

    @property
    @override
    def fetched(self) -> bool:
        return self.real

    @property
    @override
    def at_once(self) -> int:
        return 1

    @override
    def require(self) -> None:
        if self.real:
            find_pretrained()
            tokenizers_module()

    @override
    def fingerprint(self) -> str:
        return self.material().digest

    def material(self) -> Material:
        """Weights and rows, made once in a process."""
        return published() if self.real else drawn()

    def rows(self, seed: int, judged_on: str) -> tuple[list[tuple[Tensor, int]], list[tuple[Tensor, int]]]:
        """Rows and classes to learn from, and those of ``judged_on``; half of each class."""
        learn: list[tuple[Tensor, int]] = []
        held: list[tuple[Tensor, int]] = []
        own, judged = self.train_rows // 2, HELD_ROWS // 2
        begin = own + (judged if judged_on == "test" else 0)
        for label, rows in enumerate(self.material().rows):
            order = permutation(seed, f"rows of class {label}", len(rows))
            learn += [(rows[i], label) for i in order[:own]]
            held += [(rows[i], label) for i in order[begin : begin + judged]]
        return learn, held

    def start(self, seed: int) -> TextClassifier:
        """The pretrained encoder, with the head (and adapters) of a seed."""
        import torch

        from lrdiff_bench.study.workloads.parts.encoder import TextClassifier, add_adapters
        from lrdiff_core.population.members import build

        def make(_: int) -> TextClassifier:
            with torch.device("meta"):  # nothing is drawn for weights that are loaded
                model = TextClassifier(material.sizes)
            weights = {name: torch.nn.Parameter(value.clone()) for name, value in material.weights.items()}
            model.encoder.load_state_dict(weights, assign=True)
            model.head = torch.nn.Linear(material.sizes.width, 1)
            return add_adapters(model, RANK) if self.adapters else model

        material = self.material()
        model: Any = build(make, seed)
        return model

    def columns(self, model: TextClassifier) -> dict[str, int]:
        """Group of every parameter that learns, by name."""
        return {n: self.groups.index(_group_of(n)) for n, p in model.named_parameters() if p.requires_grad}

    @override
    def train(self, trials: Trials) -> Outcomes:
        import torch

        from lrdiff_core.devices import repeatable

        check_trials(self, trials)
        after = self.evaluated_after(trials.judged_on)
        found = np.full((3, len(trials.seeds), len(after)), np.nan)
        seconds = 0.0
        with repeatable(torch.device("cpu"), threads=1):
            for number, (rates, seed) in enumerate(zip(trials.rates, map(int, trials.seeds), strict=True)):
                course, spent, _ = self.train_model(rates, seed, trials.judged_on)
                found[:, number], seconds = course, seconds + spent
        metric, train_loss, score = found
        return mask_diverged(
            metric,
            train_loss,
            evaluated_after=np.array(after),
            score=score[:, -1],
            seconds_a_step=seconds / (len(trials.seeds) * self.steps),
        )

    def evaluated_after(self, judged_on: str) -> list[int]:
        """Steps at which losses are taken: the last, and on test rows also that which sets the target."""
        return [self.steps * 3 // 4, self.steps] if judged_on == "test" else [self.steps]

    def train_model(self, rates: np.ndarray, seed: int, judged_on: str) -> tuple[np.ndarray, float, TextClassifier]:
        """Train one model.

        Returns:
            Loss on the rows that are judged, loss on a third of those it learnt from, accuracy on the former
            [3, evaluations], NaN from where it diverged; seconds of its steps; the model.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits as loss_of

        from lrdiff_bench.study.workloads.parts.encoder import pack
        from lrdiff_core.optim import Adam
        from lrdiff_core.population.members import row_order
        from lrdiff_core.schedules import Schedule, Shape

        model = self.start(seed)
        columns, parameters = self.columns(model), dict(model.named_parameters())
        for name, column in columns.items():  # what is frozen needs no gradient
            parameters[name].requires_grad_(bool(rates[column] > 0))
        learning = [
            {"params": [parameters[n] for n, of in columns.items() if of == column], "lr": float(rate)}
            for column, rate in enumerate(rates)
            if rate > 0
        ]
        learn, held = self.rows(seed, judged_on)
        order = row_order(seed, len(learn), -(-self.steps * self.batch_size // len(learn))).long()
        after, course, spent = self.evaluated_after(judged_on), [], 0.0
        if learning:
            optimizer = Adam(learning)
            schedule = Schedule(optimizer, total_steps=self.steps, shape=Shape(**SHAPE))
        for step, chosen in enumerate(order.split(self.batch_size)[: self.steps] if learning else (), start=1):
            begin = time.perf_counter()
            batch = [learn[i] for i in chosen]
            optimizer.zero_grad()
            loss = loss_of(model(pack([row for row, _ in batch])), _labels(batch))
            if not math.isfinite(float(loss.detach())):
                break
            loss.backward()
            optimizer.step()
            schedule.step()
            spent += time.perf_counter() - begin
            if step in after:
                course.append(_judged(model, learn, held))
        if not learning:
            course = [_judged(model, learn, held)] * len(after)
        course += [(math.nan,) * 3] * (len(after) - len(course))
        return np.array(course).T, spent, model

    @override
    def tiny(self) -> FineTuning:
        return replace(self, real=False, train_rows=16, batch_size=4, steps=8)


def _judged(model: TextClassifier, learn: Sequence[Any], held: Sequence[Any]) -> tuple[float, float, float]:
    """Loss on held rows, loss on a third of the others, accuracy on the former."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as loss_of

    from lrdiff_bench.study.workloads.parts.encoder import pack

    with torch.no_grad():
        logits, own = (model(pack([row for row, _ in rows])) for rows in (held, learn[::3]))
        right = ((logits > 0) == (_labels(held) > 0)).float().mean()
        return float(loss_of(logits, _labels(held))), float(loss_of(own, _labels(learn[::3]))), float(right)


def _labels(rows: Sequence[tuple[Tensor, int]]) -> Tensor:
    import torch

    return torch.tensor([float(label) for _, label in rows])


def _group_of(name: str) -> str:
    if name.startswith("head."):
        return "head"
    if name.endswith((".A", ".B")):
        return name[-1]
    if name.startswith("encoder.embeddings."):
        return "embeddings"
    return f"layer{int(name.split('.')[3]) + 1}"


ONES = dict.fromkeys(ALL_LAYERS, 1.0)
DEPTHS = {group: depth for depth, group in enumerate(ALL_LAYERS)}


@register_workload("minilm")
def minilm() -> FineTuning:
    """All of the encoder and a new head."""
    return FineTuning(
        name="minilm",
        title="MiniLM, spam or hard ham by the subject",
        question="Does a pretrained transformer want lower rates below, a faster head, or frozen embeddings?",
        groups=ALL_LAYERS,
        schemes=(
            Scheme(name="single", ratios=ONES),
            decayed("layer decay 0.95", 0.95, DEPTHS),
            decayed("layer decay 0.8", 0.8, DEPTHS),
            decayed("discriminative", 1 / 2.6, DEPTHS),
            Scheme(name="head 10x", ratios={**ONES, "head": 10.0}),
            Scheme(name="frozen embeddings", ratios={**ONES, "embeddings": 0.0}),
        ),
        metric="loss",
        base_rates=(3e-5, 3e-2),
        default_rate=0.001,
        smallest_difference=0.02,  # nats; 3 % of what a guess without looking loses
        steps=12,
        report_seeds=FEWEST,
        adapters=False,
    )


@register_workload("minilm-lora")
def minilm_lora() -> FineTuning:
    """Adapters and a new head; the encoder is frozen."""
    ones = {"A": 1.0, "B": 1.0, "head": 1.0}
    return FineTuning(
        name="minilm-lora",
        title="adapters in MiniLM, spam or hard ham by the subject",
        question="Does the second factor of an adapter want a larger rate in a pretrained transformer?",
        groups=("A", "B", "head"),
        schemes=(Scheme(name="single", ratios=ones), Scheme(name="B 16x", ratios={**ones, "B": 16.0})),
        metric="loss",
        base_rates=(1e-4, 1.0),
        default_rate=0.001,
        smallest_difference=0.02,
        steps=12,
        report_seeds=FEWEST,
        adapters=True,
    )
