"""The part that all optimizers share: one prepared pass over all parameter groups instead of one pass for each.

How a step goes
    1. What was prepared is compared with what is there (:meth:`Plan.gather`): groups and their options, parameters,
       gradients, state. Only pointers, types and numbers are compared; nothing is built again while they agree.
    2. Changed numbers (a scheduler's new rate) are written into the prepared tables. Any other change - a group added,
       a gradient that appears, data swapped, state loaded - prepares anew.
    3. Each form (see ``forms.py``) runs once.

Which form a group's tensors get is a fixed rule (:meth:`OnePass.forms` tells what was chosen):
    * torch: the group is stepped by PyTorch's own class, exactly as there, if ``foreach`` or ``fused`` is given, if
      ``differentiable`` is on, or ``capturable`` off CUDA, or a number is held on a device without ``capturable``, or
      if a parameter, gradient or state is sparse, complex, a tensor subclass, repeated, overlapping another parameter,
      on a device other than CPU or CUDA, or (CPU) of a dtype not named below; on the CPU also if a parameter leaves
      gaps in its memory, or its state lies in another order than itself (rows, channels last, transposed);
    * kernel: CPU and float32, where the C compiler is here;
    * fused: CPU otherwise; float32 and float64, and bfloat16 and float16 for Adam and AdamW;
    * foreach: CUDA, Adam and AdamW; with ``capturable``, and for SGD, fused;
    * triton: CUDA, Adam and AdamW, float32, with ``LRDIFF_TRITON=1`` in the environment.
A rule that takes each number by itself can step memory in whatever order, as long as parameter, state and gradient
share it. A gradient in another order (or a view that its memory does not tell: negated, ZeroTensor) is copied into the
parameter's.

Everything else - constructor, ``state_dict``, hooks, ``add_param_group``, pickling - is PyTorch's own code, inherited.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import operator
import os
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import chain, compress
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import kernel, restore
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
    data_ptr,
)

__all__ = ["OnePass", "Plan"]

_grad: Callable[[Tensor], Tensor | None] = vars(torch._C.TensorBase)["grad"].__get__
_params: Callable[[dict[str, Any]], list[Tensor]] = operator.itemgetter("params")


class Plan:
    """What one optimizer prepared, and what it was prepared for.

    Args:
        optimizer: whose groups these are.
        covered: indices of the groups that run here; the others are left to PyTorch's own step.
    """

    def __init__(self, optimizer: OnePass, covered: list[int]) -> None:
        update = optimizer._update
        self.covered = covered
        self.left = [i for i in range(len(optimizer.param_groups)) if i not in set(covered)]
        self._update = update
        self._read = operator.itemgetter(*update.setting._fields)
        self.count = len(optimizer.param_groups)
        groups = [optimizer.param_groups[i] for i in covered]
        self.settings: list[Setting] = list(map(self._read, groups))
        columns = columns_of(update, self.settings) if groups else None
        self.structure = () if columns is None else update.structure(columns)
        self.floating = columns is not None and self._can_move(columns)
        self.ids = list(map(id, chain.from_iterable(map(_params, groups))))
        self.params, state, group, fresh = [], [], [], []
        self.unfilled: dict[Tensor, dict[str, Tensor]] = {}
        for number, entry in enumerate(groups):
            for param in entry["params"]:
                if param.grad is not None:
                    begun, filled = optimizer._begin(param, entry)
                    if begun and filled:
                        optimizer.state[param].update(begun)
                    elif begun:
                        self.unfilled[param] = begun
                    self.params.append(param)
                    fresh.append(not filled)
                    # get: asking a defaultdict would make one
                    state.append(optimizer.state.get(param, {}) if filled else begun)
                    group.append(number)
        # Only now: the loop above may have begun the state of parameters seen for the first time.
        self.passing = bool(self.unfilled)
        self.state_ids = list(map(id, optimizer.state.values()))
        self.states = state
        self.present = [param.grad is not None for param in chain.from_iterable(map(_params, groups))]
        self.absent = not all(self.present)
        self.on_device = not all(param.is_cpu for param in self.params)
        self.fits = _never
        self.layouts = list(map(_layout, self.params))
        self.pointers = self._pointers()
        names = sorted(set(chain.from_iterable(state)))
        self.tensors = Tensors(
            params=self.params,
            state={name: [entry.get(name) for entry in state] for name in names},  # type: ignore[misc]
            group=group,
            fresh=fresh,
        )
        self.forms = self._forms(optimizer._symbol)

    def _pointers(self) -> list[int]:
        return list(map(data_ptr, chain(self.params, chain.from_iterable(map(dict.values, self.states)))))

    def _forms(self, symbol: str) -> list[tuple[str, Form, list[int] | None]]:
        """Name, form and positions (None: all in order) of each set of tensors that runs together."""
        chosen: dict[tuple[str, torch.device, torch.dtype], list[int]] = {}
        for i, param in enumerate(self.params):
            chosen.setdefault((_form_of(param, self.states[i]), param.device, param.dtype), []).append(i)
        forms: list[tuple[str, Form, list[int] | None]] = []
        for (name, _, _), positions in chosen.items():
            part = self.tensors.part(positions)
            form: Form
            if name == "kernel":
                form = KernelForm(part, self._update, self.settings, symbol)
            elif name == "triton":
                from lrdiff_core.optim.triton_adam import TritonForm

                form = TritonForm(part, self._update, self.settings)
            else:
                form = (FusedForm if name == "fused" else ForeachForm)(part, self._update, self.settings)
            forms.append((name, form, None if len(chosen) == 1 else positions))
        return forms

    def gather(self, optimizer: OnePass) -> list[Tensor] | None:
        """The gradients of this step if the plan still fits, its numbers brought up to date; None if it does not."""
        groups = optimizer.param_groups
        if len(groups) != self.count or self.passing:
            return None
        if self.left:
            groups = [groups[i] for i in self.covered]
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
        if self.fits(*self.params, *found):
            return found  # type: ignore[return-value]
        # Data transposed in place keeps its pointer.
        return self.lay_out(found) if list(map(_layout, self.params)) == self.layouts else None

    def lay_out(self, found: Sequence[Tensor | None]) -> list[Tensor] | None:
        """The gradients, on the CPU in memory as their parameters are; None if a form of ours cannot take them."""
        grads = [grad for param, grad in zip(self.params, found, strict=True) if _usable(grad, param)]
        if len(grads) < len(found):
            return None
        laid_out = list(map(_laid_out, self.params, grads))
        if all(map(operator.is_, laid_out, grads)):
            self.fits = _watch([*self.params, *grads])
        return laid_out

    def _tune(self, settings: list[Setting]) -> bool:
        """Takes new numbers; False if more than numbers changed."""
        columns = columns_of(self._update, settings)
        if self._update.structure(columns) != self.structure:
            return False
        self.settings = settings
        self.floating = self._can_move(columns)
        return all(form.tune(settings, columns) for _, form, _ in self.forms)

    def _can_move(self, columns: Columns) -> bool:
        """Whether some numbers are held in tensors, arrays or lists, which change without becoming other objects."""
        given = [getattr(columns, name) for name in self._update.required]  # the pairs of betas, and what is in them
        numbers = chain(*given, *self._update.numbers(columns))
        return not all(issubclass(kind, int | float | tuple) for kind in set(map(type, numbers)))

    def run(self, grads: list[Tensor], optimizer: OnePass) -> None:
        """Step once, with gradients in the order of the parameters."""
        kept = [optimizer.state[param] for param in self.unfilled] if self.unfilled else None
        for _, form, positions in self.forms:
            form.run(grads if positions is None else [grads[i] for i in positions])
        if kept:  # only now, and in one call: a step that is broken off leaves no empty buffer
            collections.deque(map(dict.update, kept, self.unfilled.values()), maxlen=0)


def _memory(param: Tensor) -> tuple[int, int]:
    """Where a strided tensor's numbers begin and end."""
    last = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
    start = data_ptr(param)
    return start, start + (last + 1) * param.element_size() if param.numel() else start


def _never(*tensors: Tensor | None) -> bool:
    return False


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride()


def _watch(tensors: list[Tensor]) -> Callable[..., bool]:
    """Return a check whether other tensors agree with these in everything but their numbers.

    Compared are class, dtype, device, sizes, strides, and what kind of view they are, by the check that torch.compile
    makes before it runs what it compiled. One call over all tensors takes a third of the time of asking each for its
    bytes and its layout. Where torch has it no longer, every gradient is looked at instead.
    """
    guards = getattr(torch._C._dynamo.guards, "TensorGuards", None)
    # Without the two options this constructor crashes the process (torch 2.13).
    return guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check if guards else _never


def _usable(grad: Tensor | None, param: Tensor) -> TypeGuard[Tensor]:
    """Whether a gradient is a plain tensor of its parameter's kind."""
    if type(grad) is not Tensor or grad.layout is not torch.strided:
        return False
    return grad.dtype is param.dtype and grad.device == param.device and grad.shape == param.shape


def _laid_out(param: Tensor, grad: Tensor) -> Tensor:
    """The gradient, on the CPU in memory as the parameter is."""
    if not grad.is_cpu or (_ordered_alike(grad, param) and not _veiled(grad)):
        return grad
    return torch.empty_like(param, requires_grad=False).copy_(grad.detach())


def _veiled(tensor: Tensor) -> bool:
    """Whether memory holds other numbers than the tensor: a negated view (``z.conj().imag``) or torch's ZeroTensor."""
    return tensor.is_neg() or tensor._is_zerotensor()


def _ordered_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape keep their numbers in the same order."""
    if a.stride() == b.stride() or not a.numel():
        return True
    return all(s == t for size, s, t in zip(a.shape, a.stride(), b.stride(), strict=True) if size > 1)


def _dense(tensor: Tensor) -> bool:
    """Whether the numbers fill their memory without gaps, each once, in whatever order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((t, n) for t, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _form_of(param: Tensor, state: dict[str, Any]) -> str:
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


class OnePass(Optimizer):
    """Mixed in before one of torch.optim's classes; replaces its step by one pass over all groups."""

    _update: ClassVar[Update]
    _symbol: ClassVar[str]  # the function of kernel.c
    _torch_class: ClassVar[type[Optimizer]]
    _fused_dtypes: ClassVar[frozenset[torch.dtype]]  # that torch's fused CPU kernel steps correctly
    _plan: Plan | None = None  # no part of the state: made anew after unpickling and deep copies
    _clip: object | None = None  # what clip.py prepared, likewise

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step.

        Args:
            closure: evaluates the model anew and returns the loss.

        Returns:
            What the closure returned; None without one.
        """
        if torch.compiler.is_compiling() or _observed(self):
            return self._observed_step() if closure is None else self._observed_step(closure)
        return self._bare_step(closure)

    # torch wraps every step in a profiler record and two loops over hooks, unless it finds it wrapped already. The
    # wrapped one is kept for when a hook or a profiler is there to see it.
    step.hooked = True  # type: ignore[attr-defined]

    def _bare_step(self, closure: Callable[[], Any] | None = None) -> Any:
        if torch.compiler.is_compiling() or not _plain(self):
            return self._torch_step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups, grad_enabled = self.param_groups, torch.is_grad_enabled()
        try:
            plan = self._plan
            grads = plan.gather(self) if plan is not None else None
            if plan is None or grads is None:
                plan = self._plan = Plan(self, self._covered())
                grads = plan.lay_out(list(map(_grad, plan.params)))
                assert grads is not None, "only usable gradients are covered"
            if plan.on_device:
                self._check_capture()
            if grads:
                plan.run(grads, self)
            if plan.left:
                self._torch_groups(plan.left)
        except BaseException:  # a signal handler may raise between any two operations
            self.param_groups = groups  # a block of finally, and torch.no_grad(), may be broken off, too
            torch.set_grad_enabled(grad_enabled)
            self._drop_half_begun()
            raise
        return loss

    _observed_step = Optimizer.profile_hook_step(_bare_step)

    def _torch_step(self, closure: Callable[[], Any] | None = None) -> Any:
        """PyTorch's own step, without the wrapper that would run hooks a second time."""
        step: Any = self._torch_class.step
        return (step.__wrapped__ if getattr(step, "hooked", False) else step)(self, closure)

    def _check_capture(self) -> None:
        """Torch's own check: capture without ``capturable`` is refused, the reverse warned of."""
        if "capturable" in self.defaults:
            getattr(self, "_accelerator_graph_capture_health_check", self._cuda_graph_capture_health_check)()

    def _torch_groups(self, chosen: list[int]) -> None:
        """PyTorch's own step for some groups alone."""
        groups = self.param_groups
        try:
            self.param_groups = [groups[i] for i in chosen]
            self._torch_step()
        finally:
            self.param_groups = groups

    def _covered(self) -> list[int]:
        """The groups that get a form of ours, by the rule at the head of this file."""
        covered = [i for i, group in enumerate(self.param_groups) if self._covers(group)]
        spans = sorted(
            (*_memory(param), i) for i in covered for param in self.param_groups[i]["params"] if param.grad is not None
        )
        # Threads would step numbers that two parameters share at the same time; torch steps one after the other.
        shared: set[int] = set()
        reach, owner = 0, -1
        for start, end, i in spans:
            if start < reach:
                shared |= {i, owner}
            if end > reach:
                reach, owner = end, i
        return [i for i in covered if i not in shared]

    def _covers(self, group: dict[str, Any]) -> bool:
        """Whether nothing about the group itself asks for torch's own code."""
        if group["foreach"] is not None or group["fused"] is not None or group["differentiable"]:
            return False
        capturable, needed = bool(group.get("capturable")), self._needed_state(group)
        held = [v for v in (*group.values(), *group.get("betas", ())) if isinstance(v, Tensor)]
        if any(number.requires_grad or not (capturable or number.is_cpu) for number in held):
            return False
        if capturable and not all(param.is_cuda for param in group["params"]):
            return False
        return all(self._covers_param(p, capturable, needed) for p in group["params"] if p.grad is not None)

    def _covers_param(self, param: Tensor, capturable: bool, needed: Set[str]) -> bool:
        grad = param.grad
        if type(param) not in _PLAIN or param.is_inference() or _veiled(param) or not _usable(grad, param):
            return False
        if param.device.type == "cuda":
            shaped = param.is_floating_point()
        else:
            shaped = param.device.type == "cpu" and param.dtype in self._fused_dtypes and _dense(param)
        state = self.state.get(param, {})
        if state and not needed <= state.keys():  # as after amsgrad is turned on mid-run: torch's step raises
            return False
        return shaped and all(self._covers_state(param, capturable, *item) for item in state.items())

    @staticmethod
    def _covers_state(param: Tensor, capturable: bool, name: str, value: Any) -> bool:
        if type(value) is not Tensor or value.layout is not torch.strided or value.is_inference():
            return False
        if name == "step":
            placed = value.device == param.device if capturable else value.is_cpu
            return placed and value.dtype is torch.float32 and value.numel() == 1
        alike = value.dtype is param.dtype and value.device == param.device and value.shape == param.shape
        return alike and (param.device.type == "cuda" or (_ordered_alike(value, param) and not _veiled(value)))

    def _needed_state(self, group: Mapping[str, Any]) -> Set[str]:
        """The names that a state, once begun, has to have."""
        return frozenset()

    def _accept(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state as this class takes it; refuses what a class of another kind wrote, which torch finds at a step."""
        saved = state_dict["param_groups"]
        if len(saved) != len(self.param_groups):  # torch's own check says so
            return state_dict
        for number, (group, own) in enumerate(zip(saved, self.param_groups, strict=True)):
            missing = [key for key in self._update.required if key not in group]
            for position in group["params"]:
                held = state_dict["state"].get(position)
                if held:
                    missing += sorted(self._needed_state(group) - set(held))
            if missing:
                raise OptimizerError(
                    f"{restore.label(own, number)} was saved by another kind of optimizer: "
                    f"{type(self).__name__} needs {restore.shown(dict.fromkeys(missing))}",
                    help="load it into the class that saved it; load_state_only(optimizer, state, partial=True) takes "
                    "what fits",
                )
        return state_dict

    def _begin(self, param: Tensor, group: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
        """The state that a parameter begins with, as in torch's class, and whether it may be kept before the step.

        Empty where the parameter has its state already or needs none.
        """
        raise NotImplementedError

    def _drop_half_begun(self) -> None:
        """Forget state of which only a part was made when a step was broken off."""

    def forms(self) -> dict[str, int]:
        """Count the tensors that each form stepped last: ``kernel``, ``fused``, ``foreach``, ``triton``, ``torch``.

        Example:
            >>> import torch
            >>> from lrdiff_core.optim import SGD
            >>> weight = torch.zeros(2, requires_grad=True)
            >>> weight.grad = torch.ones(2)
            >>> optimizer = SGD([weight], foreach=True)
            >>> optimizer.step()
            >>> optimizer.forms()
            {'torch': 1}
        """
        counts: dict[str, int] = {}
        if self._plan is not None:
            for name, _, positions in self._plan.forms:
                stepped = self._plan.params if positions is None else positions
                counts[name] = counts.get(name, 0) + len(stepped)
            left = sum(p.grad is not None for i in self._plan.left for p in self.param_groups[i]["params"])
            counts |= {"torch": left} if left else {}
        return counts

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what any optimizer of this kind saved, torch's own included.

        By parameter name where both sides carry names (groups made from ``named_parameters()``), whatever the
        grouping; by position otherwise, as torch does. Rates held as tensors stay the same objects; ``foreach`` and
        ``fused`` stay as this optimizer has them. Settings are the checkpoint's, as in torch; where they replace those
        of a plan, an :class:`~lrdiff_core.errors.OptimizerWarning` says so, and
        :func:`~lrdiff_core.optim.load_state_only` keeps the plan's.

        Args:
            state_dict: what ``state_dict()`` returned.

        Raises:
            OptimizerError: names that are missing, left over or ambiguous, options that differ within one of our
                groups, or the state of another kind of optimizer.
            ValueError: (by position) the groups differ in number or size.
        """
        restore.load(self, super().load_state_dict, state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = None


_PLAIN = (Tensor, Parameter)


def _observed(optimizer: Optimizer) -> Any:
    """Whether a hook or a profiler wants to see the step (or it is being traced, where the wrapper belongs too)."""
    return (
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
    )


def _plain(optimizer: Optimizer) -> bool:
    """Whether only numbers are asked for: no scaler's attributes, no dispatch mode that sees every operation."""
    return "found_inf" not in optimizer.__dict__ and not torch._C._len_torch_dispatch_stack()
