"""Width scaling: rates that carry over from a narrow model to a wide one (the rates of muP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import ParamInfo, list_parameters, some
from lrdiff_core.rates.rules import Rule, matches

__all__ = ["WidthScale"]

_FAN_IN_SECOND = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention)  # weight is [fan_out, fan_in, ...]
_ROLES = ("input", "hidden", "output", "fixed")


@dataclass(frozen=True)
class WidthScale:
    """Rates of the maximal update parametrization (muP) against a base model of smaller width.

    A dimension that differs between the model and its base is a width; ``in`` and ``out`` below are the ratios of
    fan-in and fan-out to the base. By its widths a parameter is fixed (it has none), an input weight or a bias (one:
    its fan-out), an output weight (one: its fan-in) or a hidden weight (two).

    Table 3 of Yang et al. 2022, "Tensor Programs V", arXiv:2203.03466 (learning rate rows)::

        parameter                    Adam and alike     SGD
        input weights, biases        1                  out
        hidden weights               1 / in             out / in   (1 where both grow together)
        output weights               1 / in             1 / in

    With ``output_multiplier=True``, table 8 of the same paper, for models whose forward divides the output by ``in``
    (as ``MuReadout`` of the mup package does): output weights 1 (Adam) or ``in`` (SGD), the rest as above.

    Only the rates are set. muP also needs its initialization (table 3: variance 1 / fan_in, for output weights
    1 / fan_in**2) and attention logits divided by d instead of sqrt(d); weight decay is left as it is, so with AdamW,
    which multiplies it by the rate, a scaled rate decays less.

    Args:
        base: the base model (its weights are not used), or its shapes by canonical name.
        optimizer: ``"adam"`` for Adam and all that divide by the gradient's size, ``"sgd"`` for SGD.
        output_multiplier: True where the model itself divides its output by the width ratio.
        roles: ``"input"``, ``"hidden"``, ``"output"`` or ``"fixed"`` by match (as in a rule), for parameters of
            custom modules whose shape does not tell.

    Raises:
        RateError: a bad argument; when the plan is made: the models do not correspond, or a role cannot be told.

    Example:
        >>> from lrdiff_core.rates import param_groups
        >>> def mlp(width):
        ...     return nn.Sequential(nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 1))
        >>> plan = param_groups(mlp(64), lr=1e-2, scale=[WidthScale(mlp(16))])
        >>> {entry.name: entry.lr for entry in plan if entry.name.endswith("weight")}
        {'0.weight': 0.01, '1.weight': 0.0025, '2.weight': 0.0025}
    """

    base: nn.Module | Mapping[str, Sequence[int]]
    optimizer: str = "adam"
    output_multiplier: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.optimizer not in ("adam", "sgd"):
            raise RateError(
                f'WidthScale has no rates for the optimizer "{self.optimizer}"',
                help='write "adam" for optimizers that divide by the size of the gradient, "sgd" for SGD',
            )
        for match, role in self.roles.items():
            if role not in _ROLES:
                raise RateError(f'role of "{match}" is "{role}"', help=f"write one of: {', '.join(_ROLES)}")

    @property
    def label(self) -> str:
        return f"WidthScale({self.optimizer})"

    def factors(self, infos: Sequence[ParamInfo]) -> dict[str, float]:
        if isinstance(self.base, nn.Module):
            shapes = {info.name: tuple(info.parameter.shape) for info in list_parameters(self.base)}
        else:
            shapes = {name: tuple(shape) for name, shape in self.base.items()}
        missing = [info.name for info in infos if info.name not in shapes]
        missing += sorted(set(shapes) - {info.name for info in infos})
        if missing:
            raise RateError(
                f"the model and its base differ in parameters: {some(missing)}",
                help="build the base with the same code, only narrower",
            )
        roles = self._given_roles(infos)
        return {info.name: self._factor(info, shapes[info.name], roles.get(info.name)) for info in infos}

    def _given_roles(self, infos: Sequence[ParamInfo]) -> dict[str, str]:
        given: dict[str, str] = {}
        for text, role in self.roles.items():
            match = Rule(text, lr_mult=1.0).match
            found = [info.name for info in infos if matches(match, info, info.occurrences[0])]
            if not found:
                raise RateError(f'role "{text}" matches no parameter', help="write a name or a glob of the model")
            given.update({name: role for name in found if name not in given})
        return given

    def _factor(self, info: ParamInfo, base: tuple[int, ...], given: str | None) -> float:
        shape = tuple(info.parameter.shape)
        if len(shape) != len(base):
            raise RateError(
                f'"{info.name}" is {list(shape)} here and {list(base)} in the base model',
                help="build the base with the same code, only narrower",
            )
        wide = [i for i, (here, there) in enumerate(zip(shape, base, strict=True)) if here != there]
        if not wide:
            return 1.0
        ratios = [here / there for here, there in zip(shape, base, strict=True)]
        role = given or self._role(info, wide)
        fan_in = 0 if isinstance(info.occurrences[0].owner, _ConvTransposeNd) else 1
        if role == "fixed":
            return 1.0
        if role == "input":
            return 1.0 if self.optimizer == "adam" else ratios[wide[0]]
        if role == "output":
            ratio = ratios[wide[0]]
            if not self.output_multiplier:
                return 1 / ratio
            return 1.0 if self.optimizer == "adam" else ratio
        out = ratios[1 - fan_in] if self.optimizer == "sgd" else 1.0
        return out / ratios[fan_in]

    def _role(self, info: ParamInfo, wide: list[int]) -> str:
        """What a parameter is, by its widths and the modules that hold it."""
        owners = [place.owner for place in info.occurrences]
        if len(wide) == 2 and set(wide) == {0, 1}:
            return "hidden"
        way_out = f'say what it is: roles={{"{info.name}": "input"}}, or one of: {", ".join(_ROLES)}'
        if len(wide) > 1:
            raise RateError(f'"{info.name}" grows in the dimensions {wide}: its fan-in cannot be told', help=way_out)
        embeds = any(isinstance(owner, nn.Embedding | nn.EmbeddingBag) for owner in owners)
        if embeds and len(owners) > 1 and not self.output_multiplier:
            raise RateError(
                f'"{info.name}" is both an input and an output weight (tied with {some(info.tied)})',
                help="table 3 cannot tie them: divide the output in the model and set output_multiplier=True",
            )
        if embeds or info.parameter.ndim == 1:
            return "input"
        transposed = isinstance(owners[0], _ConvTransposeNd)
        if transposed or isinstance(owners[0], _FAN_IN_SECOND):
            return "output" if wide[0] == (0 if transposed else 1) else "input"
        if wide[0] == 1:
            raise RateError(
                f'"{info.name}" of {type(owners[0]).__name__} may be an input or an output weight', help=way_out
            )
        return "input"
