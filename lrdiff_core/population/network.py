"""Networks of linear layers and activations: told apart from other modules, because they have a faster path."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor, nn

from lrdiff_core.errors import ConfigError
from lrdiff_core.model import TabularNet

__all__ = ["ACTIVATIONS", "LinearLayer", "Gain", "linear_layers", "parameter_count"]

# In the order of the enumeration in kernel.cpp.
ACTIVATIONS = ("identity", "relu", "tanh", "sigmoid", "silu", "gelu")
_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
}


class Gain(nn.Module):
    """Multiplies by a fixed number: ``y = factor * x``, as mean-field scaling does behind a linear layer.

    Raises:
        ConfigError: the factor is not a finite number.

    Example:
        >>> import torch
        >>> Gain(0.5)(torch.ones(2))
        tensor([0.5000, 0.5000])
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not math.isfinite(factor):
            raise ConfigError(f"scale factor is {factor!r}", help="write a finite number")
        self.factor = float(factor)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values times the factor."""
        return values * self.factor


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """``activation(gain * (weight x + bias))`` with parameters by name.

    Args:
        weight, bias: names in the model; no bias where None.
        fan_in, fan_out: sizes.
        activation: one of :data:`ACTIVATIONS`.
        gain: a fixed factor.
    """

    weight: str
    bias: str | None
    fan_in: int
    fan_out: int
    activation: str = "identity"
    gain: float = 1.0

    @property
    def parameters(self) -> int:
        """Numbers in weight and bias."""
        return self.fan_out * (self.fan_in + (self.bias is not None))


def linear_layers(model: nn.Module) -> tuple[LinearLayer, ...] | None:
    """Describe a model that is a chain of linear layers, or return None.

    A chain is a :class:`TabularNet` (from its standardized rows on), or an ``nn.Sequential`` in which every linear
    layer may be followed by :class:`Gain` and by ReLU, Tanh, Sigmoid, SiLU or (exact) GELU. Subclasses, hooks,
    shared layers and anything else take the general path.

    Example:
        >>> [layer.activation for layer in linear_layers(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))]
        ['tanh', 'identity']
        >>> linear_layers(nn.Sequential(nn.Linear(2, 3), nn.Dropout())) is None
        True
    """
    if type(model) is TabularNet:
        chain: list[tuple[str, nn.Module]] = []
        for name in model.layer_names:
            chain += [(name, model.get_submodule(name)), ("", nn.ReLU())]
        chain.pop()
    elif type(model) is nn.Sequential:
        chain = list(model._modules.items())  # with repeats, unlike named_children()
    else:
        return None
    if _hooked(model) or any(_hooked(module) for _, module in chain):
        return None
    parameters = [p for _, module in chain for p in module._parameters.values() if p is not None]
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        return None
    layers: list[LinearLayer] = []
    scaled = activated = True  # nothing may come before the first linear layer
    for name, module in chain:
        if type(module) is nn.Linear:
            has_bias = module.bias is not None
            layers.append(
                LinearLayer(
                    weight=f"{name}.weight",
                    bias=f"{name}.bias" if has_bias else None,
                    fan_in=module.in_features,
                    fan_out=module.out_features,
                )
            )
            scaled = activated = False
        elif type(module) is Gain and not scaled:
            layers[-1] = replace(layers[-1], gain=module.factor)
            scaled = True
        elif type(module) in _MODULES and not activated:
            if isinstance(module, nn.GELU) and module.approximate != "none":
                return None
            layers[-1] = replace(layers[-1], activation=_MODULES[type(module)])
            scaled = activated = True
        else:
            return None
    return tuple(layers) if layers else None


def parameter_count(layers: tuple[LinearLayer, ...]) -> int:
    """Numbers in all layers."""
    return sum(layer.parameters for layer in layers)


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )
