"""What an optimizer prepares for its steps: tensors side by side in forms, and the check that they still fit."""

from __future__ import annotations

import collections
import functools
import importlib.util
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, compress
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from lrdiff_core.optim import guard, kernel
from lrdiff_core.optim.formats.form import form_in
from lrdiff_core.optim.forms import (
    Columns,
    ForeachForm,
    Form,
    FusedForm,
    KernelForm,
    Setting,
    Tensors,
    Update,
    columns_of,
)
from lrdiff_core.optim.memory.layout import data_ptr, is_usable, kind_check, laid_out_as, layout_of, never_alike
from lrdiff_core.optim.memory.shards import Divisions, is_sharded, local_parts

__all__ = ["Preparable", "Prepared", "forced_form"]

_grad: Callable[[Tensor], Tensor | None] = vars(torch._C.TensorBase)["grad"].__get__
_params: Callable[[dict[str, Any]], list[Tensor]] = operator.itemgetter("params")
_forced: list[str] = []  # one entry a block that is open


@contextmanager
def forced_form(name: str) -> Iterator[None]:
    """Let what is prepared inside take the form of this name, wherever its tensors are.

    For tests and measurements: it steps the forms of other devices on the CPU.
    """
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


class Preparable(Optimizer):
    """An optimizer whose groups can be prepared: it says how it updates, and how state begins."""

    _update: ClassVar[Update]
    _symbol: ClassVar[str]  # the function of kernel.c

    def _begin(self, param: Tensor, group: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
        """The state that a parameter begins with, as in torch's class, and whether it may be kept before the step.

        Empty where the parameter has its state already or needs none.
        """
        raise NotImplementedError


class Prepared:
    """What one optimizer prepared, and what it was prepared for.

    Args:
        optimizer: whose groups these are.
        covered: indices of the groups that run here; the others are left to PyTorch's own step.
    """

    def __init__(self, optimizer: Preparable, covered: list[int]) -> None:
        update = optimizer._update
        self.covered = covered
        self.left = [i for i in range(len(optimizer.param_groups)) if i not in set(covered)]
        self._update = update
        self._read = operator.itemgetter(*update.setting._fields)
        self.count = len(optimizer.param_groups)
        groups = [optimizer.param_groups[i] for i in covered]
        self.settings: list[Setting] | None = list(map(self._read, groups))  # None: others have been taken over since
        columns = columns_of(update, self.settings) if groups else None
        self.structure = () if columns is None else update.structure(columns)
        self.floating = columns is not None and self._can_move(columns)
        self.formats = [group.get("state_format") for group in groups]
        self.ids = list(map(id, chain.from_iterable(map(_params, groups))))
        owners, state, group, fresh = [], [], [], []
        self.unfilled: dict[Tensor, dict[str, Tensor]] = {}
        for number, entry in enumerate(groups):
            for param in entry["params"]:
                if param.grad is not None:
                    begun, filled = optimizer._begin(param, entry)
                    if begun and filled:
                        optimizer.state[param].update(begun)
                    elif begun:
                        self.unfilled[param] = begun
                    owners.append(param)
                    fresh.append(not filled)
                    # get: asking a defaultdict would make one
                    state.append(optimizer.state.get(param, {}) if filled else begun)
                    group.append(number)
        # Only now: the loop above may have begun the state of parameters seen for the first time.
        self.passing = bool(self.unfilled)
        self.state_ids = list(map(id, optimizer.state.values()))
        self.states = state
        self.owners: list[Tensor] = owners  # as the optimizer has them
        self.params = local_parts(owners)  # as they are stepped
        self.sharded = Divisions(owners) if any(map(is_sharded, owners)) else None
        self.present = [param.grad is not None for param in chain.from_iterable(map(_params, groups))]
        self.absent = not all(self.present)
        self.on_device = not all(param.is_cpu for param in self.params)
        self.fits = never_alike
        self.layouts = list(map(layout_of, self.params))
        self.pointers = self._pointers()
        names = sorted(set(chain.from_iterable(state)))
        self.tensors = Tensors(
            params=self.params,
            state={name: local_parts(entry.get(name) for entry in state) for name in names},
            group=group,
            fresh=fresh,
        )
        self.forms = self._forms(optimizer._symbol, self.settings)
        self.fitted = False  # the step before had all tensors as they were

    def _pointers(self) -> list[int]:
        values = chain.from_iterable(map(dict.values, self.states))
        if self.sharded is None:
            return list(map(data_ptr, chain(self.owners, values)))
        parts = local_parts(self.owners)
        return [*map(data_ptr, chain(parts, local_parts(values))), *map(id, parts)]

    def _forms(self, symbol: str, settings: list[Setting]) -> list[tuple[str, Form, list[int] | None]]:
        """Name, form and positions (None: all in order) of each set of tensors that runs together."""
        chosen: dict[tuple[str, torch.device, torch.dtype, str | None], list[int]] = {}
        for i, (param, group) in enumerate(zip(self.params, self.tensors.group, strict=True)):
            state = {name: values[i] for name, values in self.tensors.state.items() if values[i] is not None}
            kept = self.formats[group]
            name = _form_of(param, state) if kept is None else ""
            chosen.setdefault((name, param.device, param.dtype, kept), []).append(i)
        forms: list[tuple[str, Form, list[int] | None]] = []
        for (name, _, _, kept), positions in chosen.items():
            part = self.tensors.part(positions)
            form: Form
            if kept is not None:
                name, form = form_in(kept, part, self._update, settings, symbol)
            elif name == "kernel":
                form = KernelForm(part, self._update, settings, symbol)
            elif name == "triton":
                from lrdiff_core.optim.triton_adam import TritonForm

                form = TritonForm(part, self._update, settings)
            else:
                form = (FusedForm if name == "fused" else ForeachForm)(part, self._update, settings)
            forms.append((name, form, None if len(chosen) == 1 else positions))
        return forms

    def gather(self, optimizer: Preparable) -> list[Tensor] | None:
        """The gradients of this step, numbers brought up to date; None if what was prepared no longer fits."""
        self.fitted = False
        if len(optimizer.param_groups) != self.count or self.passing:
            return None
        groups = self._own(optimizer)
        settings = list(map(self._read, groups))
        if (settings != self.settings or self.floating) and not self._tune(settings):
            return None
        params = list(chain.from_iterable(map(_params, groups)))
        if list(map(id, params)) != self.ids or list(map(id, optimizer.state.values())) != self.state_ids:
            return None
        if self._pointers() != self.pointers:
            return None
        found = list(map(_grad, params))
        if self.absent:
            if [grad is not None for grad in found] != self.present:
                return None
            found = list(compress(found, self.present))
        if self.sharded is not None:
            found = self.sharded.local_grads(found)
        if self.fits(*self.params, *found):
            self.fitted = True
            return found  # type: ignore[return-value]
        # Data transposed in place keeps its pointer.
        return self.lay_out(found) if list(map(layout_of, self.params)) == self.layouts else None

    def retune(self, optimizer: Preparable) -> tuple[list[Setting], bool] | None:
        """Takes the groups' options over; None if more than numbers changed. Tells them, and whether they can move."""
        settings = list(map(self._read, self._own(optimizer)))
        if (settings != self.settings or self.floating) and not self._tune(settings):
            return None
        return settings, self.floating

    def _own(self, optimizer: Preparable) -> list[dict[str, Any]]:
        groups = optimizer.param_groups
        return [groups[i] for i in self.covered] if self.left else groups

    def watch(self, optimizer: Preparable) -> guard.Guard | None:
        """The compiled check, made after a step for which all was as before; None where it has no place.

        It steps all tensors in one call of the kernel, gradients as they are; and then the groups that are left to
        PyTorch's own step.
        """
        if not self.fitted or len(self.forms) != 1:
            return None
        form, made = self.forms[0][1], guard.load()
        if made is None or not isinstance(form, KernelForm) or self.settings is None:
            return None
        groups = self._own(optimizer)
        made_for = guard.make(
            made,
            params=list(chain.from_iterable(map(_params, groups))),
            locals_=self.params,
            sizes=list(map(len, map(_params, groups))),
            present=self.present,
            states=self.states,
            pointers=self.pointers,
            every_state=list(optimizer.state.values()),
            names=self._update.setting._fields,
            settings=self.settings,
            prepared=self,
            floating=self.floating,
            places=form.places,
            group_places=self.covered,
            all_groups=self.count,
        )
        return guard.Partly(made_for, self.left) if made_for is not None and self.left else made_for

    def lay_out(self, found: Sequence[Tensor | None] | None = None) -> list[Tensor] | None:
        """The gradients in memory as their parameters are (on the CPU); None if a form of ours cannot take them.

        Args:
            found: the gradients; None takes those that the parameters hold now.
        """
        if found is None:
            found = list(map(_grad, self.owners))
            found = found if self.sharded is None else self.sharded.local_grads(found)
        grads = [grad for param, grad in zip(self.params, found, strict=True) if is_usable(grad, param)]
        if len(grads) < len(found):
            return None
        laid_out = list(map(laid_out_as, self.params, grads))
        if all(map(operator.is_, laid_out, grads)):
            self.fits = kind_check([*self.params, *grads])
        return laid_out

    def _tune(self, settings: list[Setting]) -> bool:
        """Takes new numbers; False if more than numbers changed."""
        columns = columns_of(self._update, settings)
        if self._update.structure(columns) != self.structure:
            return False
        self.settings = None  # should a signal break off what follows
        if not all(form.tune(settings, columns) for _, form, _ in self.forms):
            return False
        self.floating = self._can_move(columns)
        self.settings = settings
        return True

    def _can_move(self, columns: Columns) -> bool:
        """Whether some numbers are held in tensors, arrays or lists, which change without becoming other objects."""
        given = [getattr(columns, name) for name in self._update.required]  # the pairs of betas, and what is in them
        numbers = chain(*given, *self._update.numbers(columns))
        return not all(issubclass(kind, int | float | tuple) for kind in set(map(type, numbers)))

    def run(self, grads: list[Tensor], optimizer: Preparable) -> None:
        """Step once, with gradients in the order of the parameters."""
        kept = [optimizer.state[param] for param in self.unfilled] if self.unfilled else None
        for _, form, positions in self.forms:
            form.run(grads if positions is None else [grads[i] for i in positions])
        if self.sharded is not None:  # the forms told autograd of the local parts
            torch.autograd.graph.increment_version(self.owners)
        if kept:  # only now, and in one call: a step that is broken off leaves no empty buffer
            collections.deque(map(dict.update, kept, self.unfilled.values()), maxlen=0)


def _form_of(param: Tensor, state: dict[str, Any]) -> str:
    if _forced:
        return _forced[-1]
    if param.is_cpu:
        return "kernel" if param.dtype is torch.float32 and kernel.load() is not None else "fused"
    # torch's fused CUDA kernels read the step on the device, where only capturable (or SGD, which has none) puts it.
    if "step" not in state or not state["step"].is_cpu:
        return "fused"
    rows = all(tensor.is_contiguous() for tensor in (param, *state.values()))
    return (
        "triton"
        if rows and param.dtype is torch.float32 and os.environ.get("LRDIFF_TRITON") == "1" and _has_triton()
        else "foreach"
    )


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
