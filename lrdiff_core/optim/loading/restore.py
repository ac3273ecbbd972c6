"""State restored by parameter name into any grouping, strictly.

Torch stores ``param_names`` beside each group and ignores them at load, so groups in another order swap moments and
rates silently. Here names decide where both sides have them; a checkpoint without names is read by position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lrdiff_core.errors import OptimizerError, OptimizerWarning, warn
from lrdiff_core.rates.names import canonical_name

__all__ = ["aligned_twins", "by_name", "label", "load", "names_of", "shown"]

Groups = Sequence[Mapping[str, Any]]

_IMPLEMENTATION = ("foreach", "fused")  # what runs, not what is computed
# What a group keeps; of the rate, the tensor that holds it.
_OWN = ("lr", "name", "param_names", "state_format", *_IMPLEMENTATION)
_SHOWN = 5  # names listed in a message before it only counts
SAME_RATIO = 1e-6  # float32 rates that one scheduler moved agree to this


def load(optimizer: Any, load_by_position: Callable[[Any], None], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Loads by name where both sides have names, else by position; keeps the tensor objects that hold rates.

    ``foreach`` and ``fused`` stay as they are, too: they say what runs and not what is computed, and a checkpoint of
    torch's fused optimizer would otherwise bring torch's own step with it. Names of groups and parameters stay, because
    they say what is here.

    Args:
        optimizer: receives the state.
        load_by_position: torch's own ``load_state_dict``, bound.
        state_dict: what ``state_dict()`` of this or torch's class returned.

    Returns:
        The state dict as torch got it, after all hooks.

    Raises:
        OptimizerError: names that are missing or left over, options that differ within one of our groups, or the
            state of an optimizer of another kind.
    """
    held = [{key: group[key] for key in _OWN if key in group} for group in optimizer.param_groups]
    before = [_planned(group) for group in optimizer.param_groups]
    same_groups = _layout(optimizer.param_groups) == _layout(state_dict["param_groups"])
    # After the hooks that the user registered, which may be there to mend the names.
    accepted: list[dict[str, Any]] = []

    def fit(one: Any, state: dict[str, Any]) -> dict[str, Any]:
        accepted.append(_fit(one, state))
        return accepted[-1]

    hook = optimizer.register_load_state_dict_pre_hook(fit)
    try:
        load_by_position(state_dict)
    finally:
        hook.remove()
    for group, own in zip(optimizer.param_groups, held, strict=True):
        rate, loaded = own.pop("lr"), group["lr"]
        group.pop("state_format", None)
        group.update(own)
        if isinstance(rate, Tensor):
            rate.detach().copy_(loaded) if isinstance(loaded, Tensor) else rate.detach().fill_(loaded)
            group["lr"] = rate
    _keep_counters(optimizer, accepted[-1])
    _warn_of_other_settings(optimizer.param_groups, before, same_groups=same_groups)
    return accepted[-1]


def _keep_counters(optimizer: Any, accepted: Mapping[str, Any]) -> None:
    """Counters as they were saved, in float32: torch counts in its default dtype, and loads in the parameter's."""
    positions = [position for group in accepted["param_groups"] for position in group["params"]]
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for param, position in zip(params, positions, strict=True):
        loaded, saved = optimizer.state.get(param), accepted["state"].get(position)
        for name in optimizer._update.counters if isinstance(loaded, dict) and saved else ():
            number = loaded.get(name)
            if isinstance(number, Tensor) and number.is_floating_point():
                kept = saved[name] if isinstance(saved.get(name), Tensor) else number
                loaded[name] = kept.to(number.device, torch.float32)


def _fit(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    own, saved = names_of(optimizer.param_groups), names_of(state_dict["param_groups"])
    if own is not None and saved is not None and not aligned_twins(optimizer.param_groups, state_dict["param_groups"]):
        state_dict = by_name(state_dict, optimizer.param_groups)
    accepted: dict[str, Any] = optimizer._accept(state_dict)
    return accepted


def names_of(groups: Groups) -> list[str] | None:
    """The names of all parameters in order; None where some have none.

    A flattened state of ``torch.distributed.checkpoint`` carries the names of other groups beside its parameters: a
    list of another length is none.
    """
    if any(len(group.get("param_names", ())) != len(group["params"]) for group in groups):
        return None
    return [name for group in groups for name in group["param_names"]] if groups else None


def aligned_twins(own: Groups, saved: Groups) -> bool:
    """Whether names stand twice (the groups of two models), and both sides list the same names in the same groups."""
    layout = [list(group["param_names"]) for group in own]
    names = [name for group in layout for name in group]
    return len(set(names)) < len(names) and layout == [list(group["param_names"]) for group in saved]


def by_name(state_dict: Mapping[str, Any], groups: Groups) -> dict[str, Any]:
    """The state dict regrouped and reordered to fit ``groups``, parameters matched by name.

    Args:
        state_dict: a state dict whose groups carry ``param_names``.
        groups: the parameter groups to fit, with ``param_names``.

    Returns:
        A new state dict; the tensors are the same.

    Raises:
        OptimizerError: names that are missing, left over or ambiguous, or options that differ within one of our groups.

    Example:
        >>> group = {"lr": 0.1, "params": [0, 1], "param_names": ["a", "b"]}
        >>> saved = {"state": {0: {"step": 3}}, "param_groups": [group]}
        >>> mine = [{"lr": 1.0, "param_names": ["b"]}, {"lr": 1.0, "param_names": ["a"]}]
        >>> by_name(saved, mine)["state"]
        {1: {'step': 3}}
    """
    names = [name for group in groups for name in group["param_names"]]
    saved = [name for group in state_dict["param_groups"] for name in group["param_names"]]
    # What torch.compile or DistributedDataParallel put into the names is looked through only where it matters.
    canonical: Callable[[str], str] = str if set(names) == set(saved) else canonical_name
    wanted, there = list(map(canonical, names)), list(map(canonical, saved))
    for where, listed in (("the optimizer", wanted), ("the checkpoint", there)):
        if len(set(listed)) < len(listed):
            twice = next(name for name in listed if listed.count(name) > 1)
            raise OptimizerError(
                f"{where} holds the name {twice!r} twice",
                help="distinguish the models by plan.groups(prefix=...), or drop param_names from the "
                "checkpoint's groups to load by position",
            )
    missing, left_over = sorted(set(wanted) - set(there)), sorted(set(there) - set(wanted))
    if missing or left_over:
        parts = [f"the checkpoint lacks {shown(missing)}"] if missing else []
        parts += [f"the optimizer lacks {shown(left_over)}"] if left_over else []
        raise OptimizerError(
            "optimizer state does not fit by parameter name: " + "; ".join(parts),
            help="build the optimizer over the same parameters, take what fits with load_state_only(optimizer, state, "
            "partial=True), or drop param_names from the checkpoint's groups to load by position",
        )
    positions = [position for group in state_dict["param_groups"] for position in group["params"]]
    options = [group for group in state_dict["param_groups"] for _ in group["params"]]
    origin = dict(zip(there, zip(positions, options, strict=True), strict=True))
    number = {name: i for i, name in enumerate(wanted)}
    moved = {position: number[name] for name, (position, _) in origin.items()}
    state = {moved.get(key, key): value for key, value in state_dict["state"].items()}
    return {
        **state_dict,
        "state": state,
        "param_groups": [
            _regrouped(group, list(map(canonical, group["param_names"])), origin, number) for group in groups
        ],
    }


def _regrouped(
    group: Mapping[str, Any],
    names: list[str],
    origin: Mapping[str, tuple[int, Mapping[str, Any]]],
    number: Mapping[str, int],
) -> dict[str, Any]:
    """The saved options for one of our groups; every parameter in it must have been saved with the same ones."""
    saved = [_options(origin[name][1]) for name in names]
    for name, options in zip(names, saved, strict=True):
        for key in sorted(options.keys() | saved[0].keys()):
            if key not in options or key not in saved[0] or not _same(options[key], saved[0][key]):
                raise OptimizerError(
                    f"{names[0]} and {name} share a group here but were saved with different {key}: "
                    f"{saved[0].get(key)} and {options.get(key)}",
                    help="give them groups of their own, or keep the optimizer's settings: load_state_only(optimizer, "
                    "state)",
                )
    options = saved[0] if saved else {k: v for k, v in group.items() if k != "params"}
    return {**options, "params": [number[name] for name in names], "param_names": list(group["param_names"])}


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names", "name", "state_format")}


def _same(a: Any, b: Any) -> bool:
    return a is b or bool(a == b)


def label(group: Mapping[str, Any], number: int) -> str:
    """What a message calls a group."""
    name = f'group "{group["name"]}"' if "name" in group else f"group {number}"
    return f"{name} ({shown(group['param_names'])})" if group.get("param_names") else name


def shown(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _planned(group: Mapping[str, Any]) -> dict[str, float] | None:
    """What a plan said about a group, for the groups that come from one: they carry a name."""
    if "name" not in group or not isinstance(group.get("weight_decay", 0.0), int | float):
        return None
    noted = "initial_lr" in group  # by a scheduler, which may have moved the rate since
    lr = float(group["initial_lr"] if noted else group["lr"])
    return {"lr": lr, "weight_decay": float(group.get("weight_decay", 0.0)), "noted": noted}


def _layout(groups: Groups) -> list[Any]:
    return [(len(group["params"]), group.get("param_names")) for group in groups]


def _warn_of_other_settings(groups: Groups, before: Sequence[dict[str, float] | None], *, same_groups: bool) -> None:
    """Warn where a load replaced what a plan said. A rate saved while a scheduler was moving it counts as the same.

    Where both sides note ``initial_lr``, it tells. Where not, what moves all rates by one factor down keeps the plan,
    and between equal groups whatever lowers them (ReduceLROnPlateau has a lowest rate).
    """
    pairs = [
        (str(group["name"]), old, new)
        for group, old in zip(groups, before, strict=True)
        if old is not None and (new := _planned(group)) is not None
    ]
    if not pairs:
        return
    exact = all(old["noted"] and new["noted"] for _, old, new in pairs)
    factors = [1.0 if old["lr"] == new["lr"] else new["lr"] / old["lr"] if old["lr"] else 0.0 for _, old, new in pairs]
    lowered = max(factors) <= 1 + SAME_RATIO
    together = max(factors) - min(factors) <= SAME_RATIO * max(factors)
    moved = lowered and (same_groups or together) and not exact
    parts = [
        f"{key} of {name} {old[key]:g} -> {new[key]:g}"
        for name, old, new in pairs
        for key in (["weight_decay"] if moved else ["lr", "weight_decay"])
        if abs(old[key] - new[key]) > SAME_RATIO * old[key]
    ]
    if parts:
        warn(
            f"loading replaced what the plan said: {shown(parts)}",
            OptimizerWarning,
            help="to keep the optimizer's settings, call load_state_only(optimizer, state) in place of load_state_dict",
        )
