"""The pairs of ``lrdiff bench step``: which steps are compared with which, and the goals of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.optimizer_step import IMPLEMENTATIONS, RULES
from lrdiff_bench.measure.cases.state import model_shapes
from lrdiff_bench.stats.verdict import BAND, Goal
from lrdiff_core.errors import ConfigError
from lrdiff_core.optimizers import OPTIMIZERS

__all__ = ["MEMORY", "ONE_RATE", "PAIRS", "SHAPES", "StepPair", "select_pairs"]

ONE_RATE, MEMORY = "one rate", "a.add_(b)"
ROUNDS = 20  # of four blocks
BERT_ROUNDS = 8  # of four blocks of one step of 0.1 to 0.3 s


@dataclass(frozen=True, kw_only=True)
class StepPair:
    """Two steps to compare: ours, and another one.

    Args:
        shape: what ``--shape`` selects it by.
        text: in the table.
        case: parameters of ``optimizer_step``.
        against: an implementation, ``one rate`` of ours, or ``a.add_(b)``, the bandwidth of memory.
        hot, cold: goals; None where the pair is shown without one.
        caches: in which it is measured.
        rounds: of four blocks; left out, 20.
    """

    shape: str
    text: str
    case: dict[str, Any]
    against: str
    hot: Goal | None = None
    cold: Goal | None = None
    caches: tuple[str, ...] = ("hot", "cold")
    rounds: int = ROUNDS

    @property
    def sizes(self) -> tuple[int, int]:
        """Tensors, and numbers in them."""
        name = self.case["shapes"]
        shapes = (
            [p.shape for p in MODELS[name]().trainable().values()] if name in MODELS else model_shapes(name).values()
        )
        return len(shapes), sum(map(prod, shapes))


def _faster(hot: float, cold: float) -> dict[str, Goal]:
    return {
        "hot": Goal(least=hot, text=f"at least {hot:g}x faster"),
        "cold": Goal(least=cold, text=f"at least {cold:g}x faster"),
    }


def _at_most(times: float) -> dict[str, Goal]:
    goal = Goal(most=times, text=f"at most {times:g}x")
    return {"hot": goal, "cold": goal}


def _not_slower() -> dict[str, Goal]:
    goal = Goal(least=1 / (1 + BAND), text="not slower")
    return {"hot": goal, "cold": goal}


def _pairs(shape: str, text: str, case: dict[str, Any], **against: dict[str, Any]) -> list[StepPair]:
    return [
        StepPair(shape=shape, text=text, case=case, against=_NAMES.get(name, name), **more)
        for name, more in against.items()
    ]


OF_RULES = ("default", "fused", "loop", "schedulefree", "pytorch_optimizer")  # that a rule is compared with
_NAMES = {"one_rate": ONE_RATE, "memory": MEMORY}
_LARGE: dict[str, Any] = {"caches": ("hot",), "rounds": BERT_ROUNDS}  # 2 GB: no cache holds it
PAIRS: tuple[StepPair, ...] = (
    *_pairs(
        "mlp", "10-5-1 MLP, a rate a layer", {"shapes": "mlp", "rates": "layers"},
        default=_faster(10, 4), fused=_faster(4, 2), deepspeed={}, one_rate=_at_most(1.5),
    ),
    *_pairs(
        "transformer", "transformer, width 64, 12 layers, layer decay", {"shapes": "transformer", "rates": "layers"},
        default=_faster(10, 4), fused=_faster(3, 1.5), compiled=_faster(1.5, 1), optax=_faster(8, 3), deepspeed={},
        torchao={}, heavyball={},
    ),
    *_pairs(
        "transformer", "transformer, a rate for each tensor", {"shapes": "transformer", "rates": "each"},
        fused=_faster(7, 3),
    ),
    *_pairs("transformer", "transformer, 2 rates", {"shapes": "transformer", "rates": 2}, one_rate=_at_most(1.1)),
    *_pairs("transformer", "transformer, 32 rates", {"shapes": "transformer", "rates": 32}, one_rate=_at_most(1.1)),
    *_pairs("many", "1000 tensors of 32x32, 32 rates", {"shapes": "thousand", "rates": 32}, one_rate=_at_most(1.1)),
    *_pairs("many", "1000 tensors of 32x32, 1000 rates", {"shapes": "thousand", "rates": 1000}, one_rate=_at_most(1.5)),
    *_pairs(
        "bert", "BERT-base, layer decay", {"shapes": "bert_base", "rates": "layers"},
        fused={"hot": Goal(least=1 / (1 + BAND), text="not slower"), **_LARGE}, deepspeed=_LARGE,
        memory={"hot": Goal(least=0.9, text="at least 90 %"), **_LARGE},
        one_rate={"hot": Goal(most=1.1, text="at most 1.1x"), **_LARGE},
    ),
    *(
        pair
        for rule in RULES if rule != "adamw"
        for pair in _pairs(
            "rules", f"transformer, layer decay, {OPTIMIZERS[rule].kind}",
            {"shapes": "transformer", "rates": "layers", "optimizer": rule},
            **{name: _not_slower() for name in OF_RULES if rule in IMPLEMENTATIONS[name].optimizers},
        )
    ),
)  # fmt: skip
SHAPES = tuple(dict.fromkeys(pair.shape for pair in PAIRS))


def select_pairs(shapes: Sequence[str] = SHAPES, *, peers: bool = True) -> list[StepPair]:
    """The pairs of the table.

    Args:
        shapes: some of ``SHAPES``.
        peers: with other optimizers; without, only ours against itself and against the bandwidth.

    Raises:
        ConfigError: unknown shapes.

    Example:
        >>> [pair.against for pair in select_pairs(["mlp"])]
        ['default', 'fused', 'deepspeed', 'one rate']
    """
    for name in shapes:
        if name not in SHAPES:
            raise ConfigError(f"there are no shapes called {name!r}", help=f"write one of: {', '.join(SHAPES)}")
    return [pair for pair in PAIRS if pair.shape in shapes and (peers or pair.against in (ONE_RATE, MEMORY))]
