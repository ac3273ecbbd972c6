"""The rate plan: one entry a parameter, and the optimizer groups that follow from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lrdiff_core.errors import RateError, RateWarning, warn
from lrdiff_core.rates.matching import Match, as_match, matching
from lrdiff_core.rates.names import ParamInfo, list_parameters, some
from lrdiff_core.rates.options import OptimizerCheck, near_torch_option
from lrdiff_core.rates.plan.bound import BoundModel, departures, held, strangers
from lrdiff_core.rates.plan.entry import PlanDiff, PlanEntry
from lrdiff_core.rates.plan.freezing import STILL_MOVING, Freezing, frozen_names, moving_norms
from lrdiff_core.rates.plan.grouping import group_names, hold_rate_as_tensor, make_groups, merged
from lrdiff_core.rates.plan.table import FOLD_ABOVE, WIDTH, plan_table, rows_of
from lrdiff_core.schedules import Schedule, Shape, as_shape
from lrdiff_core.text import nearest, unlike

__all__ = ["RatePlan"]

FORMAT = 1  # of to_dict


class RatePlan:
    """Which parameter learns how fast: complete, exclusive, printable, and stored with a run.

    Made by :func:`param_groups` or :func:`layer_rates`; iterating gives one :class:`PlanEntry` a parameter in model
    order, ``plan["head.weight"]`` the one of that name. Two plans are equal when their entries are.

    A plan changes nothing by itself. ``groups()`` hands out plain optimizer groups; ``apply_freeze()``, ``freeze()``
    and ``unfreeze()`` set ``requires_grad``. Frozen parameters stay in their groups (an optimizer leaves out what has
    no gradient), so neither the groups nor the order of the optimizer's state ever change.

    Whatever needs the model looks at it anew: parameters that were replaced since (``fully_shard``, ``to_empty``) are
    taken as they are now, a model whose names or shapes have changed is refused.
    """

    def __init__(
        self, entries: Sequence[PlanEntry], bound: BoundModel | None = None, *, notes: Sequence[str] = ()
    ) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._bound = bound
        self._freezing = Freezing()
        self.notes = tuple(notes)  # what the scales found, for the last lines of print(plan)

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
        return f"RatePlan({len(self)} parameters, {len(merged(self))} groups)"

    def __str__(self) -> str:
        """One row a parameter: name, shape, rule, rate, decay, frozen, tied with; at most 100 columns.

        From 33 parameters on, blocks that are equal but for their rates are folded into one (see :meth:`table`).
        """
        return self.table()

    def table(self, width: int = WIDTH, *, full: bool = False) -> str:
        """The rows of ``print(plan)`` for a screen of another width.

        Where they do not fit, columns without content are left out; then long ties, rules and names lose their middle.

        Args:
            width: columns of the screen.
            full: every parameter has its row, however many there are.

        Example:
            >>> from lrdiff_core.rates import LayerDecay, param_groups
            >>> blocks = nn.ModuleList([nn.LayerNorm(4) for _ in range(24)])
            >>> plan = param_groups(nn.ModuleDict({"blocks": blocks, "head": nn.Linear(4, 1)}), scale=[LayerDecay(0.9)])
            >>> print(plan)
            parameter              shape  rule               rate  decay  frozen  tied with
            blocks.{0..23}.weight  4      -     7.977e-05..0.0009      0  -       -
            blocks.{0..23}.bias    4      -     7.977e-05..0.0009      0  -       -
            head.weight            1x4    -                 0.001      0  -       -
            head.bias              1      -                 0.001      0  -       -
            LayerDecay(0.9): 24 blocks of blocks
            50 parameters in 25 groups; equal blocks folded, plan.table(full=True) shows every row
        """
        changes = None if self._bound is None else self._bound.changes()
        frozen = {entry.name for entry in self if entry.frozen} if changes else set(self.frozen)
        notes = [*self.notes, *([f"the model has changed since: {changes}"] if changes else [])]
        if moving := self._moving_norms(frozen):
            notes.append(f"{STILL_MOVING}: {some(moving, 3)}")
        rows = rows_of(self, frozen, fold=not full and len(self) > FOLD_ABOVE)
        return plan_table(rows, notes=notes, groups=len(merged(self)), width=width)

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
        product = " x ".join(f"{factor.value:.6g} ({factor.label})" for factor in entry.factors)
        decay = f"; weight decay {entry.weight_decay:g} ({entry.decay_by})" if entry.decay_by else ""
        return f"{name}: {entry.lr:.6g} = {product}{decay}"

    # -- groups ------------------------------------------------------------------------------------------------------

    def groups(
        self,
        optimizer: type[torch.optim.Optimizer] | None = None,
        *,
        names: bool = True,
        prefix: str = "",
        tensor_lr: bool | torch.dtype = False,
        **arguments: Any,
    ) -> list[dict[str, Any]]:
        """Plain torch parameter groups, equal settings merged, in the order of their first parameter in the model.

        Each group has ``params``, ``param_names``, ``name`` (for logs), ``lr`` (the effective rate, nothing left to
        apply), ``weight_decay`` and the rules' options. The lists and dictionaries are new at every call.

        Args:
            optimizer: the class that will get the groups: names and values are then checked against it, and a
                ``weight_decay`` of 0 is left out where the class has none.
            names: False leaves ``param_names`` out, for an optimizer that others add groups without names to.
            prefix: put before every name, with a dot between, where one optimizer gets the groups of several plans.
            tensor_lr: True for a float32 tensor as the rate of each group (a dtype for another one), on the device of
                the group's parameters: what captured graphs and compiled steps want. Each group has its own tensor.
            arguments: what the class will be given beside the groups, where it needs them to be built.

        Raises:
            RateError: the plan freezes parameters and ``apply_freeze()`` was not called; an option or argument that
                the optimizer does not take; a model that has changed since; a plan without a model (:meth:`bind`).

        Example:
            >>> from lrdiff_core.rates import Rule, param_groups
            >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
            >>> plan = param_groups(model, lr=0.1, rules=[Rule("1", lr=0.01)])
            >>> [(group["name"], group["param_names"], group["lr"]) for group in plan.groups(torch.optim.AdamW)]
            [('0', ['0.weight', '0.bias'], 0.1), ('1', ['1.weight', '1.bias'], 0.01)]
            >>> plan.groups(prefix="generator")[1]["param_names"]
            ['generator.1.weight', 'generator.1.bias']
        """
        infos = self._infos()
        self._refuse_unfrozen(infos)
        if optimizer is None and arguments:
            raise RateError(
                f"groups() got {some(sorted(arguments))} and no optimizer",
                help="give the class they are for first: plan.groups(TheOptimizer, ...)",
            )
        check = None if optimizer is None else OptimizerCheck.of(optimizer, arguments)
        groups = make_groups(self, infos, prefix=prefix, names=names)
        for option in {} if check else dict(pair for entry in self for pair in entry.options):
            if close := near_torch_option(option):
                warn(
                    f'no torch optimizer has the option "{option}"; did you mean {close}?',
                    RateWarning,
                    help="give the optimizer's class, which is then asked: plan.groups(TheOptimizer)",
                )
        for group in groups:
            if check is not None:
                ids = {id(param) for param in group["params"]}
                check.check(group, [info for info in infos.values() if id(info.parameter) in ids])
            if tensor_lr:
                hold_rate_as_tensor(group, tensor_lr if isinstance(tensor_lr, torch.dtype) else torch.float32)
        return groups

    def add_to(self, optimizer: torch.optim.Optimizer, *, prefix: str = "") -> list[str]:
        """Give an optimizer what it does not hold of this plan yet, as groups of their own: a new head, a second model.

        The new groups have names if the optimizer's have.

        Args:
            optimizer: any torch optimizer.
            prefix: put before every name, as in :meth:`groups`.

        Returns:
            The names that were added.

        Raises:
            RateError: as :meth:`groups`; a name that the optimizer holds already.

        Example:
            >>> from lrdiff_core.rates import param_groups
            >>> model, loss = nn.Linear(2, 2), nn.Linear(2, 1, bias=False)
            >>> optimizer = torch.optim.AdamW(param_groups(model, lr=0.1).groups())
            >>> param_groups(loss, lr=0.5).add_to(optimizer, prefix="loss")
            ['loss.weight']
            >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
            [('all', 0.1), ('loss', 0.5)]
        """
        infos = self._infos()
        self._refuse_unfrozen(infos)
        there = held(optimizer)
        named = all("param_names" in group for group in optimizer.param_groups)
        taken = {name for group in optimizer.param_groups for name in group.get("param_names", ())}
        groups = make_groups((one for one in self if id(infos[one.name].parameter) not in there), infos, prefix=prefix)
        twice = [name for group in groups for name in group["param_names"] if name in taken]
        if twice:
            raise RateError(
                f"the optimizer holds other parameters of these names: {some(twice)}",
                help='distinguish the two models: add_to(optimizer, prefix="loss")',
            )
        added = [name for group in groups for name in group["param_names"]]
        labels = [str(group.get("name", "")) for group in optimizer.param_groups]
        for group in groups:
            group["name"] = unlike(group["name"], labels)
            labels.append(group["name"])
            if not named:
                del group["param_names"]
            if "weight_decay" not in optimizer.defaults and group["weight_decay"] == 0:
                del group["weight_decay"]
            optimizer.add_param_group(group)
        return added

    def verify(self, optimizer: torch.optim.Optimizer, *others: RatePlan) -> None:
        """Check that an optimizer holds the model's parameters as they are now, each once and as planned.

        Rates are compared by their base (``initial_lr``) where a scheduler has moved them.

        Args:
            optimizer: any torch optimizer.
            others: the plans of what else it holds, such as a loss with weights; it has to follow them, too.

        Raises:
            RateError: it holds tensors that the model does not have any more, lacks some, or has other settings.

        Example:
            >>> from lrdiff_core.rates import param_groups
            >>> plan = param_groups(nn.Linear(2, 1), lr=0.1)
            >>> plan.verify(torch.optim.AdamW(plan.groups()))
            >>> plan.verify(torch.optim.AdamW(plan.groups()[0]["params"][:1], lr=0.1, weight_decay=0))
            Traceback (most recent call last):
            ...
            lrdiff_core.errors.RateError: the optimizer does not follow the plan: it does not hold bias
            help: build it from plan.groups(), after whatever replaces parameters
        """
        plans = [(plan, plan._infos()) for plan in (self, *others)]
        faults = strangers([info for _, infos in plans for info in infos.values()], optimizer)
        faults += [fault for plan, infos in plans for fault in departures(plan, infos, optimizer)]
        if faults:
            raise RateError(
                f"the optimizer does not follow the plan: {some(faults, 3, '; ')}",
                help="build it from plan.groups(), after whatever replaces parameters",
            )

    def rates_by_name(self, optimizer: torch.optim.Optimizer | None = None) -> dict[str, float]:
        """The rate of each group by its readable name, for any logger: as planned, or as an optimizer has it now.

        Example:
            >>> from lrdiff_core.rates import HeadMultiplier, param_groups
            >>> model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
            >>> param_groups(model, lr=0.1, scale=[HeadMultiplier(10)]).rates_by_name()
            {'body': 0.1, 'head': 1.0}
        """
        groups = merged(self)
        labels = group_names(groups)
        if optimizer is None:
            return {label: members[0].lr for label, members in zip(labels, groups, strict=True)}
        infos = self._infos()
        known = {
            id(infos[entry.name].parameter): label
            for label, members in zip(labels, groups, strict=True)
            for entry in members
        }
        found: dict[str, float] = {}
        for i, group in enumerate(optimizer.param_groups):
            own = next((known[id(param)] for param in group["params"] if id(param) in known), f"group_{i}")
            found[unlike(group.get("name", own), list(found))] = float(group["lr"])
        return found

    def schedule(
        self, optimizer: torch.optim.Optimizer, *, total_steps: int, shape: str | Shape = "constant"
    ) -> Schedule:
        """A schedule for an optimizer that holds this plan's groups: the rules' own shapes, ``shape`` for the rest.

        Groups that are not of this plan, or added later, take ``shape`` too.
        """
        own = {id(info.parameter): self[name].schedule for name, info in self._infos().items()}
        shapes = [own.get(id(group["params"][0])) or as_shape(shape) for group in optimizer.param_groups]
        return Schedule(optimizer, total_steps=total_steps, shape=shapes, later=shape)

    # -- parts -------------------------------------------------------------------------------------------------------

    def part(self, module: nn.Module, *, prefix: str = "") -> RatePlan:
        """What this plan says about a part of its model, such as the stage of a pipeline: the rates of the whole.

        Parameters are recognised by identity, or by name and shape where the part is a copy.

        Args:
            module: holds some of the model's parameters, or copies of them.
            prefix: where the copy's names begin in the whole model, such as ``"encoder.layers"``.

        Raises:
            RateError: the part holds something that the plan does not know.

        Example:
            >>> from lrdiff_core.rates import LayerDecay, param_groups
            >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
            >>> plan = param_groups(model, lr=1.0, scale=[LayerDecay(0.5)])
            >>> [group["lr"] for group in plan.part(model[:2]).groups()]
            [0.25, 0.5]
        """
        whole = (
            {}
            if self._bound is None
            else {
                id(info.parameter): name
                for name, info in self._bound.infos(
                    "take parts before the model itself is cut, or cut a copy of it"
                ).items()
            }
        )
        infos = list_parameters(module)
        plan_names = {i.name: whole.get(id(i.parameter), f"{prefix}.{i.name}" if prefix else i.name) for i in infos}
        unknown = [
            info.name
            for info in infos
            if (known := self._entries.get(plan_names[info.name])) is None or known.shape != info.shape
        ]
        if unknown:
            raise RateError(
                f"the part holds what the plan does not know: {some(unknown)}",
                help="plan the whole model first; for a copy, say where its names begin: part(module, prefix=...)",
            )
        shapes = {plan_names[info.name]: info.shape for info in infos}
        return self._smaller(set(shapes), BoundModel(module, shapes, plan_names))

    def split(self, option: str) -> dict[Any, RatePlan]:
        """Plans for several optimizers: one for each value of an option (None where it is not set), which is left out.

        Example:
            >>> from lrdiff_core.rates import MuonRouter, param_groups
            >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
            >>> plans = param_groups(model, router=MuonRouter(lr=0.02, only_2d=True)).split("use_muon")
            >>> pair = torch.optim.Muon(plans[True].groups()), torch.optim.AdamW(plans[False].groups())
            >>> [[name for group in one.param_groups for name in group["param_names"]] for one in pair]
            [['1.weight'], ['0.weight', '1.bias', '2.weight', '2.bias']]
        """
        values = dict.fromkeys(dict(entry.options).get(option) for entry in self)
        plans = {}
        for value in values:
            plan = self._smaller({e.name for e in self if dict(e.options).get(option) == value}, self._bound)
            plan._entries = {
                name: replace(entry, options=tuple(pair for pair in entry.options if pair[0] != option))
                for name, entry in plan._entries.items()
            }
            plans[value] = plan
        return plans

    # -- freezing ----------------------------------------------------------------------------------------------------

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names that are frozen: as planned, and from :meth:`apply_freeze` on as they are in the model."""
        if self._bound is None or not self._freezing.applied:
            return tuple(entry.name for entry in self if entry.frozen)
        return tuple(frozen_names(self._infos()))

    def apply_freeze(self, *, statistics: str | None = None) -> RatePlan:
        """Set ``requires_grad`` of every parameter as planned; gradients of frozen ones are dropped. Returns the plan.

        The one step between a plan that freezes and its optimizer: ``AdamW(plan.apply_freeze().groups())``.

        Args:
            statistics: what frozen batch norms do in training mode. ``"stop"``: they normalize by the statistics that
                they have stored, which stay as they are, until they are unfrozen. ``"update"``: they normalize by the
                batch and go on moving their statistics, as torch does. None: as ``"update"``, with a warning.

        Example:
            >>> from lrdiff_core.rates import Rule, param_groups
            >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
            >>> plan = param_groups(model, rules=[Rule("0", freeze=True)]).apply_freeze(statistics="stop")
            >>> _ = model.train()(torch.randn(8, 2))
            >>> model[0].running_mean
            tensor([0., 0.])
        """
        self._freezing.choose_statistics(statistics)
        self._freeze_exactly({entry.name for entry in self if entry.frozen})
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
        self._freeze_exactly(set(state_dict["frozen"]))

    # -- storing and comparing ---------------------------------------------------------------------------------------

    def bind(self, model: nn.Module) -> RatePlan:
        """The same plan for a model with the same names and shapes, such as one just read from a checkpoint.

        Raises:
            RateError: a name or a shape differs.
        """
        infos = list_parameters(model)
        here = {info.name: info.shape for info in infos}
        there = {entry.name: entry.shape for entry in self}
        wrong = [name for name in there if here.get(name) != there[name]] + [name for name in here if name not in there]
        if wrong:
            raise RateError(
                f"the plan was made for another model; names or shapes differ: {some(wrong)}",
                help="make a new plan for this model with param_groups(...)",
            )
        return RatePlan(list(self), BoundModel.of(infos), notes=self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, as JSON takes them; :meth:`from_dict` reads it back."""
        return {"format": FORMAT, "parameters": [entry.to_dict() for entry in self], "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], model: nn.Module | None = None) -> RatePlan:
        """The plan that :meth:`to_dict` wrote; with a model it can hand out groups again.

        Raises:
            RateError: another format, a missing field, or a model that does not fit.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise RateError("this is not a rate plan in a known format", help=f"read one with format {FORMAT}")
        try:
            entries = [PlanEntry.from_dict(row) for row in data["parameters"]]
            notes = [str(note) for note in data.get("notes", ())]  # plans of version 0.1 have none
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise RateError(
                f"the stored rate plan is damaged: {problem}", help="make it again with param_groups(...)"
            ) from problem
        plan = cls(entries, notes=notes)
        if len(plan) < len(entries):
            raise RateError(
                "the stored rate plan is damaged: it names a parameter twice",
                help="make it again with param_groups(...)",
            )
        return plan if model is None else plan.bind(model)

    def diff(self, other: RatePlan) -> PlanDiff:
        """What has to change to get from this plan to the other; print it, or read its fields."""
        return PlanDiff.between(self._entries, other._entries)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _infos(self) -> dict[str, ParamInfo]:
        """This plan's parameters as the model has them now."""
        if self._bound is None:
            raise RateError("the plan was read from a file and has no model", help="call plan.bind(model)")
        return {name: info for name, info in self._bound.infos().items() if name in self._entries}

    def _smaller(self, names: Collection[str], bound: BoundModel | None) -> RatePlan:
        plan = RatePlan([entry for entry in self if entry.name in names], bound, notes=self.notes)
        plan._freezing = replace(self._freezing)
        return plan

    def _refuse_unfrozen(self, infos: Mapping[str, ParamInfo]) -> None:
        off = [e.name for e in self if e.frozen == infos[e.name].parameter.requires_grad]
        if off and not self._freezing.applied:
            state = "freezes" if self[off[0]].frozen else "trains"
            raise RateError(
                f"the plan {state} parameters that the model does not yet: {some(off)}",
                help="call plan.apply_freeze() first: it sets requires_grad",
            )

    def _move(self, optimizer: torch.optim.Optimizer, pattern: Match, *, frozen: bool) -> list[str]:
        match = as_match(pattern)
        infos = self._infos()
        found = [info.name for info in matching(match, list(infos.values()), "")]
        there = held(optimizer)
        strange = [name for name in found if id(infos[name].parameter) not in there]
        if strange:
            raise RateError(
                f"the optimizer does not hold: {some(strange)}", help="give the optimizer plan.groups(), unfiltered"
            )
        changed = [name for name in found if infos[name].parameter.requires_grad == frozen]
        now = set(frozen_names(infos))
        self._freeze_exactly(now | set(changed) if frozen else now - set(changed))
        return changed

    def _freeze_exactly(self, names: set[str]) -> None:
        infos = self._infos()
        assert self._bound is not None  # _infos() has refused a plan without a model
        self._freezing.freeze_exactly(names, infos, self._bound.module)

    def _moving_norms(self, frozen: Collection[str]) -> list[str]:
        """Norms whose statistics still move when these parameters are frozen."""
        if self._bound is None or self._bound.changes():
            return []
        infos = self._infos()
        return moving_norms(self._bound.module, {id(infos[name].parameter) for name in frozen})
