"""Rates of any model in the words of a command line or of a settings file: one grammar for both.

``lrdiff rates MODULE:FACTORY --lr 0.01 --layer-decay 0.8 --rule "head lr=0.1"`` and ::

    [rates]
    lr = 0.01
    layer_decay = 0.8
    head = 0.1

say the same: a key that is no argument of :func:`make_plan` names a layer or a pattern, and its number is the rate.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lrdiff_core.errors import ConfigError, RateError
from lrdiff_core.rates import HeadMultiplier, LayerDecay, MuonRouter, RatePlan, Rule, Scale, Slices, param_groups
from lrdiff_core.rates.values import check_rate

__all__ = ["make_plan", "make_scales", "plan_from_settings"]

_LISTS = ("rules", "no_weight_decay", "freeze", "layers")


def plan_from_settings(model: nn.Module, settings: Mapping[str, Any], **defaults: Any) -> RatePlan:
    """The plan that a ``[rates]`` table says.

    Args:
        model: any module.
        settings: arguments of :func:`make_plan`, and rates of layers or patterns by their names.
        defaults: of arguments that the table leaves out.

    Raises:
        ConfigError: a value of another type than its key takes.
        RateError: as :func:`make_plan`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> plan = plan_from_settings(model, {"lr": 0.1, "layer_decay": 0.5, "1.bias": 0.7})
        >>> [entry.lr for entry in plan]
        [0.05, 0.05, 0.1, 0.7]
    """
    arguments: dict[str, Any] = dict(defaults)
    rules: list[Rule] = []
    for key, value in settings.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key not in _ARGUMENTS or (key in ("head", "layers", "by") and number):  # names that layers often have
            what = f'learning rate of "{key}"'
            pattern = key[1:-1] if len(key) > 2 and key[0] == key[-1] == "/" else key
            rules.append(Rule(pattern, kind="auto" if pattern == key else "regex", lr=check_rate(value, what)))
            continue
        if key in _LISTS:
            value = [value] if isinstance(value, str) else value
            wrong = not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value)
        else:
            wrong = not (isinstance(value, str) if key in ("slices", "head", "by") else number)
        if wrong:
            kinds = "a list of texts" if key in _LISTS else "a text" if key in ("slices", "head", "by") else "a number"
            raise ConfigError(f"{key} in [rates] is {value!r}", help=f"write {kinds}")
        arguments[key] = value
    return make_plan(model, named=rules, **arguments)


def make_plan(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    rules: Sequence[str] = (),
    no_weight_decay: Sequence[str] = (),
    layer_decay: float | None = None,
    slices: str | None = None,
    head_multiplier: float | None = None,
    head: str | None = None,
    layers: Sequence[str] = (),
    by: str | None = None,
    freeze: Sequence[str] = (),
    named: Sequence[Rule] = (),
    router: MuonRouter | None = None,
) -> RatePlan:
    """A plan from what a command line can say.

    Args:
        model: any module.
        lr: the base rate.
        weight_decay: for all that nothing else is said about.
        rules: one line each, as :meth:`lrdiff_core.rates.Rule.parse` reads them.
        no_weight_decay: ``1d``, or a match as in a rule.
        layer_decay, slices, head_multiplier, head, layers, by: see :func:`make_scales`.
        freeze: matches as in a rule, of what does not learn.
        router: as for :func:`lrdiff_core.rates.param_groups`.
        named: further rules; those of the longest names come first, so that a layer wins inside what holds it.

    Raises:
        RateError: a rule or a number that cannot be, or does not fit the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> plan = make_plan(model, lr=0.1, rules=["1.bias lr=0.5"], layer_decay=0.5)
        >>> [entry.lr for entry in plan]
        [0.05, 0.05, 0.1, 0.5]
    """
    # The rule's own reader knows globs, names and /expressions/ alike.
    undecayed = [one if one == "1d" else Rule.parse(f"{one} weight_decay=0").match for one in no_weight_decay]
    return param_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        rules=[
            *(Rule.parse(f"{one} freeze") for one in freeze),
            *(Rule.parse(text) for text in rules),
            *sorted(named, key=lambda rule: -rule.label.count(".")),
        ],
        scale=make_scales(
            layer_decay=layer_decay, slices=slices, head_multiplier=head_multiplier, head=head, layers=layers, by=by
        ),
        no_weight_decay=undecayed,
        router=router,
    )


def make_scales(
    *,
    layer_decay: float | None = None,
    slices: str | None = None,
    head_multiplier: float | None = None,
    head: str | None = None,
    layers: Sequence[str] = (),
    by: str | None = None,
) -> list[Scale]:
    """The scales that a command line asks for.

    Args:
        layer_decay: factor from a layer to the one below it.
        slices: ``LO:HI``, the first and the last layer's fraction of the base rate.
        head_multiplier: factor of the head.
        head: what the head is, as the match of a rule.
        layers: none: found in the module tree; one: the module that holds the blocks; several: the layers themselves.
        by: ``block`` or ``stage``: what a layer is.

    Raises:
        RateError: a number that cannot be.

    Example:
        >>> [scale.label for scale in make_scales(layer_decay=0.9, slices="0.01:1")]
        ['LayerDecay(0.9)', 'Slices(0.01, 1)']
    """
    where = None if not layers else layers[0] if len(layers) == 1 else list(layers)
    scales: list[Scale] = []
    if layer_decay is not None:
        scales.append(LayerDecay(layer_decay, where, by))
    if slices is not None:
        low, high = _two_numbers(slices)
        scales.append(Slices(low, high, where, by))
    if head_multiplier is not None:
        scales.append(HeadMultiplier(head_multiplier, None if head is None else Rule.parse(f"{head} freeze").match))
    return scales


def _two_numbers(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise RateError(
            f'slices are "{text}"', help="write two fractions of the base rate, LO:HI, such as 0.01:1"
        ) from None
    return low, high


_ARGUMENTS = tuple(name for name in inspect.signature(make_plan).parameters if name not in ("model", "named", "router"))
