"""Making a plan: rules claim parameters, scales compose, faults are named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates.entry import PlanEntry
from lrdiff_core.rates.names import ParamInfo, list_parameters, modules_by_name, some
from lrdiff_core.rates.plan import RatePlan
from lrdiff_core.rates.rules import Match, Rule, describe, is_one_dimensional, matches
from lrdiff_core.rates.scales import Scale
from lrdiff_core.rates.values import check_decay, check_rate
from lrdiff_core.text import nearest

__all__ = ["RateWarning", "layer_rates", "param_groups"]


class RateWarning(UserWarning):
    """A rule without effect, where ``strict=False`` lets it pass."""


def param_groups(
    model: nn.Module,
    lr: float | None = 1e-3,
    weight_decay: float = 0.0,
    *,
    rules: Sequence[Rule] = (),
    scale: Sequence[Scale] = (),
    no_weight_decay: Sequence[Match] = (),
    strict: bool = True,
) -> RatePlan:
    """Plan which parameter of a model learns how fast. Changes nothing: see :class:`RatePlan` for what to do with it.

    Precedence, for each parameter::

        rule           the first of ``rules`` that matches, as a whole; other rules add nothing
        rate           rule.lr, where given: nothing multiplies it
                       else lr * rule.lr_mult * factor of each scale, in order
        weight decay   rule.weight_decay, else 0 where no_weight_decay matches, else weight_decay
        frozen         rule.freeze, else as found (requires_grad)

    A tied weight is one parameter: a rule that matches any of its names claims it, and scales see its first name.

    Args:
        model: any module, wrapped (compiled, distributed) or not.
        lr: the base rate; None where every parameter gets its rate by a rule's ``lr``.
        weight_decay: for all that nothing else is said about. The plan's decay always stands in the groups, so the
            optimizer's own default does not apply.
        rules: see :class:`Rule`.
        scale: see :class:`LayerDecay`, :class:`Slices`, :class:`HeadMultiplier`, :class:`WidthScale`,
            :class:`LoRAPlus`; they multiply.
        no_weight_decay: matches as in a rule; ``"1d"`` stands for biases and norms.
        strict: False turns a rule that matches nothing, or is always shadowed, into a :class:`RateWarning`, for rule
            lists that serve several models. All other faults stay errors.

    Raises:
        RateError: a rule that matches nothing or is always shadowed; a parameter left without a rate; a tied weight
            claimed by two rules; an unknown option; a rate that is not a positive finite number.

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
    rules = _as_list(rules, "rules", Rule)
    winners = _claim(infos, rules, strict=strict)
    undecayed = _undecayed(infos, no_weight_decay, strict=strict)
    factors = [(one.label, _factors(one, infos)) for one in _as_list(scale, "scale", Scale)]
    if base is None:
        bare = [info.name for info in infos if winners[info.name] is None or winners[info.name].lr is None]  # type: ignore[union-attr]
        if bare:
            raise RateError(
                f"{len(bare)} parameters have no rate: {some(bare)}",
                help="add a rule with an lr for them, or give a base rate: param_groups(model, lr=...)",
            )
    entries = []
    for info in infos:
        rule = winners[info.name]
        parts = _product(info.name, base, rule, factors)
        own_decay = rule.weight_decay if rule is not None else None
        default_decay = 0.0 if info.name in undecayed else decay
        freeze = rule.freeze if rule is not None else None
        entries.append(
            PlanEntry(
                name=info.name,
                shape=tuple(info.parameter.shape),
                rule=rule.label if rule is not None else None,
                lr=_effective(info.name, parts),
                weight_decay=default_decay if own_decay is None else own_decay,
                frozen=not info.parameter.requires_grad if freeze is None else freeze,
                schedule=rule.settings[4] if rule is not None else None,
                options=rule.settings[5] if rule is not None else (),
                tied=info.tied,
                factors=tuple(parts),
            )
        )
    return RatePlan(entries, infos)


def layer_rates(model: nn.Module, rates: Mapping[str, float], *, weight_decay: float = 0.0) -> RatePlan:
    """Plan one rate a layer, by layer name: what a table of rates in a configuration file says.

    Args:
        model: any module.
        rates: the rate of each layer, by the name of the child module, dots for deeper ones (``"encoder.layers.0"``);
            the longer name wins inside the shorter one, in whatever order they stand.
        weight_decay: for all parameters.

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
    known = {name for name in modules_by_name(infos) if name} | {info.name for info in infos}
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
    return param_groups(model, lr=None, weight_decay=weight_decay, rules=rules)


def _left_over(layers: Sequence[str], rates: Mapping[str, float]) -> list[str]:
    """The largest modules that hold no rated layer, for the layers that no rate covers."""
    found: dict[str, None] = {}
    for layer in layers:
        if not any(f"{layer}.".startswith(f"{name}.") for name in rates):
            parts = layer.split(".")
            above = [".".join(parts[: i + 1]) for i in range(len(parts))]
            found[next(name for name in above if not any(f"{rated}.".startswith(f"{name}.") for rated in rates))] = None
    return list(found)


def _claim(infos: Sequence[ParamInfo], rules: Sequence[Rule], *, strict: bool) -> dict[str, Rule | None]:
    """The winning rule of every parameter; a dead, shadowed or contradicting rule is a fault."""
    winners: dict[str, Rule | None] = {}
    won: set[int] = set()
    shadows: dict[int, dict[str, int]] = {}  # rule -> the parameters it matched in vain, and which rule had them
    for info in infos:
        claims: list[tuple[int, str]] = []  # the first rule at each of the parameter's places
        matched: set[int] = set()
        for place in info.occurrences:
            here = [i for i, rule in enumerate(rules) if matches(rule.match, info, place)]
            matched.update(here)
            claims += [(here[0], place.name)] if here else []
        if not claims:
            winners[info.name] = None
            continue
        first, first_name = min(claims)
        for other, other_name in claims:
            if rules[other].settings != rules[first].settings:
                names = ", ".join(f'"{place.name}"' for place in info.occurrences)
                raise RateError(
                    f'"{first_name}" and "{other_name}" are one tied parameter, claimed by the rules '
                    f'"{rules[first].label}" and "{rules[other].label}"',
                    help=f"put one rule for all its names before them: Rule([{names}], ...)",
                )
        winners[info.name] = rules[first]
        won.update(i for i, _ in claims)
        for i in matched - {i for i, _ in claims}:
            shadows.setdefault(i, {})[info.name] = first
    for i, rule in enumerate(rules):
        if i in won:
            continue
        if i in shadows:
            by = ", ".join(f'"{rules[j].label}"' for j in sorted(set(shadows[i].values())))
            _fault(
                f'rule "{rule.label}" has no effect: {by} before it already claims {some(list(shadows[i]))}',
                "put it first, or remove it",
                strict=strict,
            )
        else:
            _fault(f'rule "{rule.label}" matches no parameter', _help_for_dead(rule.match, infos), strict=strict)
    return winners


def _help_for_dead(match: Match, infos: Sequence[ParamInfo]) -> str:
    tops = list(dict.fromkeys(info.name.partition(".")[0] for info in infos))
    if describe(match).startswith("/"):
        return f"a regular expression must match the whole name; parameters of this model start with: {some(tops, 12)}"
    if isinstance(match, str):
        return nearest(match.partition(".")[0], tops, "parameters of this model start with")
    return f"parameters of this model start with: {some(tops, 12)}"


def _undecayed(infos: Sequence[ParamInfo], given: Sequence[Match], *, strict: bool) -> set[str]:
    found: set[str] = set()
    if isinstance(given, str):
        raise RateError(f'no_weight_decay is "{given}"', help=f'write a list: no_weight_decay=["{given}"]')
    if not isinstance(given, Sequence):
        raise RateError(f"no_weight_decay is {given!r}", help='write a list, such as ["1d"], or []')
    for one in given:
        match = is_one_dimensional if one == "1d" else Rule(one, weight_decay=0.0).match
        names = [i.name for i in infos if any(matches(match, i, place) for place in i.occurrences)]
        if not names and one != "1d":  # a model without biases and norms has nothing wrong with it
            _fault(
                f'no_weight_decay "{describe(match)}" matches no parameter', _help_for_dead(match, infos), strict=strict
            )
        found.update(names)
    return found


def _factors(scale: Scale, infos: Sequence[ParamInfo]) -> dict[str, float]:
    given = scale.factors(infos)
    names = {info.name for info in infos}
    for name, factor in given.items():
        check_rate(factor, f'factor of {scale.label} for "{name}"')
        if name not in names:
            raise RateError(f'{scale.label} names "{name}", which the model does not have', help="mend the scale")
    return given


def _product(
    name: str, base: float | None, rule: Rule | None, factors: Sequence[tuple[str, dict[str, float]]]
) -> list[tuple[str, float]]:
    """What the rate is a product of, with labels."""
    if rule is not None and rule.lr is not None:
        return [(f'rule "{rule.label}"', rule.lr)]
    assert base is not None  # param_groups has refused what has no rate
    parts = [("lr", base)]
    if rule is not None and rule.lr_mult is not None:
        parts.append((f'rule "{rule.label}"', rule.lr_mult))
    return parts + [(label, by_name[name]) for label, by_name in factors if by_name.get(name, 1.0) != 1.0]


def _effective(name: str, parts: Sequence[tuple[str, float]]) -> float:
    rate = math.prod(number for _, number in parts)
    if not 0 < rate < math.inf:
        product = " x ".join(f"{number:g} ({label})" for label, number in parts)
        raise RateError(f'the rate of "{name}" comes out as {rate!r}: {product}', help="use milder factors")
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
    warnings.warn(f"{message}; {help}", RateWarning, stacklevel=4)
