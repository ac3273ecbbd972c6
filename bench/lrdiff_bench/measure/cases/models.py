"""Small models of the kinds that people train, each with a batch and a loss: what surrounds an optimizer step.

Their sizes are typical, their data is random: a training step takes as long on noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MODELS", "Model"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with one batch, and the loss of the one on the other.

    Args:
        net: whose parameters with ``requires_grad`` are trained.
        batch: what ``loss`` takes beside the network.
        loss: a scalar.
    """

    net: nn.Module
    batch: tuple[Tensor, ...]
    loss: Callable[..., Tensor]

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.net.named_parameters() if p.requires_grad}

    def backward(self, net: Any = None, dtype: torch.dtype | None = None) -> Tensor:
        """Forward and backward pass, from no gradients to all; returns the loss.

        Args:
            net: another one in place of the model's own: compiled, or a copy.
            dtype: of that copy on the CPU; the batch is cast.
        """
        net = self.net if net is None else net
        for p in net.parameters():
            p.grad = None
        value = self.loss(net, *(self.batch if dtype is None else (_cast(one, dtype) for one in self.batch)))
        value.backward()
        return value.detach()

    def to(self, device: str) -> Model:
        """The same on another device."""
        return Model(net=self.net.to(device), batch=tuple(one.to(device) for one in self.batch), loss=self.loss)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.to("cpu")
    return value.to(dtype) if value.is_floating_point() else value


MODELS: dict[str, Callable[[], Model]] = {}


def _model(name: str) -> Callable[[Callable[[], Model]], Callable[[], Model]]:
    def register(make: Callable[[], Model]) -> Callable[[], Model]:
        def seeded() -> Model:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return make()

        MODELS[name] = seeded
        return make

    return register


@_model("mlp")
def _mlp() -> Model:
    """The main model, 10-5-1, on a batch of 25 rows."""
    net = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1), nn.Flatten(0))
    return Model(net=net, batch=(torch.randn(25, 10), torch.rand(25).round()), loss=_logistic)


def _logistic(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(net(inputs), targets)


class _Block(nn.Module):
    """A transformer layer with query, key and value of their own: 16 tensors."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.first, self.second = nn.Linear(width, inner), nn.Linear(inner, width)
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:  # [batch, length, width]
        query, key, value = (
            one(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = self.attention_norm(x + self.out(attended.transpose(1, 2).flatten(2)))
        return self.norm(x + self.second(functional.gelu(self.first(x))))


class _Encoder(nn.Module):
    """A BERT-like encoder with a head of two classes: 9 + 16 tensors a layer."""

    def __init__(self, *, width: int, layers: int, heads: int, inner: int, words: int = 1000) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(words, width), nn.Embedding(128, width)
        self.kind, self.first_norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Block(width, heads, inner) for _ in range(layers))
        self.last_norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:  # [batch, length] -> [batch, 2]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.first_norm(self.word(tokens) + self.position(places) + self.kind(torch.zeros_like(tokens)))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.last_norm(x[:, 0]))


def _classes(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(net(inputs), targets)


def _sentences(net: nn.Module, rows: int, length: int) -> Model:
    return Model(net=net, batch=(torch.randint(0, 1000, (rows, length)), torch.randint(0, 2, (rows,))), loss=_classes)


@_model("transformer")
def _transformer() -> Model:
    """A transformer of 12 layers and width 64 on 8 sequences of 32: 201 tensors."""
    return _sentences(_Encoder(width=64, layers=12, heads=4, inner=256), 8, 32)


@_model("transformer-short")
def _transformer_short() -> Model:
    """The same on one sequence of 16."""
    return _sentences(_Encoder(width=64, layers=12, heads=4, inner=256), 1, 16)


@_model("encoder")
def _encoder() -> Model:
    """A transformer of 4 layers and width 64 on 16 sequences of 32: 73 tensors."""
    return _sentences(_Encoder(width=64, layers=4, heads=4, inner=256), 16, 32)


@_model("convolution")
def _convolution() -> Model:
    """A convolution net of 0.4 M parameters on 16 images of 32 x 32."""
    sizes = ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 2))
    layers = [
        nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        for into, out, stride in sizes
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
    return Model(net=net, batch=(torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))), loss=_classes)


class _LowRank(nn.Module):
    """A frozen linear layer and a trained update of rank 8.

    Source: Hu et al. 2021, LoRA, https://arxiv.org/abs/2106.09685
    """

    def __init__(self, layer: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.layer = layer
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.a.T @ self.b.T


@_model("lora")
def _lora() -> Model:
    """LoRA of rank 8 on query and value of a frozen BERT of 2 layers and width 768, 4 sequences of 32: 8 tensors."""
    net = _Encoder(width=768, layers=2, heads=12, inner=3072).requires_grad_(False)
    for layer in net.layers:
        assert isinstance(layer, _Block)
        layer.query, layer.value = _LowRank(layer.query), _LowRank(layer.value)  # type: ignore[assignment]
    return _sentences(net, 4, 32)


class _Gaussians(nn.Module):
    """Means, scales, rotations, opacities and colours (spherical harmonics) of Gaussians in space.

    Source: Kerbl et al. 2023, 3D Gaussian Splatting, https://doi.org/10.1145/3592433
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.means, self.scales = nn.Parameter(torch.randn(count, 3)), nn.Parameter(torch.randn(count, 3) / 4)
        self.quats, self.opacities = nn.Parameter(torch.randn(count, 4)), nn.Parameter(torch.zeros(count))
        self.sh0, self.shN = nn.Parameter(torch.rand(count, 1, 3)), nn.Parameter(torch.zeros(count, 15, 3))

    def forward(self, basis: Tensor, offsets: Tensor, pixels: Tensor) -> Tensor:
        # basis: [count, 16], offsets: [count, hits, 3] from where rays pass to the first means, pixels: [count, hits]
        a, b, c, d = functional.normalize(self.quats, dim=-1).unbind(-1)
        rotation = torch.stack([
            1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c),
            2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b),
            2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c),
        ], -1).unflatten(-1, (3, 3))  # fmt: skip
        turned = (offsets - self.means[:, None]) @ rotation / self.scales.exp()[:, None]
        weights = torch.sigmoid(self.opacities)[:, None] * torch.exp(-0.5 * turned.square().sum(-1))  # [count, hits]
        colours = torch.einsum("nb,nbc->nc", basis, torch.cat([self.sh0, self.shN], 1))
        image = torch.zeros(64 * 64, 3, dtype=colours.dtype, device=colours.device)
        return image.index_add(0, pixels.flatten(), (weights[..., None] * colours[:, None]).flatten(0, 1))


@_model("splats")
def _splats() -> Model:
    """20 000 Gaussians with six attributes each, 1.2 M parameters, drawn into 64 x 64 pixels."""
    count, hits = 20_000, 8
    net = _Gaussians(count)
    offsets = net.means.detach()[:, None] + torch.randn(count, hits, 3) / 2
    batch = (torch.randn(count, 16), offsets, torch.randint(0, 64 * 64, (count, hits)), torch.rand(64 * 64, 3))
    return Model(net=net, batch=batch, loss=lambda net, *rays: (net(*rays[:-1]) - rays[-1]).square().mean())


class _ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def tower(outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))

        self.actor, self.critic = tower(4), tower(1)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(states), self.critic(states).squeeze(-1)


def _policy_loss(net: nn.Module, states: Tensor, actions: Tensor, gains: Tensor, returns: Tensor) -> Tensor:
    """Proximal policy optimization from the policy that acted, so the ratio is 1 (Schulman et al. 2017)."""
    logits, values = net(states)
    chosen = functional.log_softmax(logits, -1).gather(-1, actions[:, None]).squeeze(-1)
    ratio = torch.exp(chosen - chosen.detach())
    clipped = torch.minimum(ratio * gains, ratio.clamp(0.8, 1.2) * gains)
    return functional.mse_loss(values, returns) - clipped.mean()


@_model("actor-critic")
def _actor_critic() -> Model:
    """An actor and a critic of two hidden layers of 64 on 64 states: 12 tensors."""
    rows = 64
    batch = (torch.randn(rows, 8), torch.randint(0, 4, (rows,)), torch.randn(rows), torch.randn(rows))
    return Model(net=_ActorCritic(), batch=batch, loss=_policy_loss)
