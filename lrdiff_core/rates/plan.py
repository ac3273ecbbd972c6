"""The rate plan: one entry a parameter, and the optimizer groups that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates.entry import PlanDiff, PlanEntry
from lrdiff_core.rates.names import ParamInfo, list_parameters, some
from lrdiff_core.rates.rules import Match, Rule, describe, matches
from lrdiff_core.rates.table import WIDTH, plan_table
from lrdiff_core.rates.values import option_names
from lrdiff_core.schedules import Schedule, Shape, as_shape
from lrdiff_core.text import nearest

__all__ = ["RatePlan"]

FORMAT = 1  # of to_dict


class RatePlan:
    """Which parameter learns how fast: complete, exclusive, printable, and stored with a run.

    Made by :func:`param_groups` or :func:`layer_rates`; iterating gives one :class:`PlanEntry` a parameter in model
    order, ``plan["head.weight"]`` the one of that name. Two plans are equal when their entries are.

    A plan changes nothing by itself. ``groups()`` hands out plain optimizer groups; ``apply_freeze()``, ``freeze()``
    and ``unfreeze()`` set ``requires_grad``. Frozen parameters stay in their groups (an optimizer leaves out what has
    no gradient), so neither the groups nor the order of the optimizer's state ever change.
    """

    def __init__(self, entries: Sequence[PlanEntry], infos: Sequence[ParamInfo] | None = None) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._infos = None if infos is None else {info.name: info for info in infos}
        self._freeze_applied = False

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> PlanEntry:
        if name not in self._entries:
            raise RateError(f'the plan has no parameter "{name}"', help=nearest(name, list(self._entries), "it has"))
        return self._entries[name]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, RatePlan) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # compares by value, as a list does

    def __repr__(self) -> str:
        return f"RatePlan({len(self)} parameters, {len(self._merged())} groups)"

    def __str__(self) -> str:
        """One row a parameter: name, shape, rule, rate, decay, frozen, tied with; at most 100 columns."""
        return self.table()

    def table(self, width: int = WIDTH) -> str:
        """The rows of ``print(plan)`` for a screen of another width.

        Where they do not fit, columns without content are left out; then long ties, rules and names lose their middle.

        Example:
            >>> from lrdiff_core.rates import param_groups
            >>> plan = param_groups(nn.ModuleDict({"a_rather_long_name_of_a_layer": nn.Linear(1, 1, bias=False)}))
            >>> print(plan.table(width=60))
            parameter                             shape   rate  decay
            a_rather_long_name_of_a_layer.weight  1x1    0.001      0
            1 parameter in 1 group
        """
        return plan_table(list(self), set(self.frozen), groups=len(self._merged()), width=width)

    def explain(self, name: str) -> str:
        """How a parameter's rate came about.

        Example:
            >>> from lrdiff_core.rates import HeadMultiplier, Rule, param_groups
            >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
            >>> plan = param_groups(model, lr=0.1, rules=[Rule("1", lr_mult=0.5)], scale=[HeadMultiplier(10)])
            >>> plan.explain("1.weight")
            '1.weight: 0.5 = 0.1 (lr) x 0.5 (rule "1") x 10 (HeadMultiplier(10))'
        """
        entry = self[name]
        return f"{name}: {entry.lr:.6g} = " + " x ".join(f"{number:.6g} ({label})" for label, number in entry.factors)

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(
        self, optimizer: type[torch.optim.Optimizer] | None = None, *, tensor_lr: bool | torch.dtype = False
    ) -> list[dict[str, Any]]:
        """Plain torch parameter groups, equal settings merged, in the order of their first parameter in the model.

        Each group has ``params``, ``param_names``, ``lr`` (the effective rate, nothing left to apply),
        ``weight_decay`` and the rules' options. The lists and dictionaries are new at every call.

        Args:
            optimizer: the class that will get the groups: names and values are then checked against it, and a
                ``weight_decay`` of 0 is left out where the class has none.
            tensor_lr: True for a float32 tensor as the rate of each group (a dtype for another one), on the device of
                the group's parameters: what captured graphs and compiled steps want. Each group has its own tensor.

        Raises:
            RateError: the plan freezes parameters and ``apply_freeze()`` was not called; an option that the optimizer
                does not take; a plan without a model (:meth:`bind`).

        Example:
            >>> from lrdiff_core.rates import Rule, param_groups
            >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
            >>> plan = param_groups(model, lr=0.1, rules=[Rule("1", lr=0.01)])
            >>> [(group["param_names"], group["lr"]) for group in plan.groups(torch.optim.AdamW)]
            [(['0.weight', '0.bias'], 0.1), (['1.weight', '1.bias'], 0.01)]
        """
        infos = self._bound()
        if not self._freeze_applied:
            off = [e.name for e in self if e.frozen == infos[e.name].parameter.requires_grad]
            if off:
                state = "freezes" if self[off[0]].frozen else "trains"
                raise RateError(
                    f"the plan {state} parameters that the model does not yet: {some(off)}",
                    help="call plan.apply_freeze() first: it sets requires_grad",
                )
        groups = []
        for members in self._merged().values():
            params = [infos[entry.name].parameter for entry in members]
            entry = members[0]
            group: dict[str, Any] = {"params": params, "param_names": [member.name for member in members]}
            group |= {"lr": entry.lr, "weight_decay": entry.weight_decay, **dict(entry.options)}
            if optimizer is not None:
                _check_against(optimizer, group)
            if tensor_lr:
                dtype = tensor_lr if isinstance(tensor_lr, torch.dtype) else torch.float32
                devices = {param.device for param in params}
                device = devices.pop() if len(devices) == 1 else torch.device("cpu")
                group["lr"] = torch.tensor(entry.lr, dtype=dtype, device=device)
            groups.append(group)
        return groups

    def schedule(
        self, optimizer: torch.optim.Optimizer, *, total_steps: int, shape: str | Shape = "constant"
    ) -> Schedule:
        """A schedule for an optimizer that holds this plan's groups: the rules' own shapes, ``shape`` for the rest.

        Groups that are not of this plan, or added later, take ``shape`` too.
        """
        own = {id(info.parameter): self[name].schedule for name, info in self._bound().items()}
        shapes = [own.get(id(group["params"][0])) or as_shape(shape) for group in optimizer.param_groups]
        return Schedule(optimizer, total_steps=total_steps, shape=shapes, later=shape)

    # -- freezing ----------------------------------------------------------------------------------------------------

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names that are frozen: as planned, and from :meth:`apply_freeze` on as they are in the model."""
        if self._infos is None or not self._freeze_applied:
            return tuple(entry.name for entry in self if entry.frozen)
        return tuple(name for name, info in self._infos.items() if not info.parameter.requires_grad)

    def apply_freeze(self) -> RatePlan:
        """Set ``requires_grad`` of every parameter as planned; gradients of frozen ones are dropped. Returns the plan.

        The one step between a plan that freezes and its optimizer: ``AdamW(plan.apply_freeze().groups())``.
        """
        self._set_frozen({entry.name for entry in self if entry.frozen})
        return self

    def freeze(self, optimizer: torch.optim.Optimizer, pattern: Match) -> list[str]:
        """Freeze what the pattern matches, as in a rule; the optimizer's groups and state stay as they are.

        Returns:
            The names that were not frozen before.
        """
        return self._move(optimizer, pattern, frozen=True)

    def unfreeze(self, optimizer: torch.optim.Optimizer, pattern: Match) -> list[str]:
        """Let what the pattern matches learn from now on; the optimizer's groups and state stay as they are.

        (DistributedDataParallel looks at ``requires_grad`` when it is built: wrap the model again afterwards.)

        Args:
            optimizer: the one that was given this plan's groups.
            pattern: as in a rule.

        Returns:
            The names that were frozen before.

        Raises:
            RateError: the pattern matches nothing, or parameters that the optimizer does not hold.

        Example:
            >>> from lrdiff_core.rates import Rule, param_groups
            >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
            >>> plan = param_groups(model, lr=0.1, rules=[Rule("0", freeze=True)])
            >>> optimizer = torch.optim.AdamW(plan.apply_freeze().groups())
            >>> plan.unfreeze(optimizer, "0.*")
            ['0.weight', '0.bias']
        """
        return self._move(optimizer, pattern, frozen=False)

    def state_dict(self) -> dict[str, Any]:
        """What is frozen now, by name: store it beside the optimizer's state, so that a resume freezes nothing anew."""
        return {"frozen": list(self.frozen)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Freeze exactly what was frozen when the state was taken.

        Raises:
            RateError: the state is not a plan's, or names parameters that this plan does not have.
        """
        ours = isinstance(state_dict, Mapping) and set(state_dict) == {"frozen"}
        if not ours or not isinstance(state_dict["frozen"], list | tuple):
            raise RateError("this state was not written by a RatePlan", help='it should hold one list, "frozen"')
        for name in state_dict["frozen"]:
            self[name]
        self._set_frozen(set(state_dict["frozen"]))

    # -- storing and comparing ---------------------------------------------------------------------------------------

    def bind(self, model: nn.Module) -> RatePlan:
        """The same plan for a model with the same names and shapes, such as one just read from a checkpoint.

        Raises:
            RateError: a name or a shape differs.
        """
        infos = list_parameters(model)
        here = {info.name: tuple(info.parameter.shape) for info in infos}
        there = {entry.name: entry.shape for entry in self}
        wrong = [name for name in there if here.get(name) != there[name]] + [name for name in here if name not in there]
        if wrong:
            raise RateError(
                f"the plan was made for another model; names or shapes differ: {some(wrong)}",
                help="make a new plan for this model with param_groups(...)",
            )
        return RatePlan(list(self), infos)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, as JSON takes them; :meth:`from_dict` reads it back."""
        return {"format": FORMAT, "parameters": [entry.to_dict() for entry in self]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], model: nn.Module | None = None) -> RatePlan:
        """The plan that :meth:`to_dict` wrote; with a model it can hand out groups again.

        Raises:
            RateError: another format, a missing field, or a model that does not fit.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise RateError("this is no rate plan of a known format", help=f"read one with format {FORMAT}")
        try:
            entries = [PlanEntry.from_dict(row) for row in data["parameters"]]
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise RateError(
                f"the stored rate plan is damaged: {problem}", help="make it anew with param_groups(...)"
            ) from problem
        plan = cls(entries)
        if len(plan) < len(entries):
            raise RateError(
                "the stored rate plan is damaged: it names a parameter twice",
                help="make it anew with param_groups(...)",
            )
        return plan if model is None else plan.bind(model)

    def diff(self, other: RatePlan) -> PlanDiff:
        """What has to change to get from this plan to the other; print it, or read its fields."""
        return PlanDiff.between(self._entries, other._entries)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _merged(self) -> dict[tuple[Any, ...], list[PlanEntry]]:
        merged: dict[tuple[Any, ...], list[PlanEntry]] = {}
        for entry in self:
            merged.setdefault(_hashable(entry.settings), []).append(entry)
        return merged

    def _bound(self) -> dict[str, ParamInfo]:
        if self._infos is None:
            raise RateError("the plan was read from a file and has no model", help="call plan.bind(model)")
        return self._infos

    def _move(self, optimizer: torch.optim.Optimizer, pattern: Match, *, frozen: bool) -> list[str]:
        match = Rule(pattern, freeze=frozen).match
        infos = self._bound().values()
        found = [info for info in infos if any(matches(match, info, place) for place in info.occurrences)]
        if not found:
            tops = list(dict.fromkeys(info.name.partition(".")[0] for info in infos))
            raise RateError(
                f'"{describe(match)}" matches no parameter',
                help=nearest(describe(match), tops, "parameters start with"),
            )
        held = {id(param) for group in optimizer.param_groups for param in group["params"]}
        strange = [info.name for info in found if id(info.parameter) not in held]
        if strange:
            raise RateError(
                f"the optimizer does not hold: {some(strange)}", help="give the optimizer plan.groups(), unfiltered"
            )
        changed = [info for info in found if info.parameter.requires_grad == frozen]
        now = {name for name, info in self._bound().items() if not info.parameter.requires_grad}
        names = {info.name for info in changed}
        self._set_frozen(now | names if frozen else now - names)
        return [info.name for info in changed]

    def _set_frozen(self, names: set[str]) -> None:
        infos = self._bound()
        stuck = [n for n, i in infos.items() if n not in names and not _can_learn(i.parameter)]
        if stuck:
            raise RateError(
                f"integer parameters cannot learn: {some(stuck)}", help="leave them frozen: name the others only"
            )
        for name, info in infos.items():
            info.parameter.requires_grad_(name not in names)
            if name in names:
                info.parameter.grad = None  # an optimizer would go on applying a gradient left over
        self._freeze_applied = True


def _can_learn(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


def _hashable(value: Any) -> Any:
    """Settings as a dictionary key, in which True and 1 differ."""
    return tuple(_hashable(v) for v in value) if isinstance(value, tuple) else (type(value).__name__, value)


def _check_against(optimizer: type[torch.optim.Optimizer], group: dict[str, Any]) -> None:
    """Check a group's names and values against an optimizer class; drop a zero decay that it does not know."""
    if not isinstance(optimizer, type):
        raise RateError(f"the optimizer is {optimizer!r}", help="pass the class, such as torch.optim.AdamW")
    known = option_names(optimizer)
    names = some(group["param_names"], 3)
    if known is not None:
        if "weight_decay" not in known and group["weight_decay"] == 0:
            del group["weight_decay"]
        unknown = [key for key in group if key not in known and key not in ("params", "param_names")]
        if unknown:
            raise RateError(
                f'{optimizer.__name__} has no option "{unknown[0]}", set for {names}',
                help=nearest(unknown[0], sorted(known), "its options"),
            )
    settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    try:
        optimizer([nn.Parameter(torch.zeros(1, 1))], **settings)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise RateError(
            f"{optimizer.__name__} refuses the settings of {names}: {problem}", help="change the rule that sets them"
        ) from problem
