"""W10, a small language model of characters: rates by kind of block, and Muon beside AdamW.

Blockwise rates: Wang et al. 2025, "The sharpness disparity principle in transformers for accelerating language model
pre-training", arXiv:2502.19002, and its code. Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/;
its scale for AdamW's rates: Liu et al. 2025, "Muon is scalable for LLM training", arXiv:2502.16982.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.parts.side_by_side import SideBySide, State
from lrdiff_bench.study.workloads.parts.source_text import CHARACTERS, blocks, windows
from lrdiff_bench.study.workloads.workload import FEWEST, Scheme, register_workload

if TYPE_CHECKING:
    from torch import Tensor

    from lrdiff_core.population.updates import UpdateRule

__all__ = ["Characters", "characters_blocks", "characters_muon", "logits"]

LAYERS, WIDTH, HEADS, INNER = 2, 32, 4, 128
CONTEXT = 32  # characters
BATCH = 8  # pieces of text a step
HELD, LEARNT = 128, 32  # pieces that are judged, and of those that are learnt from
HELD_BLOCKS = 60  # of validation, and of test; all others are learnt from
LARGEST_NORM = 1.0  # of the gradient, as both sources clip it
# As both sources: a tenth of the steps up, then a half cosine down to a twentieth.
SHAPE = {"kind": "cosine", "warmup": 0.1, "floor": 0.05}
SIZES = {"budget": 12, "tuning_seeds": 1, "finalists": 4, "final_seeds": 6}
BLOCKS = {"q": "QK", "k": "QK", "v": "VO", "o": "VO", "up": "FFN", "down": "FFN", "norm1": "Norm", "norm2": "Norm"}


@dataclass(frozen=True, kw_only=True)
class Characters(SideBySide):
    """GPT-2 at 28 000 weights: two layers of width 32, norms first, tied embeddings, no biases; AdamW as both sources.

    Args:
        by_kind: groups are kinds of blocks; else the matrices of the layers, and the rest.
        context: characters of a piece.
    """

    by_kind: bool
    context: int = CONTEXT
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    schedule: Mapping[str, Any] | None = field(default_factory=lambda: MappingProxyType(SHAPE))
    evaluations: int = 5
    tile: int = 32

    @property
    @override
    def plan_sizes(self) -> Mapping[str, int]:
        return SIZES

    @override
    def fingerprint(self) -> str:
        return hashlib.sha256(blocks().tobytes()).hexdigest()[:16]

    def start(self, seed: int) -> State:
        """Weights as GPT-2 draws them, layers by their width; norms at 1."""
        import torch

        from lrdiff_core.seeds import make_generator

        generator = make_generator(seed, "init")

        def normal(rows: int, columns: int, deviation: float) -> Tensor:
            return deviation * torch.randn(rows, columns, generator=generator)

        found = {"token": normal(CHARACTERS, WIDTH, 0.02), "place": normal(self.context, WIDTH, 0.02)}
        into_sum = (WIDTH * 2 * LAYERS) ** -0.5  # what is added to the sum of layers is smaller with their number
        for layer in range(LAYERS):
            own = {name: normal(WIDTH, WIDTH, WIDTH**-0.5) for name in "qkv"}
            own |= {"o": normal(WIDTH, WIDTH, into_sum), "up": normal(INNER, WIDTH, WIDTH**-0.5)}
            own |= {"down": normal(WIDTH, INNER, into_sum / 2)}
            own |= {name: torch.ones(WIDTH) for name in ("norm1", "norm2")}
            found |= {f"{layer}.{name}": value for name, value in own.items()}
        return {**found, "norm": torch.ones(WIDTH)}

    @override
    def columns(self) -> Mapping[str, int]:
        kinds = {"token": "Emb", "place": "Emb", "norm": "Norm"}
        kinds |= {f"{layer}.{name}": kind for layer in range(LAYERS) for name, kind in BLOCKS.items()}
        if not self.by_kind:
            kinds = {name: "rest" if kind in ("Emb", "Norm") else "matrices" for name, kind in kinds.items()}
        return {name: self.groups.index(kind) for name, kind in kinds.items()}

    def given(self, seed: int, judged_on: str) -> State:
        """Pieces of text, each with the character that follows: of every step, learnt and judged."""
        import torch

        random, learnt, validation, test = (
            np.random.default_rng(stream) for stream in np.random.SeedSequence([seed, 10]).spawn(4)
        )
        text = blocks()
        parts = np.split(random.permutation(len(text)), [HELD_BLOCKS, 2 * HELD_BLOCKS])
        own, judged = (validation, parts[0]) if judged_on == "validation" else (test, parts[1])
        length = self.context + 1
        pieces = {
            "batches": windows(random, text[parts[2]], (self.steps, BATCH), length),
            "learnt": windows(learnt, text[parts[2]], (LEARNT,), length),
        }
        drawn = windows(own, text[judged], (2 * HELD,), length)
        seen = {piece.tobytes() for part in pieces.values() for piece in part.reshape(-1, length)}
        pieces["held"] = drawn[[piece.tobytes() not in seen for piece in drawn]][:HELD]  # lines of dashes are alike
        return {name: torch.from_numpy(values.astype(np.int32)) for name, values in pieces.items()}

    def gradients(self, parameters: State, given: State, step: Tensor) -> tuple[State, Tensor]:
        """Of the mean loss of a character, clipped to a norm of 1."""
        from torch.func import grad_and_value

        batch = given["batches"].index_select(0, step.reshape(1))[0]
        slopes, loss = grad_and_value(_loss)(parameters, batch)
        norm = sum(slope.square().sum() for slope in slopes.values()) ** 0.5
        scale = (LARGEST_NORM / norm).clamp(max=1.0)
        return {name: slope * scale for name, slope in slopes.items()}, loss

    @override
    def judge(self, parameters: State, given: State) -> tuple[Tensor, Tensor]:
        return _loss(parameters, given["held"]), _loss(parameters, given["learnt"])

    @override
    def rule_of(self, scheme: Scheme) -> Callable[..., UpdateRule]:
        if "muon" not in scheme.options:
            return super().rule_of(scheme)
        from lrdiff_bench.study.workloads.parts.muon_rule import MuonRule

        return partial(MuonRule, column=0, adjust_lr_fn=scheme.options["muon"])

    @override
    def tiny(self) -> Characters:
        return replace(self, steps=6, evaluations=2, context=24)


def _loss(parameters: State, pieces: Tensor) -> Tensor:
    """Mean loss of the characters that follow, in nats."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits(parameters, pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten().long())


def logits(parameters: State, text: Tensor) -> Tensor:
    """What follows each character.

    Args:
        parameters: of :meth:`Characters.start`.
        text: [pieces, context] numbers of characters.

    Returns:
        [pieces, context, CHARACTERS].
    """
    import torch
    from torch.nn.functional import embedding, gelu, layer_norm, linear

    context = text.shape[1]
    later = torch.full((context, context), -torch.inf).triu(1)
    values = embedding(text, parameters["token"]) + parameters["place"]

    def normed(name: str) -> Tensor:
        return layer_norm(values, (WIDTH,), parameters[name])

    for layer in range(LAYERS):
        own = {name: parameters[f"{layer}.{name}"] for name in BLOCKS}
        inner = normed(f"{layer}.norm1")
        query, key, value = (linear(inner, own[name]).unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in "qkv")
        weights = (query @ key.transpose(2, 3) / math.sqrt(WIDTH / HEADS) + later).softmax(-1)
        values = values + linear((weights @ value).transpose(1, 2).flatten(2), own["o"])
        values = values + linear(gelu(linear(normed(f"{layer}.norm2"), own["up"])), own["down"])
    return linear(normed("norm"), parameters["token"])


def _characters(name: str, **what: Any) -> Characters:
    return Characters(
        name=name,
        metric="loss",
        default_rate=0.001,
        smallest_difference=0.02,  # nats a character
        steps=100,
        report_seeds=FEWEST,
        **what,
    )


@register_workload("characters-blocks")
def characters_blocks() -> Characters:
    """A rate for each kind of block."""
    single = dict.fromkeys(("Norm", "VO", "FFN", "QK", "Emb"), 1.0)
    return _characters(
        "characters-blocks",
        title="characters of Python's sources, rates by kind of block",
        question="Do embeddings, attention, feed-forward layers and norms of a language model want rates of their own?",
        groups=tuple(single),
        schemes=(
            Scheme(name="single", ratios=single),
            # of the paper's code, for AdamW
            Scheme(name="blockwise", ratios={"Norm": 1.0, "VO": 4.0, "FFN": 6.0, "QK": 8.0, "Emb": 10.0}),
        ),
        base_rates=(3e-4, 0.3),
        by_kind=True,
    )


@register_workload("characters-muon")
def characters_muon() -> Characters:
    """Muon for the matrices of the layers, AdamW for the rest."""
    ones = {"matrices": 1.0, "rest": 1.0}
    return _characters(
        "characters-muon",
        title="characters of Python's sources, Muon and AdamW",
        question="Is Muon for the matrices and AdamW for the rest better than AdamW for all of a language model?",
        groups=("matrices", "rest"),
        schemes=(
            Scheme(name="single", ratios=ones),
            Scheme(name="Muon, AdamW's rate", ratios=ones, options={"muon": "match_rms_adamw"}),
            # its own scale, and a rate of its own that is searched, too, with as many trials
            Scheme(name="Muon", ratios={"rest": 1.0}, free={"matrices": (0.1, 1000.0)}, options={"muon": "original"}),
        ),
        base_rates=(3e-4, 0.3),
        by_kind=False,
    )
