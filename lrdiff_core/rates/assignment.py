"""Which rule sets what of each parameter: for every setting, the first rule that matches and has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lrdiff_core.errors import RateError
from lrdiff_core.rates.matching import Match, as_match, describe, help_for_dead, is_one_dimensional, matches, matching
from lrdiff_core.rates.names import ParamInfo, some
from lrdiff_core.rates.rules import Rule

__all__ = ["Assignment", "assign", "without_decay"]

_RATES = ("lr", "lr_mult")  # one setting: whichever rule comes first says how the rate is made


class Assignment(NamedTuple):
    """One setting of one parameter, and where it comes from."""

    setting: str
    value: Any
    rule: Rule
    number: int  # of the rule
    name: str  # by which the rule matched


def assign(
    infos: Sequence[ParamInfo], rules: Sequence[Rule], *, fault: Callable[[str, str], None]
) -> dict[str, dict[str, Assignment]]:
    """What the rules set, by parameter and by setting.

    Args:
        infos: the parameters.
        rules: in order of precedence.
        fault: gets the message and the help for a rule, or a setting of one, without effect.

    Raises:
        RateError: two names of a tied weight are given different values.

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import list_parameters
        >>> rules = [Rule("bias", weight_decay=0.0), Rule("*", lr=0.1, weight_decay=0.2)]
        >>> assigned = assign(list_parameters(nn.Linear(1, 1)), rules, fault=print)
        >>> {key: one.value for key, one in assigned["bias"].items()}
        {'weight_decay': 0.0, 'lr': 0.1}
    """
    assigned: dict[str, dict[str, Assignment]] = {}
    used: list[set[str]] = [set() for _ in rules]  # settings of each rule that came to something
    lost: list[dict[str, dict[str, int]]] = [{} for _ in rules]  # by setting and parameter, the rule that had it first
    matched = [False] * len(rules)
    for info in infos:
        found: dict[str, Assignment] = {}  # by setting, lr and lr_mult being one
        for place in info.occurrences:
            here: dict[str, Assignment] = {}
            for number, rule in enumerate(rules):
                if not matches(rule.match, info, place):
                    continue
                matched[number] = True
                for key, value in rule.settings.items():
                    slot = "rate" if key in _RATES else key
                    first = here.setdefault(slot, Assignment(key, value, rule, number, place.name))
                    if first.number == number:
                        used[number].add(key)
                    else:
                        lost[number].setdefault(key, {})[info.name] = first.number
            for slot, one in here.items():
                _check_tied(info, found.get(slot), one)
                if slot not in found or one.number < found[slot].number:
                    found[slot] = one
        assigned[info.name] = {one.setting: one for one in sorted(found.values(), key=lambda one: one.number)}
    for number, rule in enumerate(rules):
        _check_effect(rule, rules, infos, matched[number], used[number], lost[number], fault)
    return assigned


def _check_tied(info: ParamInfo, one: Assignment | None, other: Assignment) -> None:
    if one is not None and (one.setting, one.value) != (other.setting, other.value):
        first, second = sorted((one, other), key=lambda claim: claim.number)
        names = ", ".join(f'"{place.name}"' for place in info.occurrences)
        raise RateError(
            f'"{first.name}" and "{second.name}" are one tied parameter, claimed by the rules '
            f'"{first.rule.label}" and "{second.rule.label}"',
            help=f"put one rule for all its names before them: Rule([{names}], ...)",
        )


def _check_effect(
    rule: Rule,
    rules: Sequence[Rule],
    infos: Sequence[ParamInfo],
    matched: bool,
    used: set[str],
    lost: dict[str, dict[str, int]],
    fault: Callable[[str, str], None],
) -> None:
    """A rule that matches nothing is dead; so is a setting that rules before it have wherever it matches."""
    if not matched:
        fault(f'rule "{rule.label}" matches no parameter', help_for_dead(rule.match, infos))
        return
    dead = [key for key in rule.settings if key not in used]
    if not dead:
        return
    names = list(dict.fromkeys(name for key in dead for name in lost[key]))
    by = ", ".join(f'"{rules[i].label}"' for i in sorted({i for key in dead for i in lost[key].values()}))
    what = "has no effect" if len(dead) == len(rule.settings) else f"sets {', '.join(dead)} in vain"
    fault(f'rule "{rule.label}" {what}: {by} before it already claims {some(names)}', "put it first, or remove it")


def without_decay(
    infos: Sequence[ParamInfo], given: Sequence[Match], *, fault: Callable[[str, str], None]
) -> dict[str, str]:
    """Names without weight decay, and the match that says so; ``fault`` as for :func:`assign`."""
    found: dict[str, str] = {}
    if isinstance(given, str):
        raise RateError(f'no_weight_decay is "{given}"', help=f'write a list: no_weight_decay=["{given}"]')
    if not isinstance(given, Sequence):
        raise RateError(f"no_weight_decay is {given!r}", help='write a list, such as ["1d"], or []')
    for one in given:
        match = is_one_dimensional if one == "1d" else as_match(one)
        # A model without biases and norms has nothing wrong with it.
        names = [info.name for info in matching(match, infos, "no_weight_decay", fault=_pass if one == "1d" else fault)]
        found = dict.fromkeys(names, f'no_weight_decay "{describe(match)}"') | found
    return found


def _pass(message: str, help: str) -> None:
    return None
