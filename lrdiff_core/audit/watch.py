"""Hooks on every optimizer of the process: which one steps what, and what its sampled steps did to each parameter.

Torch calls two hooks around the step of any optimizer, whoever made it. At every step the groups' rates are read; at
the first steps, and then at every fiftieth, a few entries of each parameter are copied before and after. Where one
optimizer steps another (SAM, Lookahead, a sharded one) the weights are compared around the outer step, and gradients
and moments are those of the inner one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lrdiff_core.audit.asked import Asked, Declared, Factor, of_groups, of_plan
from lrdiff_core.audit.find import Models, fitting_plan, optimizers_of
from lrdiff_core.audit.recognise import Change, expected_rule, recognise
from lrdiff_core.audit.snapshot import Entries, Looks, digits, fingerprint, on_this_rank
from lrdiff_core.audit.stepper import (
    Before,
    Frame,
    Stepper,
    is_on_device,
    is_readable,
    loss_scale,
    unwrapped,
    was_skipped,
    with_gradient_after,
)
from lrdiff_core.audit.track import Sight, Track
from lrdiff_core.rates import ParamInfo, list_parameters
from lrdiff_core.schedules import Schedule

__all__ = ["FIRST", "Watch"]

FIRST = 3  # steps that are looked at before every n-th is
_WHOLE = 2**20  # entries of the matrices that one sampled step looks at whole: each costs as much as a step of Muon


class Watch:
    """Looks at a model while it is trained; :meth:`start`, train, :meth:`stop` (and again), then read the attributes.

    Args:
        model: whose parameters; None: of every model that an optimizer trains, as it comes.
        optimizers: that are to train it.
        asked: by name; what is not there is taken from the groups that step it.
        planned: whether ``asked`` is a plan's: then decays are compared with it, too.
        schedule: of the optimizers.
        every: looks at every so many steps.

    Attributes:
        models: found by what optimizers hold, where no model was given.
        others: optimizers that lived when one of these was first trained, and hold parameters of it.
        infos: the model's parameters, as they were last seen.
        tracks: what was seen of each, by name.
        steppers: the optimizers that stepped, in order.
        twice: pairs of numbers of optimizers that took turns on the same parameters.
    """

    def __init__(
        self,
        model: nn.Module | None,
        optimizers: Sequence[Any],
        *,
        asked: Mapping[str, Asked],
        planned: bool,
        schedule: Schedule | Factor | None,
        every: int,
    ) -> None:
        self.model, self.optimizers = model, list(optimizers)
        self.asked, self.schedule, self.every = dict(asked), schedule, every
        self.planned_names = frozenset(asked) if planned else frozenset()
        self.models = Models()
        self.others: list[torch.optim.Optimizer] = []
        self.infos: list[ParamInfo] = []
        self.names: dict[int, str] = {}
        self.tracks: dict[str, Track] = {}
        self.steppers: list[Stepper] = []
        self.twice: set[tuple[int, int]] = set()
        self._by_id: dict[int, Stepper] = {}
        self._stack: list[Frame] = []
        self._nest: list[Frame] = []
        self._left: dict[str, tuple[Tensor, Entries]] = {}
        self._turns: list[Stepper] = []
        self._undo: list[Callable[[], None]] = []
        self._scan()

    def start(self) -> None:
        """Hook onto every optimizer there is or will be."""
        self._undo = [
            register_optimizer_step_pre_hook(self._before_step).remove,
            register_optimizer_step_post_hook(self._after_step).remove,
        ]
        for stepper in self.steppers:
            self._note_loads(stepper)
        for optimizer in self.optimizers:
            if isinstance(optimizer, torch.optim.Optimizer):
                self._stepper_of(unwrapped(optimizer))
            else:
                self._wrap(optimizer)

    def stop(self) -> None:
        """Take the hooks off and look at the weights for the last time."""
        for undo in self._undo:
            undo()
        self._undo = []
        self._outside()
        self._scan()
        for info in self.infos:
            track = self.tracks[info.name]
            track.end = fingerprint(info.parameter)
            track.trainable = info.parameter.requires_grad

    # -- hooks -------------------------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caller = sys._getframe(1)
        self._unwind(caller)
        if self._stack and self._stack[-1].stepper.optimizer is optimizer:
            self._stack[-1].again += 1
            return
        stepper = self._stepper_of(optimizer)
        stepper.steps += 1
        if not self._stack:
            self._nest = []
            self._outside()
            self._take_turn(stepper)
        due = stepper.steps <= FIRST or stepper.steps % self.every == 0
        if due:
            self._scan_if_changed()
        self._read_groups(stepper, due)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None) is not None
        frame = Frame(stepper, caller, due, closure)
        if due:
            with Looks() as looks:
                self._open(frame, looks)
        self._stack.append(frame)

    def _after_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._stack or self._stack[-1].stepper.optimizer is not optimizer:
            return
        if self._stack[-1].again:
            self._stack[-1].again -= 1
            return
        frame = self._stack.pop()
        if frame.due and not was_skipped(optimizer):
            state = getattr(optimizer, "state", {})
            with Looks() as looks:
                for name, held in frame.looks.items():
                    now = looks.add(held.parameter, state.get(held.parameter), whole=held.whole, gradient=frame.closure)
                    frame.after[name] = now
            self._nest.append(frame)
        if not self._stack and self._nest:
            self._record(self._nest)
            self._nest = []

    def _unwind(self, caller: FrameType) -> None:
        """Forget steps that an exception ended: their caller is no longer among ours."""
        while self._stack:
            above: FrameType | None = caller
            while above is not None and above is not self._stack[-1].caller:
                above = above.f_back
            if above is not None:
                return
            self._stack.pop()

    def _wrap(self, optimizer: Any) -> None:
        """Let the ``step`` of an optimizer that is not one of torch's call the hooks, too."""
        step = optimizer.step

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._before_step(optimizer, (optimizer, *args), kwargs)
            result = step(*args, **kwargs)
            self._after_step(optimizer, (optimizer, *args), kwargs)
            return result

        own = "step" in vars(optimizer)
        optimizer.step = watched
        self._undo.append(lambda: setattr(optimizer, "step", step) if own else delattr(optimizer, "step"))

    # -- who steps what ----------------------------------------------------------------------------------------------

    def _stepper_of(self, optimizer: Any) -> Stepper:
        found = self._by_id.get(id(optimizer))
        if found is None:
            found = self._by_id[id(optimizer)] = Stepper(len(self.steppers), optimizer)
            self.steppers.append(found)
            self._note_loads(found)
        return found

    def _note_loads(self, stepper: Stepper) -> None:
        register = getattr(stepper.optimizer, "register_load_state_dict_post_hook", None)
        if register is not None:
            self._undo.append(register(lambda _: stepper.loaded.append(stepper.steps)).remove)

    def _take_turn(self, stepper: Stepper) -> None:
        """Note where two optimizers step the same parameters in turns: one, the other, and the first again."""
        if not self._turns or self._turns[-1] is not stepper:
            self._turns = [*self._turns[-2:], stepper]
        if len(self._turns) == 3 and self._turns[0] is stepper and self._turns[1].ids & stepper.ids:
            a, b = sorted((stepper.number, self._turns[1].number))
            self.twice.add((a, b))

    def _read_groups(self, stepper: Stepper, due: bool) -> None:
        groups = getattr(stepper.optimizer, "param_groups", [])
        sizes = tuple(len(group["params"]) for group in groups)
        if sizes != stepper.sizes or (due and not stepper.declared):
            ids = {id(parameter) for group in groups for parameter in group["params"]}
            if not ids <= self.names.keys():
                self._scan()
            stepper.sizes, stepper.ids = sizes, frozenset(ids)
            own = of_groups(groups, self.names)
            given = self.planned_names or self.optimizers
            self.asked = {**own, **self.asked} if given else {**self.asked, **own}
            stepper.declared.append(Declared(stepper.optimizer, self.asked, self.names, self.schedule))
        if stepper.declared and (due or not any(is_on_device(group.get("lr")) for group in groups)):
            stepper.declared[-1].read(stepper.steps)

    def _scan(self) -> None:
        if self.model is not None:
            self.infos = list_parameters(self.model)
        else:
            held = self._held()
            self.infos = self.models.parameters(held)
            self.others += optimizers_of(held.values(), but=[*self.others, *(one.optimizer for one in self.steppers)])
            if self.infos and not self.planned_names and (plan := fitting_plan(self.infos)) is not None:
                self.asked |= of_plan(plan)
                self.planned_names = frozenset(self.asked)
        self.names = {id(info.parameter): info.name for info in self.infos}
        for info in self.infos:
            if info.name not in self.tracks:
                parameter = info.parameter
                self.tracks[info.name] = Track(
                    info.name, info.shape, start=fingerprint(parameter), wanted=parameter.requires_grad
                )

    def _held(self) -> dict[str, Tensor]:
        """What the optimizers hold, by a name to fall back on."""
        return {
            f"{stepper.label}.{number}": parameter
            for stepper in self.steppers
            for number, parameter in enumerate(
                parameter for group in getattr(stepper.optimizer, "param_groups", []) for parameter in group["params"]
            )
        }

    def _scan_if_changed(self) -> None:
        for info in self.infos:
            place = info.occurrences[0]
            held = place.owner._parameters.get(place.name.rpartition(".")[2])
            if held is not None and held is not info.parameter:
                self._scan()
                return

    # -- looking -----------------------------------------------------------------------------------------------------

    def _open(self, frame: Frame, looks: Looks) -> None:
        optimizer, left = frame.stepper.optimizer, _WHOLE
        state = getattr(optimizer, "state", {})
        matrices = 0
        for number, group in enumerate(getattr(optimizer, "param_groups", [])):
            options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            promised = expected_rule(optimizer, options)
            for parameter in group["params"]:
                name = self.names.get(id(parameter))
                if name is None or name in frame.looks or not is_readable(parameter):
                    continue
                whole, expected = False, promised
                if promised == "Muon":
                    sharded = on_this_rank(parameter) is not parameter
                    matrices += 1
                    whole = not sharded and matrices > frame.stepper.turn and left > 0
                    left -= parameter.numel() if whole else 0
                    frame.stepper.turn = matrices if whole else frame.stepper.turn
                    if not whole:
                        expected = None
                known = isinstance(options.get("betas"), tuple)  # then nothing is asked of old second moments
                look = looks.add(
                    parameter, state.get(parameter), whole=whole, gradient=not frame.closure, squares=not known
                )
                frame.looks[name] = Before(parameter, number, options, look, whole, expected)
        if matrices and matrices <= frame.stepper.turn:
            frame.stepper.turn = 0

    def _record(self, nest: list[Frame]) -> None:
        """All frames of one outer step, the innermost first."""
        self._left = {}
        for info in self.infos:
            track = self.tracks[info.name]
            track.reached = track.reached or info.parameter.grad is not None
        for place, frame in enumerate(nest):
            declared = frame.stepper.declared[-1]
            scale = loss_scale(frame.stepper.optimizer)
            for name, held in frame.looks.items():
                if name in self._left or name not in self.tracks:
                    continue  # an inner step has it
                before, after = held.look(), frame.after[name]()
                for outer in nest[place + 1 :]:
                    if name in outer.looks and outer.looks[name].whole == held.whole:
                        before = replace(before, weight=outer.looks[name].look().weight)
                        after = replace(after, weight=outer.after[name]().weight)
                self._left[name] = held.parameter, after.weight
                gradients = [one / scale for one in (before.gradient, after.gradient) if one is not None]
                if not all(np.isfinite(one).all() for one in (before.weight, after.weight, *gradients)):
                    continue
                track = self.tracks[name]
                change = Change(
                    before=before,
                    after=after,
                    gradients=[-one for one in gradients] if held.options.get("maximize") else gradients,
                    options=held.options,
                    digits=digits(held.parameter.dtype),
                    shape=tuple(held.parameter.shape) if held.whole else None,
                    hint=held.expected or track.rule,
                )
                # The first step of many rules is the same: it tells nothing of an optimizer that promises none.
                tells = held.expected is not None or frame.stepper.steps > 1
                applied = recognise(change) if tells else None
                if applied is not None and not frame.closure and not applied.at(declared.rates[held.group]):
                    change = with_gradient_after(change, held, scale)
                    applied = recognise(change)
                track.take(
                    Sight(
                        step=frame.stepper.steps,
                        stepper=frame.stepper.number,
                        group=held.group,
                        change=change,
                        applied=applied,
                        asked=declared.asked[name],
                        expected=held.expected,
                        declared=declared.rates[held.group],
                        before=declared.before,
                        factor=declared.factor_of(held.group, frame.stepper.steps),
                        trainable=held.parameter.requires_grad,
                        planned=name in self.planned_names,
                    )
                )

    def _outside(self) -> None:
        """Compare weights with those that the last sampled step left: between steps they stand still."""
        with Looks() as looks:
            found = {
                name: looks.add(parameter, whole=left.size == parameter.numel(), gradient=False)
                for name, (parameter, left) in self._left.items()
            }
        for name, (_, left) in self._left.items():
            now = found[name]().weight
            if now.shape == left.shape and not np.array_equal(now, left):
                self.tracks[name].moved_outside(left, now)
        self._left = {}
