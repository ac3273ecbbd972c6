"""What an optimizer step is timed on, and what it is timed against: shapes, and peers that step them.

Pure functions; the timing engine does the timing. Every peer is made by a factory from the same :class:`Case` and
offers ``step()`` and ``reset()``. Gradients are fixed and random: a step's cost does not depend on them, as long as
``reset`` keeps the state from drifting into denormal numbers.

Example:
    >>> case = mlp()
    >>> dict(peers())["lrdiff"](case).step()
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from lrdiff_bench.measure.cases.state import BYTES_STEP, model_shapes

__all__ = [
    "Case",
    "Peer",
    "mlp",
    "transformer",
    "bert_base",
    "one_rate",
    "rate_each",
    "rates",
    "peers",
    "TorchPeer",
    "OptaxPeer",
    "BandwidthPeer",
    "BYTES_STEP",
    "BYTES_ADD",
]

BYTES_ADD = 12  # a.add_(b): reads two, writes one
_BASE_RATE = 1e-3
_DECAY = 0.01


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shapes by parameter name, and the groups: rate, weight decay, names of the parameters."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    groups: list[tuple[float, float, list[str]]]

    @property
    def parameters(self) -> int:
        """Numbers in all tensors together."""
        return sum(map(prod, self.shapes.values()))

    def tensors(self, seed: int = 0) -> dict[str, Tensor]:
        """Parameters with gradients, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        made: dict[str, Tensor] = {}
        for name, shape in self.shapes.items():
            made[name] = torch.nn.Parameter(torch.randn(shape, generator=generator))
            made[name].grad = torch.randn(shape, generator=generator)
        return made


class Peer(Protocol):
    """One optimizer over one case."""

    def step(self) -> object:
        """One step."""

    def reset(self) -> object:
        """Back to the state after construction, in the same memory."""


def mlp() -> Case:
    """The 10-5-1 network: four tensors, a rate for each layer."""
    shapes: dict[str, tuple[int, ...]] = {
        "layer1.weight": (5, 10),
        "layer1.bias": (5,),
        "layer2.weight": (1, 5),
        "layer2.bias": (1,),
    }
    names = list(shapes)
    return Case(name="mlp", shapes=shapes, groups=[(1e-3, _DECAY, names[:2]), (1e-2, _DECAY, names[2:])])


def transformer() -> Case:
    """Width 64, 12 layers: 201 tensors, 0.7 million parameters, 14 rates (layer-wise decay)."""
    shapes = _encoder(width=64, layers=12, inner=256, vocabulary=1000, positions=128)
    shapes |= {"norm.weight": (64,), "norm.bias": (64,), "head.weight": (2, 64), "head.bias": (2,)}
    return Case(name="transformer", shapes=shapes, groups=_layer_decay(shapes, layers=12, split_decay=False))


def bert_base() -> Case:
    """BERT-base: 199 tensors, 109 482 240 parameters; layer-wise decay, no weight decay for biases and norms."""
    shapes = dict(model_shapes("bert_base"))
    return Case(name="bert_base", shapes=shapes, groups=_layer_decay(shapes, layers=12, split_decay=True))


def one_rate(case: Case) -> Case:
    """The same tensors in one group."""
    return Case(name=f"{case.name}, 1 rate", shapes=case.shapes, groups=[(_BASE_RATE, _DECAY, list(case.shapes))])


def rate_each(case: Case) -> Case:
    """The same tensors, a group and a rate for each."""
    return rates(case, len(case.shapes))


def rates(case: Case, count: int) -> Case:
    """The same tensors in ``count`` groups of neighbours, a rate for each group."""
    names = list(case.shapes)
    count = min(count, len(names))
    chunks = [names[i * len(names) // count : (i + 1) * len(names) // count] for i in range(count)]
    groups = [(_BASE_RATE * (1 + i / count), _DECAY, chunk) for i, chunk in enumerate(chunks)]
    return Case(name=f"{case.name}, {count} rates", shapes=case.shapes, groups=groups)


def _encoder(*, width: int, layers: int, inner: int, vocabulary: int, positions: int) -> dict[str, tuple[int, ...]]:
    """Parameter shapes of a BERT encoder without its head, named as Hugging Face names them."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, width),
        "embeddings.position_embeddings.weight": (positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for i in range(layers):
        at = f"encoder.layer.{i}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{at}{part}.weight": (width, width), f"{at}{part}.bias": (width,)}
        shapes |= {f"{at}intermediate.dense.weight": (inner, width), f"{at}intermediate.dense.bias": (inner,)}
        shapes |= {f"{at}output.dense.weight": (width, inner), f"{at}output.dense.bias": (width,)}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{at}{part}.weight": (width,), f"{at}{part}.bias": (width,)}
    return shapes


def _layer_decay(
    shapes: dict[str, tuple[int, ...]], *, layers: int, split_decay: bool, factor: float = 0.9
) -> list[tuple[float, float, list[str]]]:
    groups: dict[tuple[float, float], list[str]] = {}
    for name in shapes:
        depth = (
            int(name.split(".")[2]) + 1 if name.startswith("encoder") else 0 if name.startswith("emb") else layers + 1
        )
        decays = not split_decay or len(shapes[name]) > 1
        groups.setdefault((_BASE_RATE * factor ** (layers + 1 - depth), _DECAY if decays else 0.0), []).append(name)
    return [(rate, decay, names) for (rate, decay), names in groups.items()]


class TorchPeer:
    """Any optimizer of torch's interface; ``compiled`` wraps its step in ``torch.compile``."""

    def __init__(
        self, case: Case, make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], *, compiled: bool
    ) -> None:
        self.tensors = case.tensors()
        self._first = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        self.optimizer = make(
            [
                {"params": [self.tensors[name] for name in names], "lr": rate, "weight_decay": decay}
                for rate, decay, names in case.groups
            ]
        )
        self.step: Callable[[], object] = torch.compile(self.optimizer.step) if compiled else self.optimizer.step

    @torch.no_grad()
    def reset(self) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(self._first[name])
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()


class OptaxPeer:
    """``optax.multi_transform`` with AdamW for each label, compiled, buffers donated."""

    def __init__(self, case: Case) -> None:
        import jax
        import optax

        tensors = case.tensors()
        self._first = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        self._grads = {name: jax.numpy.asarray(tensor.grad.numpy()) for name, tensor in tensors.items()}  # type: ignore[union-attr]
        labels = {name: f"group{i}" for i, (_, _, names) in enumerate(case.groups) for name in names}
        rule = optax.multi_transform(
            {f"group{i}": optax.adamw(rate, weight_decay=decay) for i, (rate, decay, _) in enumerate(case.groups)},
            labels,
        )

        def update(params: Any, state: Any, grads: Any) -> Any:
            changes, state = rule.update(grads, state, params)
            return optax.apply_updates(params, changes), state

        self._rule, self._update = rule, jax.jit(update, donate_argnums=(0, 1))
        self._params: Any = None
        self._state: Any = None
        self.reset()

    def step(self) -> None:
        import jax

        self._params, self._state = self._update(self._params, self._state, self._grads)
        jax.block_until_ready(self._params)

    def reset(self) -> None:
        import jax

        self._params = {name: jax.numpy.array(value) for name, value in self._first.items()}
        self._state = self._rule.init(self._params)


class BandwidthPeer:
    """``a.add_(b)`` over as many numbers as the case has: what memory gives when nothing else is in the way."""

    def __init__(self, case: Case) -> None:
        self._a, self._b = torch.zeros(case.parameters), torch.ones(case.parameters)

    def step(self) -> object:
        return self._a.add_(self._b)

    def reset(self) -> object:
        return self._a.zero_()


def peers() -> Iterator[tuple[str, Callable[[Case], Peer]]]:
    """Name and factory of each peer that is installed here, ours first."""
    from lrdiff_core import optim

    yield "lrdiff", lambda case: TorchPeer(case, optim.AdamW, compiled=False)
    yield "torch default", lambda case: TorchPeer(case, torch.optim.AdamW, compiled=False)
    yield (
        "torch fused",
        lambda case: TorchPeer(case, lambda groups: torch.optim.AdamW(groups, fused=True), compiled=False),
    )
    yield "torch compiled", lambda case: TorchPeer(case, torch.optim.AdamW, compiled=True)
    if importlib.util.find_spec("optax") is not None:
        yield "optax multi_transform", OptaxPeer
