"""The part that all optimizers share: one prepared pass over all parameter groups instead of one pass for each.

How a step goes
    1. What was prepared is compared with what is there (:meth:`Prepared.gather`): groups and their options, parameters,
       gradients, state. Only pointers, types and numbers are compared; nothing is built again while they agree.
    2. Changed numbers (a scheduler's new rate) are written into the prepared tables. Any other change - a group added,
       a gradient that appears, data swapped, state loaded - prepares anew.
    3. Each form (see ``forms.py``) runs once.

Which form a group's tensors get is a fixed rule (:meth:`OnePass.forms` tells what was chosen):
    * torch: the group is stepped by PyTorch's own class, exactly as there, if ``foreach`` or ``fused`` is given, if
      ``differentiable`` is on, or ``capturable`` off CUDA, or a number is held on a device without ``capturable``, or
      if a parameter, gradient or state is sparse, complex, a tensor subclass (a DTensor is stepped by its local part if
      gradient and state are divided as it is, none a sum still to be made), repeated, overlapping another parameter,
      on a device other than CPU or CUDA, or (CPU) of a dtype not named below; on the CPU also if a parameter leaves
      gaps in its memory, or its state lies in another order than itself (rows, channels last, transposed);
    * kernel: CPU and float32, where the C compiler is here
      (the rules of ``kernel_rule.py`` have no other form);
    * fused: CPU otherwise; float32 and float64, and bfloat16 and float16 for Adam and AdamW;
    * foreach: CUDA, Adam and AdamW; with ``capturable``, and for SGD, fused;
    * triton: CUDA, Adam and AdamW, float32, with ``LRDIFF_TRITON=1`` in the environment;
    * a group with ``state_format`` (``formats/``): kernel, or plain operations where no compiler is; what neither takes
      is refused.
A rule that takes each number by itself can step memory in whatever order, as long as parameter, state and gradient
share it. A gradient in another order (or a view that its memory does not tell: negated, ZeroTensor) is copied into the
parameter's.

Everything else - constructor, ``state_dict``, hooks, ``add_param_group``, pickling - is PyTorch's own code, inherited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.nn import Parameter
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import kernel
from lrdiff_core.optim.formats import state as formats
from lrdiff_core.optim.guard import Guard
from lrdiff_core.optim.loading import restore
from lrdiff_core.optim.memory.layout import is_dense, is_lazy_view, is_usable, memory_span, ordered_alike
from lrdiff_core.optim.memory.shards import divided_alike, is_sharded, local_parts
from lrdiff_core.optim.prepared import Preparable, Prepared

__all__ = ["OnePass"]


class OnePass(Preparable):
    """Mixed in before one of torch.optim's classes; replaces its step by one pass over all groups."""

    _torch_class: ClassVar[type[Optimizer]]
    _fused_dtypes: ClassVar[frozenset[torch.dtype]]  # that torch's fused CPU kernel steps correctly
    _state_format: str | None = None  # of groups that do not say, while they are added
    _kernel_alone: ClassVar[bool] = False  # only kernel.c has the rule; all else is torch's own step
    _cuda: ClassVar[bool] = True  # the pass has a form there
    _has_formats: ClassVar[bool] = False
    _prepared: Prepared | None = None  # no part of the state: made anew after unpickling and deep copies
    _quick: Guard | None = None  # likewise
    _clipped: object | None = None  # what clipped.py prepared, likewise
    _clip: object | None = None  # what clip.py prepared, likewise

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step.

        Args:
            closure: evaluates the model anew and returns the loss.

        Returns:
            What the closure returned; None without one.
        """
        if not is_dynamo_compiling() and closure is None and self._quick is not None:
            stepped = self._quick.step(self)
            if stepped:
                return None
            if stepped is False:
                self._quick = None  # to be made anew, once a closer look finds nothing
        if is_compiling() or _observed(self):
            return self._observed_step() if closure is None else self._observed_step(closure)
        return self._bare_step(closure)

    # torch wraps every step in a profiler record and two loops over hooks, unless it finds it wrapped already. The
    # wrapped one is kept for when a hook or a profiler is there to see it.
    step.hooked = True  # type: ignore[attr-defined]

    def _bare_step(self, closure: Callable[[], Any] | None = None) -> Any:
        if is_compiling() or not _plain(self):
            return self._torch_step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            if self._quick is not None:
                stepped = self._quick.step(self)
                if stepped:
                    return loss
                if stepped is False:
                    self._quick = None
        groups, grad_enabled = self.param_groups, torch.is_grad_enabled()
        try:
            prepared = self._prepared
            grads = prepared.gather(self) if prepared is not None else None
            if prepared is None or grads is None:
                self._quick = None
                prepared = self._prepared = Prepared(self, self._covered())
                grads = prepared.lay_out()
                assert grads is not None, "only usable gradients are covered"
            if prepared.on_device:
                self._check_capture()
            if grads:
                prepared.run(grads, self)
            if prepared.left:
                self._torch_groups(prepared.left)
            if prepared.fitted and self._quick is None:
                self._quick = prepared.watch(self)
        except BaseException:  # a signal handler may raise between any two operations
            self._as_before(groups, grad_enabled=grad_enabled)
            raise
        return loss

    def _as_before(self, groups: list[dict[str, Any]], *, grad_enabled: bool) -> None:
        """After a step that was broken off; a block of finally, and torch.no_grad(), may have been, too."""
        self.param_groups = groups
        torch.set_grad_enabled(grad_enabled)
        self._drop_half_begun()

    def _step_left(self, left: list[int]) -> None:
        """PyTorch's own step of the groups that a compiled check has none of."""
        groups, grad_enabled = self.param_groups, torch.is_grad_enabled()
        try:
            self._torch_groups(left)
        except BaseException:
            self._as_before(groups, grad_enabled=grad_enabled)
            raise

    _observed_step = Optimizer.profile_hook_step(_bare_step)

    def _torch_step(self, closure: Callable[[], Any] | None = None) -> Any:
        """PyTorch's own step, without the wrapper that would run hooks a second time."""
        if any("state_format" in group for group in self.param_groups):
            raise OptimizerError(
                "groups with state_format cannot be stepped under torch.compile, a gradient scaler or a dispatch mode",
                help="step outside of it, or leave state_format out",
            )
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
        for i, group in enumerate(self.param_groups):
            if "state_format" in group:
                formats.require(group, self.state, restore.label(group, i))
        covered = [i for i, group in enumerate(self.param_groups) if self._covers(group)]
        spans = sorted(
            (*memory_span(param), i)
            for i in covered
            for param in local_parts(p for p in self.param_groups[i]["params"] if p.grad is not None)
        )
        # Threads would step numbers that two parameters share at the same time; torch steps one after the other.
        shared: set[int] = set()
        reach, owner = 0, -1
        for start, end, i in spans:
            if start < reach:
                shared |= {i, owner}
            if end > reach:
                reach, owner = end, i
        for i in shared:
            if "state_format" in self.param_groups[i]:
                raise OptimizerError(
                    f"{restore.label(self.param_groups[i], i)} has state_format, and shares memory with others",
                    help="leave state_format out of that group",
                )
        return [i for i in covered if i not in shared]

    def _covers(self, group: dict[str, Any]) -> bool:
        """Whether nothing about the group itself asks for torch's own code."""
        if "state_format" in group:
            return True
        if any(group.get(name) is not None for name in ("foreach", "fused")) or group.get("differentiable"):
            return False
        if self._kernel_alone and (kernel.load() is None or group.get("capturable")):
            return False
        capturable, needed = bool(group.get("capturable")), self._needed_state(group)
        held = [v for v in (*group.values(), *group.get("betas", ())) if isinstance(v, Tensor)]
        if any(number.requires_grad or not (capturable or number.is_cpu) for number in held):
            return False
        if capturable and not all(param.is_cuda for param in group["params"]):
            return False
        return all(self._covers_param(p, capturable, needed) for p in group["params"] if p.grad is not None)

    def _covers_param(self, param: Tensor, capturable: bool, needed: Set[str]) -> bool:
        grad, state, counters = param.grad, self.state.get(param, {}), self._update.counters
        if is_sharded(param):
            others = [grad, *(value for name, value in state.items() if name not in counters)]
            if not all(divided_alike(param, other) for other in others):
                return False
            param, grad = local_parts([param, grad])
            state = dict(zip(state, local_parts(state.values()), strict=True))
        if type(param) not in _PLAIN or param.is_inference() or is_lazy_view(param) or not is_usable(grad, param):
            return False
        if param.device.type == "cuda" and self._cuda:
            shaped = param.is_floating_point()
        else:
            shaped = param.device.type == "cpu" and param.dtype in self._fused_dtypes and is_dense(param)
        if state and not needed <= state.keys():  # as after amsgrad is turned on mid-run: torch's step raises
            return False
        return shaped and all(self._covers_state(param, capturable, *item) for item in state.items())

    def _covers_state(self, param: Tensor, capturable: bool, name: str, value: Any) -> bool:
        if type(value) is not Tensor or value.layout is not torch.strided or value.is_inference():
            return False
        if name in self._update.counters:
            placed = value.device == param.device if capturable else value.is_cpu
            return placed and value.dtype is torch.float32 and value.numel() == 1
        alike = value.dtype is param.dtype and value.device == param.device and value.shape == param.shape
        return alike and (param.device.type == "cuda" or (ordered_alike(value, param) and not is_lazy_view(value)))

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
                    missing += sorted(self._needed_state(group) - formats.told(held))
            if missing:
                raise OptimizerError(
                    f"{restore.label(own, number)} was saved by another kind of optimizer: "
                    f"{type(self).__name__} needs {restore.shown(dict.fromkeys(missing))}",
                    help="load it into the class that saved it; load_state_only(optimizer, state, partial=True) takes "
                    "what fits",
                )
        return state_dict

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
        if self._prepared is not None:
            for name, _, positions in self._prepared.forms:
                stepped = self._prepared.params if positions is None else positions
                counts[name] = counts.get(name, 0) + len(stepped)
            left = sum(p.grad is not None for i in self._prepared.left for p in self.param_groups[i]["params"])
            counts |= {"torch": left} if left else {}
        return counts

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what any optimizer of this kind saved, torch's own included.

        By parameter name where both sides carry names (groups made from ``named_parameters()``), whatever the
        grouping; by position otherwise, as torch does. Rates held as tensors stay the same objects; ``foreach`` and
        ``fused`` stay as this optimizer has them, and ``state_format``, to which state is converted. Settings are the
        checkpoint's, as in torch; where they replace those of a plan, an :class:`~lrdiff_core.errors.OptimizerWarning`
        says so, and :func:`~lrdiff_core.optim.load_state_only` keeps the plan's.

        Args:
            state_dict: what ``state_dict()`` returned.

        Raises:
            OptimizerError: names that are missing, left over or ambiguous, options that differ within one of our
                groups, or the state of another kind of optimizer.
            ValueError: (by position) the groups differ in number or size.
        """
        formats.settle(self, restore.load(self, super().load_state_dict, state_dict))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch does; refuses a ``state_format`` that the class or its tensors cannot have."""
        if self._state_format is not None:
            self.defaults["state_format"] = self._state_format
        super().add_param_group(param_group)
        if param_group.get("state_format") is None:
            param_group.pop("state_format", None)
            return
        number = len(self.param_groups) - 1
        try:
            if not self._has_formats:
                raise OptimizerError(
                    f"{type(self).__name__} has no state_format", help="use Adam or AdamW, or leave state_format out"
                )
            formats.check(param_group, restore.label(param_group, number))
        except OptimizerError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepared = self._quick = self._clip = self._clipped = None


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
