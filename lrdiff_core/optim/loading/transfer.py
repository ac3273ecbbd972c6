"""The state of one run into the optimizer of another: moments and step counts are taken, settings stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim.formats.state import told
from lrdiff_core.optim.loading.restore import aligned_twins, names_of, shown
from lrdiff_core.rates.names import canonical_name
from lrdiff_core.text import count

__all__ = ["LoadReport", "load_state_only"]

# State that has its parameter's shape in every optimizer of torch; what others hold is taken as it is.
LIKE_THE_PARAMETER = frozenset(
    (
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer"),
        *("square_avg", "grad_avg", "acc_delta", "sum", "variance", "ax", "prev", "step_size", "z"),
        *("param_low", "exp_avg_codes", "exp_avg_sq_codes"),
    )
)
# Not reported as kept: labels, what a scheduler notes, and what says how a step is run.
UNTOLD = frozenset(("params", "param_names", "name", "initial_lr", "foreach", "fused", "capturable", "differentiable"))
MOST_PROBLEMS = 3  # told in an error
NO_STATE = "saved without state: it was not stepped"


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What :func:`load_state_only` took, kept and did not find; ``print`` it.

    Args:
        taken: names of the parameters whose state is the checkpoint's now; ``#0``, ``#1``, ... by position.
        fresh: the others, each with the reason; what state they had, they have.
        unused: names of the checkpoint that the optimizer does not hold.
        kept: settings that differ: parameter, setting, value here, value in the checkpoint.
        by: ``"name"`` or ``"position"``.
    """

    taken: tuple[str, ...]
    fresh: Mapping[str, str]
    unused: tuple[str, ...]
    kept: tuple[tuple[str, str, Any, Any], ...]
    by: str

    def __str__(self) -> str:
        lines = [f"state of {count(len(self.taken), 'parameter')} taken by {self.by}; settings stay"]
        together: dict[tuple[str, str, str], list[str]] = {}
        for name, key, own, saved in self.kept:
            together.setdefault((key, _text(own), _text(saved)), []).append(name)
        lines += [
            f"kept: {key} {own} of {shown(names)} (saved with {saved})" for (key, own, saved), names in together.items()
        ]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.fresh.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"not taken: {shown(names)} ({reason})" for reason, names in reasons.items()]
        lines += [f"not here: {shown(self.unused)}"] if self.unused else []
        return "\n".join(lines)


@dataclass(frozen=True)
class _Saved:
    """One parameter of a checkpoint: its state, the settings of its group, and its name there ("" by position)."""

    state: Mapping[str, Any]
    settings: Mapping[str, Any]
    name: str = ""


def load_state_only(
    optimizer: Optimizer,
    state_dict: Mapping[str, Any],
    *,
    partial: bool = False,
    names: Sequence[str] | None = None,
) -> LoadReport:
    """Take moments and step counts from a checkpoint and keep every setting of the optimizer: rates, decay, betas.

    ``load_state_dict`` takes the checkpoint's settings, as torch does: a plan of 1e-4 and 1e-2 has one rate of 1e-3
    after the state of ``AdamW(model.named_parameters(), lr=1e-3)``. This function keeps the plan's. Parameters are
    matched by name, whatever the grouping; by position where one side has no names.

    Args:
        optimizer: any torch optimizer, ours or torch's.
        state_dict: what the ``state_dict()`` of an optimizer of the same kind returned.
        partial: True takes what fits (a new head, adapters, another number of classes); False refuses a checkpoint
            that does not hold all parameters, or holds others.
        names: names of the checkpoint's parameters in their order, for a checkpoint without names: those of
            ``model.named_parameters()`` for ``AdamW(model.parameters())``.

    Returns:
        What was taken, kept and missing.

    Raises:
        OptimizerError: (unless partial) names that are missing or left over, or state of another shape or kind;
            names that are ambiguous, or too few; no names, and groups of other sizes.

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import AdamW
        >>> model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
        >>> old = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
        >>> model["head"](model["body"](torch.ones(2))).backward()
        >>> old.step()
        >>> body, head = (list(model[part].named_parameters(part)) for part in ("body", "head"))
        >>> optimizer = AdamW([{"params": body, "lr": 1e-4}, {"params": head, "lr": 1e-2}])
        >>> print(load_state_only(optimizer, old.state_dict()))
        state of 4 parameters taken by name; settings stay
        kept: lr 0.0001 of body.weight, body.bias (saved with 0.001)
        kept: lr 0.01 of head.weight, head.bias (saved with 0.001)
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise OptimizerError("this is not the state of an optimizer", help="give what optimizer.state_dict() returned")
    params = [param for group in optimizer.param_groups for param in group["params"]]
    own, saved = _matched(optimizer, state_dict, names)
    fresh: dict[str, str] = {}
    taken: dict[int, Mapping[str, Any]] = {}
    kept: list[tuple[str, str, Any, Any]] = []
    for number, (name, param, group) in enumerate(zip(own, params, _group_of_each(optimizer), strict=True)):
        if name not in saved:
            fresh[name] = "not in the checkpoint"
            continue
        kept += _differences(name, group, saved[name].settings)
        misfit = _misfit(optimizer, group, param, saved[name].state)
        if misfit is None:
            taken[number] = saved[name].state
        else:
            fresh[name] = misfit
    here = set(own)
    unused = tuple(part.name for name, part in saved.items() if name not in here)
    parts = [f"{name} is {reason}" for name, reason in fresh.items() if reason != NO_STATE]
    parts += [f"the optimizer lacks {shown(unused)}"] if unused else []
    if parts and not partial:
        more = f" and {len(parts) - MOST_PROBLEMS} more" if len(parts) > MOST_PROBLEMS else ""
        raise OptimizerError(
            f"optimizer state does not fit: {'; '.join(parts[:MOST_PROBLEMS])}{more}",
            help="take what fits with load_state_only(optimizer, state, partial=True); it reports the rest",
        )
    _put_in(optimizer, taken)
    by = "position" if all(part.name == "" for part in saved.values()) else "name"
    return LoadReport(taken=tuple(own[i] for i in taken), fresh=fresh, unused=unused, kept=tuple(kept), by=by)


def _matched(
    optimizer: Optimizer, state_dict: Mapping[str, Any], names: Sequence[str] | None
) -> tuple[list[str], dict[str, _Saved]]:
    """Names of the optimizer's parameters, and the checkpoint's parameters by these names."""
    own, there = names_of(optimizer.param_groups), _names_in(state_dict, names)
    parts = list(_parts(state_dict))
    twins = own and there and names is None and aligned_twins(optimizer.param_groups, state_dict["param_groups"])
    if own is None or there is None or twins:
        _check_sizes(optimizer, state_dict, named=(own is not None, there is not None))
        labels = [f"#{number}" for number in range(len(parts))] if own is None or twins else own
        return labels, dict(zip(labels, parts, strict=True))
    _refuse_twins(own)
    _refuse_twins(there)
    # What torch.compile or DistributedDataParallel put into the names is looked through where they do not agree.
    looked_through = {canonical_name(name): name for name in own}
    own_names = {name: name if name in set(own) else looked_through.get(canonical_name(name), name) for name in there}
    _refuse_twins(list(own_names.values()))
    return own, {own_names[name]: replace(part, name=name) for name, part in zip(there, parts, strict=True)}


def _names_in(state_dict: Mapping[str, Any], given: Sequence[str] | None) -> list[str] | None:
    """The names of the checkpoint's parameters in order; None if it has none."""
    groups = state_dict["param_groups"]
    positions = [position for group in groups for position in group["params"]]
    if given is None:
        # torch.distributed.checkpoint puts names in place of positions.
        return positions if positions and isinstance(positions[0], str) else names_of(groups)
    if len(given) != len(positions):
        raise OptimizerError(
            f"the checkpoint holds {len(positions)} parameters, {len(given)} names are given",
            help="give the names in the order in which its optimizer got the parameters",
        )
    return list(given)


def _check_sizes(optimizer: Optimizer, state_dict: Mapping[str, Any], named: tuple[bool, bool]) -> None:
    here = [len(group["params"]) for group in optimizer.param_groups]
    there = [len(group["params"]) for group in state_dict["param_groups"]]
    if here != there:
        sides = zip(("the optimizer", "the checkpoint"), named, strict=True)
        raise OptimizerError(
            f"{' and '.join(side for side, has in sides if not has)} has no parameter names, and groups of {here} "
            f"parameters do not fit groups of {there}",
            help="build the optimizer from plan.groups() or named_parameters(), and name the checkpoint's parameters: "
            "names=[name for name, _ in model.named_parameters()]",
        )


def _parts(state_dict: Mapping[str, Any]) -> Iterator[_Saved]:
    for group in state_dict["param_groups"]:
        for position in group["params"]:
            yield _Saved(state_dict["state"].get(position, {}), group)


def _refuse_twins(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise OptimizerError(
            f"two parameters have the name {twice!r}", help="distinguish the models by plan.groups(prefix=...)"
        )


def _group_of_each(optimizer: Optimizer) -> Iterator[dict[str, Any]]:
    for group in optimizer.param_groups:
        for _ in group["params"]:
            yield group


def _differences(name: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """Settings that both have with other values; of a rate that a scheduler moves, its base."""
    own, saved = ({**one, "lr": one.get("initial_lr", one.get("lr"))} for one in (own, saved))
    keys = [key for key in own if key in saved and key not in UNTOLD]
    return [(name, key, own[key], saved[key]) for key in keys if _plain(own[key]) != _plain(saved[key])]


def _misfit(optimizer: Any, group: Mapping[str, Any], param: Tensor, state: Mapping[str, Any]) -> str | None:
    """Why a saved state cannot be this parameter's; None if it can."""
    if not state:
        return NO_STATE
    for key, value in state.items():
        alike = not isinstance(value, Tensor) or key not in LIKE_THE_PARAMETER or value.shape == param.shape
        if not alike:
            return f"saved with the shape {list(value.shape)}, here {list(param.shape)}"
    needed = optimizer._needed_state(group) if hasattr(optimizer, "_needed_state") else optimizer.state.get(param, {})
    missing = sorted(set(needed) - told(state))
    if missing:
        return f"saved by another kind of optimizer, without {shown(missing)}"
    return None


def _put_in(optimizer: Optimizer, taken: Mapping[int, Mapping[str, Any]]) -> None:
    """Load through torch's own path, for its casts and hooks; every value of the groups is put back as it was."""
    held = [dict(group) for group in optimizer.param_groups]
    ours = optimizer.state_dict()
    optimizer.load_state_dict({**ours, "state": {**ours["state"], **taken}})
    for group, values in zip(optimizer.param_groups, held, strict=True):
        group.update(values)


def _plain(value: Any) -> Any:
    """Numbers out of tensors and arrays, lists as tuples, so that equal settings are found equal."""
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") else value


def _text(value: Any) -> str:
    value = _plain(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
