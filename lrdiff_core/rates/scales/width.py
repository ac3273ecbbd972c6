"""Width scaling: rates that carry over from a narrow model to a wide one (the rates of muP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from typing_extensions import override

from lrdiff_core.errors import RateError
from lrdiff_core.rates.matching import Match, as_match, matching
from lrdiff_core.rates.names import ParamInfo, list_parameters, some
from lrdiff_core.rates.scales.scale import BuiltInScale, Scaled

__all__ = ["WidthScale"]

_FAN_IN_SECOND = (
    nn.Linear,
    nn.Bilinear,
    _ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)  # weight is [fan_out, fan_in, ...]
_ROLES = ("input", "hidden", "output", "fixed")


@dataclass(frozen=True)
class WidthScale(BuiltInScale):
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
            custom modules whose shape does not tell. The weights of torch's layers are known to be [out, in, ...]
            (transposed convolutions [in, out, ...]), those of Hugging Face's Conv1D [in, out].
        fan_in_first: matches of weights of custom modules that are stored [in, out].

    Raises:
        RateError: a bad argument; when the plan is made: the models do not correspond, or a role cannot be determined.

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
    fan_in_first: Sequence[Match] = ()

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
    @override
    def label(self) -> str:
        return f"WidthScale({self.optimizer})"

    @property
    @override
    def neutral(self) -> bool:
        return True  # a model of the base's own width has its rates

    @override
    def scaled(self, infos: Sequence[ParamInfo]) -> Scaled:
        if isinstance(self.base, nn.Module):
            shapes = {info.name: info.shape for info in list_parameters(self.base)}
        else:
            shapes = {name: tuple(shape) for name, shape in self.base.items()}
        missing = [info.name for info in infos if info.name not in shapes]
        missing += sorted(set(shapes) - {info.name for info in infos})
        if missing:
            raise RateError(
                f"the model and its base differ in parameters: {some(missing)}",
                help="build the base with the same code, only narrower",
            )
        roles = _named(infos, self.roles, "role")
        turned = _named(infos, dict.fromkeys(_as_matches(self.fan_in_first), True), "fan_in_first")
        return Scaled(
            {
                info.name: self._factor(info, shapes[info.name], roles.get(info.name), info.name in turned)
                for info in infos
            }
        )

    def _factor(self, info: ParamInfo, base: tuple[int, ...], given: str | None, turned: bool) -> float:
        shape = info.shape
        if len(shape) != len(base):
            raise RateError(
                f'"{info.name}" is {list(shape)} here and {list(base)} in the base model',
                help="build the base with the same code, only narrower",
            )
        ratios = [here / there for here, there in zip(shape, base, strict=True)]
        wide = [i for i, ratio in enumerate(ratios) if ratio != 1]
        if not wide or given == "fixed":
            return 1.0
        fan_in, fan_out = self._fans(info, {i: ratios[i] for i in wide}, given, turned)
        out, into = (1.0 if dimension is None else ratios[dimension] for dimension in (fan_out, fan_in))
        role = given or ("input" if fan_in is None else "output" if fan_out is None else "hidden")
        if role == "input":
            return 1.0 if self.optimizer == "adam" else out
        if role == "output":
            if not self.output_multiplier:
                return 1 / into
            return 1.0 if self.optimizer == "adam" else into
        return (out if self.optimizer == "sgd" else 1.0) / into

    def _fans(
        self, info: ParamInfo, ratios: Mapping[int, float], given: str | None, turned: bool
    ) -> tuple[int | None, int | None]:
        """Which of the dimensions that grow (with their ratios) is the fan-in, and which the fan-out.

        Raises:
            RateError: it cannot be determined from the shape and the modules that hold the parameter.
        """
        name, owners, wide = info.name, [place.owner for place in info.occurrences], list(ratios)
        if given == "input":
            return None, wide[0]
        if given == "output":
            return wide[0], None
        embeds = any(isinstance(owner, nn.Embedding | nn.EmbeddingBag) for owner in owners)
        if given is None and embeds and len(owners) > 1 and not self.output_multiplier:
            raise RateError(
                f'"{name}" is both an input and an output weight (tied with {some(info.tied)})',
                help="table 3 cannot tie them: divide the output in the model and set output_multiplier=True",
            )
        if given is None and (embeds or len(info.shape) == 1):
            return None, wide[0]
        ways_out = (
            f'say what it is: roles={{"{name}": "hidden"}} for [out, in], fan_in_first=["{name}"] for [in, out]; '
            f'or roles={{"{name}": "input"}}, or one of: {", ".join(_ROLES)}'
        )
        is_turned = turned or _is_fan_in_first(owners[0])
        is_square = len(info.shape) == 2 == len(wide) and len(set(ratios.values())) == 1  # either way the same
        known = given is not None or is_turned or is_square or isinstance(owners[0], _FAN_IN_SECOND)
        if len(wide) > 2 or (not known and len(wide) == 2 and len(info.shape) > 2):
            raise RateError(f'"{name}" grows in the dimensions {wide}: its fan-in cannot be determined', help=ways_out)
        if not known:
            both = "both its dimensions" if len(wide) == 2 else f"dimension {wide[0]}"
            raise RateError(
                f'"{name}" of {type(owners[0]).__name__} grows in {both}: [in, out] or [out, in] cannot be determined',
                help=ways_out,
            )
        # Of the two matrix dimensions (the ones that grow, else the first two) one is the fan-in.
        pair = wide if len(wide) == 2 else ([0, 1] if wide[0] < 2 else [wide[0] - 1, wide[0]])
        fan_in, fan_out = pair if is_turned else reversed(pair)
        return (fan_in if fan_in in wide else None), (fan_out if fan_out in wide else None)


def _is_fan_in_first(owner: nn.Module) -> bool:
    if isinstance(owner, _ConvTransposeNd):
        return True
    return any(kind.__name__ == "Conv1D" for kind in type(owner).__mro__) and hasattr(owner, "nf")


def _as_matches(given: object) -> Sequence[Match]:
    return [given] if isinstance(given, str) else given  # type: ignore[return-value]


def _named(infos: Sequence[ParamInfo], given: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """The values by parameter name; of several matches the first wins."""
    found: dict[str, Any] = {}
    for one, value in given.items():
        match = as_match(one)
        found = dict.fromkeys((info.name for info in matching(match, infos, what)), value) | found
    return found
