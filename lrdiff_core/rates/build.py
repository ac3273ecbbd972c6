"""Making a plan: rules match parameters, scales compose, faults are named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from lrdiff_core.errors import RateError, RateWarning, warn
from lrdiff_core.rates.assignment import Assignment, assign, without_decay
from lrdiff_core.rates.layers.tree import ModuleTree
from lrdiff_core.rates.matching import Match
from lrdiff_core.rates.names import ParamInfo, list_parameters, some
from lrdiff_core.rates.plan import RatePlan
from lrdiff_core.rates.plan.bound import BoundModel
from lrdiff_core.rates.plan.entry import Factor, PlanEntry
from lrdiff_core.rates.router import MuonRouter, Route
from lrdiff_core.rates.rules import Rule
from lrdiff_core.rates.scales import Scale
from lrdiff_core.rates.values import check_decay, check_rate
from lrdiff_core.text import nearest

__all__ = ["RateWarning", "layer_rates", "param_groups"]


def param_groups(
    model: nn.Module,
    lr: float | None = 1e-3,
    weight_decay: float = 0.0,
    *,
    rules: Sequence[Rule] = (),
    scale: Sequence[Scale] = (),
    no_weight_decay: Sequence[Match] = (),
    router: MuonRouter | None = None,
    strict: bool = True,
) -> RatePlan:
    """Plan which parameter of a model learns how fast. Changes nothing: see :class:`RatePlan` for what to do with it.

    Precedence, for each parameter::

        rule           for each setting, the first of ``rules`` that matches and has it; lr and lr_mult are one setting
        rate           rule.lr, where given: nothing multiplies it
                       else lr * rule.lr_mult * factor of each scale, in order
        weight decay   rule.weight_decay, else 0 where no_weight_decay matches, else the router's, else weight_decay
        frozen         rule.freeze, else as found (requires_grad)

    A tied weight is one parameter: a rule that matches any of its names assigned it, and it has the depth of its first.

    Args:
        model: any module, wrapped (compiled, distributed) or not.
        lr: the base rate; None where every parameter gets its rate by a rule's ``lr``.
        weight_decay: for all that nothing else is said about. The plan's decay always stands in the groups, so the
            optimizer's own default does not apply.
        rules: see :class:`Rule`.
        scale: see :class:`LayerDecay`, :class:`Slices`, :class:`HeadMultiplier`, :class:`WidthScale`,
            :class:`LoRAPlus`; they multiply.
        no_weight_decay: matches as in a rule; ``"1d"`` stands for biases and norms.
        router: see :class:`MuonRouter`; it gives hidden matrices a base rate and options of their own.
        strict: False turns a rule or a scale without effect into a :class:`RateWarning`, for lists that serve
            several models. All other faults stay errors.

    Raises:
        RateError: a rule that matches nothing, or sets what rules before it have set already; a scale that changes
            no rate; a parameter left without a rate; a tied weight claimed by two rules; a rate that is not a
            positive finite number.

    Example:
        >>> model = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))
        >>> rules = [Rule("2", lr_mult=0.1)]
        >>> plan = param_groups(model, lr=0.01, weight_decay=0.1, rules=rules, no_weight_decay=["1d"])
        >>> print(plan)
        parameter  shape  rule   rate  decay  frozen  tied with
        0.weight   5x10   -      0.01    0.1  -       -
        0.bias     5      -      0.01      0  -       -
        2.weight   1x5    2     0.001    0.1  -       -
        2.bias     1      2     0.001      0  -       -
        4 parameters in 4 groups
    """
    base = None if lr is None else check_rate(lr, "lr")
    decay = check_decay(weight_decay, "weight_decay")
    infos = list_parameters(model)
    fault = partial(_fault, strict=strict)
    assigned = assign(infos, _as_list(rules, "rules", Rule), fault=fault)
    undecayed = without_decay(infos, no_weight_decay, fault=fault)
    factors = [_ScaleFactors.of(one, infos) for one in _as_list(scale, "scale", Scale)]
    rated = {name for name, own in assigned.items() if "lr" in own}
    if base is None and (bare := [info.name for info in infos if info.name not in rated]):
        raise RateError(
            f"{len(bare)} parameters have no rate: {some(bare)}",
            help="add a rule with an lr for them, or give a base rate: param_groups(model, lr=...)",
        )
    for one in factors:
        one.check_effect(rated, strict=strict)
    routes = _routes(router, infos, assigned)
    entries = []
    for info in infos:
        own, routed = assigned[info.name], routes.get(info.name)
        start = None if base is None else Factor("lr", base)
        default_decay = decay
        if router is not None and routed is not None and routed.is_muon:
            start = Factor("lr of MuonRouter", router.lr)
            default_decay = decay if router.weight_decay is None else router.weight_decay
        parts = _product(info.name, start, own, factors)
        if info.name in undecayed:
            default_decay = 0.0
        options = {} if routed is None else routed.options
        entries.append(_entry(info, own, parts, options, default_decay, undecayed.get(info.name)))
    notes = [one.note for one in factors if one.note]
    notes += [] if router is None else [f"MuonRouter: {router.found(infos)}"]
    return RatePlan(entries, BoundModel.of(infos), notes=notes)


def _entry(
    info: ParamInfo,
    own: Mapping[str, Assignment],
    parts: Sequence[Factor],
    options: Mapping[str, Any],
    decay: float,
    decay_by: str | None,
) -> PlanEntry:
    """One parameter's row of the plan: what rules set for it, and defaults for what they leave open."""
    own_decay, freeze, schedule = (own.get(key) for key in ("weight_decay", "freeze", "schedule"))
    own_options = {key.removeprefix("option "): one.value for key, one in own.items() if key.startswith("option ")}
    return PlanEntry(
        name=info.name,
        shape=info.shape,
        rule=" + ".join(dict.fromkeys(one.rule.label for one in own.values())) or None,
        lr=_effective(info.name, parts),
        weight_decay=decay if own_decay is None else own_decay.value,
        frozen=not info.parameter.requires_grad if freeze is None else freeze.value,
        schedule=None if schedule is None else schedule.value,
        options=tuple(sorted({**options, **own_options}.items())),
        tied=info.tied,
        factors=tuple(parts),
        decay_by=f'rule "{own_decay.rule.label}"' if own_decay else decay_by,
    )


def layer_rates(
    model: nn.Module, rates: Mapping[str, float], *, weight_decay: float = 0.0, router: MuonRouter | None = None
) -> RatePlan:
    """Plan one rate a layer, by layer name: what a table of rates in a configuration file says.

    Args:
        model: any module.
        rates: the rate of each layer, by the name of the child module, dots for deeper ones (``"encoder.layers.0"``);
            the longer name wins inside the shorter one, in whatever order they stand.
        weight_decay: for all parameters.
        router: sends hidden matrices to Muon, at the rates of the table.

    Raises:
        RateError: a name the model does not have; a layer left over; a rate that is not a positive finite number.

    Example:
        >>> model = nn.Sequential()
        >>> model.add_module("layer1", nn.Linear(10, 5))
        >>> model.add_module("layer2", nn.Linear(5, 1))
        >>> plan = layer_rates(model, {"layer1": 0.01, "layer2": 0.001})
        >>> [group["lr"] for group in plan.groups()]
        [0.01, 0.001]
    """
    if not isinstance(rates, Mapping):
        raise RateError(f"the rate table is {rates!r}", help='write rates by layer name, such as {"layer1": 0.01}')
    infos = list_parameters(model)
    layers = list(dict.fromkeys(info.name.rpartition(".")[0] or info.name for info in infos))
    known = {name for name in ModuleTree.of(infos).modules if name} | {info.name for info in infos}
    rules = []
    for layer in rates:
        if not isinstance(layer, str):
            raise RateError(f"the rate table has the layer {layer!r}", help=f'write its name as a text: "{layer}"')
    for layer in sorted(rates, key=lambda name: str(name).count("."), reverse=True):
        if layer not in known:
            tops = list(dict.fromkeys(name.partition(".")[0] for name in layers))
            deeper = [name for name in known if "." in name] if "." in str(layer) else []
            raise RateError(
                f'the model has no layer "{layer}"', help=nearest(str(layer), tops + deeper, "layers of this model")
            )
        rules.append(Rule(layer, kind="name", lr=check_rate(rates[layer], f'learning rate of layer "{layer}"')))
    left = _left_over(layers, rates)
    if left:
        noun = "layer" if len(left) == 1 else "layers"
        raise RateError(
            f"the rate table leaves the {noun} {some(left)} without a rate", help=f"add a rate: {left[0]} = 0.001"
        )
    return param_groups(model, lr=None, weight_decay=weight_decay, rules=rules, router=router)


def _left_over(layers: Sequence[str], rates: Mapping[str, float]) -> list[str]:
    """The largest modules that hold no rated layer, for the layers that no rate covers."""
    found: dict[str, None] = {}
    for layer in layers:
        if not any(f"{layer}.".startswith(f"{name}.") for name in rates):
            parts = layer.split(".")
            above = [".".join(parts[: i + 1]) for i in range(len(parts))]
            found[next(name for name in above if not any(f"{rated}.".startswith(f"{name}.") for rated in rates))] = None
    return list(found)


@dataclass(frozen=True)
class _ScaleFactors:
    """What one scale says about this model."""

    label: str
    by_name: dict[str, float]
    neutral: bool  # its own setting says that nothing is to change, as a decay of 1 does
    note: str | None

    @classmethod
    def of(cls, scale: Scale, infos: Sequence[ParamInfo]) -> _ScaleFactors:
        describing = getattr(scale, "scaled", None)  # not in the protocol: a scale of the user's needs none
        given, found = describing(infos) if callable(describing) else (scale.factors(infos), None)
        names = {info.name for info in infos}
        for name, factor in given.items():
            check_rate(factor, f'factor of {scale.label} for "{name}"')
            if name not in names:
                raise RateError(
                    f'{scale.label} names "{name}", which the model does not have', help="correct the scale"
                )
        note = f"{scale.label}: {found}" if found else None
        return cls(scale.label, given, bool(getattr(scale, "neutral", False)), note)

    def check_effect(self, set_by_rule: set[str], *, strict: bool) -> None:
        """A scale that changes no rate is as dead as a rule that matches nothing."""
        changing = {name for name, factor in self.by_name.items() if factor != 1.0}
        if self.neutral or changing - set_by_rule:
            return
        if changing:
            _fault(
                f"{self.label} has no effect: rules set the lr of all that it changes",
                "write lr_mult in the rules, so that scales apply, or remove the scale",
                strict=strict,
            )
        else:
            _fault(
                f"{self.label} has no effect: every factor is 1",
                "say what the layers are (layers=[...] from input to output), or remove the scale",
                strict=strict,
            )


def _routes(
    router: MuonRouter | None, infos: Sequence[ParamInfo], assigned: Mapping[str, Mapping[str, Assignment]]
) -> dict[str, Route]:
    """Where a router sends each parameter; a rule that sets ``use_muon`` decides otherwise."""
    if router is None:
        return {}
    if not isinstance(router, MuonRouter):
        raise RateError(f"router is {router!r}", help="write MuonRouter(lr=0.02)")
    routes = router.routes(infos)
    for name, own in assigned.items():
        if "option use_muon" in own:
            is_muon = bool(own["option use_muon"].value)
            routes[name] = Route(is_muon, routes[name].options if routes[name].is_muon == is_muon else {})
    return routes


def _product(
    name: str, start: Factor | None, own: Mapping[str, Assignment], factors: Sequence[_ScaleFactors]
) -> list[Factor]:
    """What the rate is a product of, with labels."""
    if "lr" in own:
        return [Factor(f'rule "{own["lr"].rule.label}"', own["lr"].value)]
    assert start is not None  # param_groups has refused what has no rate
    parts = [start]
    if "lr_mult" in own:
        parts.append(Factor(f'rule "{own["lr_mult"].rule.label}"', own["lr_mult"].value))
    scaled = [Factor(one.label, one.by_name.get(name, 1.0)) for one in factors]
    return parts + [one for one in scaled if one.value != 1.0]


def _effective(name: str, parts: Sequence[Factor]) -> float:
    rate = math.prod(part.value for part in parts)
    if not 0 < rate < math.inf:
        product = " x ".join(f"{part.value:g} ({part.label})" for part in parts)
        raise RateError(f'the rate of "{name}" comes out as {rate!r}: {product}', help="use factors closer to 1")
    return rate


def _as_list(given: object, name: str, kind: type) -> list[Any]:
    if isinstance(given, kind) and not isinstance(given, type):  # a class has the methods of a protocol, too
        return [given]
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise RateError(f"{name} is {given!r}", help=f"write a list of {kind.__name__}")
    for one in given:
        if not isinstance(one, kind) or isinstance(one, type):
            raise RateError(f"{name} holds {one!r}", help=f"write a list of {kind.__name__}")
    return list(given)


def _fault(message: str, help: str, *, strict: bool) -> None:
    if strict:
        raise RateError(message, help=help)
    warn(message, RateWarning, help=help)
