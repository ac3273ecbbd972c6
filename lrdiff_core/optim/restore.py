"""State restored by parameter name into any grouping, strictly.

Torch stores ``param_names`` beside each group and ignores them at load, so groups in another order swap moments and
rates silently. Here names decide where both sides have them; a checkpoint without names is read by position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer

from lrdiff_core.errors import OptimizerError
from lrdiff_core.rates.names import canonical_name

__all__ = ["load", "by_name"]

_IMPLEMENTATION = ("foreach", "fused")
_SHOWN = 5  # names listed in an error before it only counts


def load(optimizer: Optimizer, load_by_position: Callable[[Any], None], state_dict: Mapping[str, Any]) -> None:
    """Loads by name where both sides have names, else by position; keeps the tensor objects that hold rates.

    ``foreach`` and ``fused`` stay as they are, too: they say what runs and not what is computed, and a checkpoint of
    torch's fused optimizer would otherwise bring torch's own step with it.

    Args:
        optimizer: receives the state.
        load_by_position: torch's own ``load_state_dict``, bound.
        state_dict: what ``state_dict()`` of this or torch's class returned.

    Raises:
        OptimizerError: names that are missing or left over, or options that differ within one of our groups.
    """
    held = [{key: group[key] for key in ("lr", *_IMPLEMENTATION) if key in group} for group in optimizer.param_groups]
    # After the hooks that the user registered, which may be there to mend the names.
    hook = optimizer.register_load_state_dict_pre_hook(_match_names)
    try:
        load_by_position(state_dict)
    finally:
        hook.remove()
    for group, own in zip(optimizer.param_groups, held, strict=True):
        rate, loaded = own.pop("lr"), group["lr"]
        group.update(own)
        if isinstance(rate, Tensor):
            rate.detach().copy_(loaded) if isinstance(loaded, Tensor) else rate.detach().fill_(loaded)
            group["lr"] = rate
    for values in optimizer.state.values():
        step = values.get("step") if isinstance(values, dict) else None
        if isinstance(step, Tensor) and step.is_floating_point():
            values["step"] = step.float()  # torch counts in its default dtype, which may be float64


def _match_names(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    both = _named(optimizer.param_groups) and _named(state_dict["param_groups"])
    return by_name(state_dict, optimizer.param_groups) if both else None


def by_name(state_dict: Mapping[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The state dict regrouped and reordered to fit ``groups``, parameters matched by name.

    Args:
        state_dict: a state dict whose groups carry ``param_names``.
        groups: the parameter groups to fit, with ``param_names``.

    Returns:
        A new state dict; the tensors are the same.

    Raises:
        OptimizerError: names that are missing or left over, or options that differ within one of our groups.

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
    origin: dict[str, tuple[int, dict[str, Any]]] = {}
    for group in state_dict["param_groups"]:
        for name, position in zip(group["param_names"], group["params"], strict=True):
            if canonical(name) in origin:
                raise OptimizerError(
                    f"the checkpoint holds the name {name!r} twice", help="save it again with unique parameter names"
                )
            origin[canonical(name)] = (position, group)
    wanted = list(map(canonical, names))
    missing, left_over = sorted(set(wanted) - set(origin)), sorted(set(origin) - set(wanted))
    if missing or left_over:
        parts = [f"the checkpoint lacks {_listed(missing)}"] if missing else []
        parts += [f"the optimizer lacks {_listed(left_over)}"] if left_over else []
        raise OptimizerError(
            "optimizer state does not fit by parameter name: " + "; ".join(parts),
            help="build the optimizer over the same parameters, or drop param_names from the checkpoint's groups "
            "to load by position",
        )
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
    group: dict[str, Any],
    names: list[str],
    origin: Mapping[str, tuple[int, dict[str, Any]]],
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
                    help="give them groups of their own; merged groups need equal options",
                )
    options = saved[0] if saved else {k: v for k, v in group.items() if k != "params"}
    return {**options, "params": [number[name] for name in names], "param_names": list(group["param_names"])}


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _same(a: Any, b: Any) -> bool:
    return a is b or bool(a == b)


def _named(groups: list[dict[str, Any]]) -> bool:
    return all("param_names" in group for group in groups)


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
