"""The step of torch.optim's SGD, Adam, AdamW and Adagrad, replaced where it stands, while a script runs.

Nothing else of torch's classes is touched. Every call decides anew: a step that torch.compile traces, or an optimizer
that no twin can step, goes the way that it would go without us.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import operator
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import ref

from lrdiff_bench.boost.record import Checked, Layout, Record

if TYPE_CHECKING:
    from torch.optim.optimizer import Optimizer

    from lrdiff_bench.boost.twins import Step, Twin

__all__ = ["Boosting", "when_imported"]

_NOTED = 16  # what was prepared is looked at whenever it changes, in so many steps; then now and then


_PLACE = "_lrdiff_boost"  # in the optimizer's own dictionary, so that it lives as long as the optimizer does
_NOWHERE: dict[str, Any] = {}  # what a twin has between steps: holding on to the optimizer's would keep it alive


class _Stepper:
    """An optimizer's twin and what is remembered of it; no twin where torch steps it."""

    def __init__(self, boosting: Boosting, optimizer: Optimizer, record: Record) -> None:
        self.boosting, self.owner, self.record = boosting, ref(optimizer), record
        self.twin: Twin | None = None
        self.begun = False
        self.noted: object = self  # no prepared pass, and not None either

    def __reduce__(self) -> tuple[Any, ...]:
        # No part of a copy or a file, even of an optimizer that pickles its whole dictionary: False stands there.
        return bool, ()


class Boosting:
    """Torch's optimizers, stepped by ours between :meth:`install` and :meth:`remove`.

    Args:
        check: so many steps of each optimizer are also taken by torch's own, on copies, and compared.
        clock: in seconds; another one only in tests.

    Attributes:
        records: of every optimizer that was made or stepped, in order.

    Example:
        >>> import torch
        >>> weight = torch.zeros(16, requires_grad=True)
        >>> boosting = Boosting()
        >>> boosting.install()
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> weight.grad = torch.ones(16)
        >>> optimizer.step()
        >>> boosting.remove()
        >>> type(optimizer) is torch.optim.SGD, boosting.records[0].replaced, weight[0].item()
        (True, True, -0.5)
    """

    def __init__(self, *, check: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.check, self.clock = check, clock
        self.records: list[Record] = []
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        """Put our step in place of torch's; torch has to be imported."""
        from torch.optim.optimizer import Optimizer

        from lrdiff_bench.boost.twins import KINDS, Twin

        def put(home: Any, name: str, value: Any) -> None:
            had, before = name in vars(home), vars(home).get(name)
            setattr(home, name, value)
            self._undo.append(lambda: setattr(home, name, before) if had else delattr(home, name))

        for kind in KINDS:
            theirs: Any = vars(kind)["step"]
            if getattr(theirs, "hooked", False):  # an instance was made before: torch wrapped the step of its class
                theirs = theirs.__wrapped__
            Twin.theirs[kind] = theirs
            put(kind, "step", self._replacement(theirs))
            for heir in kind.__subclasses__():  # torch put a wrapped copy there if an instance of it was made before
                own = vars(heir).get("step")
                if getattr(own, "hooked", False) and getattr(own, "__wrapped__", None) is theirs:
                    delattr(heir, "step")
                    self._undo.append(functools.partial(setattr, heir, "step", own))
        put(Optimizer, "__init__", self._init(Optimizer.__init__))

    def remove(self) -> None:
        """Put torch's own back."""
        if not self._undo:  # the script has not imported torch, and it is not for us to do
            return
        from lrdiff_bench.boost.twins import Twin

        for undo in reversed(self._undo):
            undo()
        self._undo = []
        Twin.theirs.clear()

    # -- what stands in torch's classes -------------------------------------------------------------------------------

    def _init(self, init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def noting(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            from lrdiff_bench.boost.twins import reason_against

            init(optimizer, *args, **kwargs)
            self._stepper(optimizer).record.reason = reason_against(optimizer)

        return noting

    def _replacement(self, theirs: Step) -> Step:
        import torch
        from torch.optim.optimizer import Optimizer

        from lrdiff_core.optim.base import _observed

        bare = functools.partial(self._bare, theirs)
        hooked = Optimizer.profile_hook_step(theirs)

        @functools.wraps(theirs)
        def observed_bare(optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
            return bare(optimizer, closure)

        observed = Optimizer.profile_hook_step(observed_bare)

        @functools.wraps(theirs)
        def step(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return hooked(optimizer, *args, **kwargs)
            # Of a class with a step of its own torch has wrapped that one, and its hooks have run.
            if _observed(optimizer) and getattr(type(optimizer), "step", None) is step:
                return observed(optimizer, *args, **kwargs)
            return bare(optimizer, *args, **kwargs)

        step.hooked = True  # type: ignore[attr-defined] # torch wraps no step that says so
        return step

    # -- a step -------------------------------------------------------------------------------------------------------

    def _bare(self, theirs: Step, optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        stepper = self._stepper(optimizer)
        if not stepper.begun:
            self._begin(stepper, optimizer)
        twin = stepper.twin
        if twin is None:
            result = theirs(optimizer, closure)
            stepper.record.steps += 1
            return result
        loss = None
        if closure is not None:
            import torch

            with torch.enable_grad():
                loss = closure()
        twin.__dict__ = optimizer.__dict__
        try:
            self._step(stepper, twin)
        finally:
            twin.__dict__ = _NOWHERE
        return loss

    def _step(self, stepper: _Stepper, twin: Twin) -> None:
        record = stepper.record
        if record.steps < self.check:
            self._checked(twin, record)
        else:
            before, began = twin.laid_out, self.clock()
            twin.take_step()
            record.last = self.clock()
            record.seconds += record.last - began
            if record.first is None:
                record.first = record.last
            if record.steps < _NOTED and any(map(operator.is_not, before, twin.laid_out)):
                self._begin_anew(record.last)
        record.steps += 1
        if twin._prepared is not stepper.noted and (record.steps < _NOTED or record.steps % _NOTED == 0):
            self._note(stepper, twin)

    def _begin_anew(self, now: float) -> None:
        """Time from here on: a first step prepares, and may compile what the machine has not had yet."""
        for record in self.records:
            if record.first is not None:
                record.first, record.seconds = now, 0.0

    def _stepper(self, optimizer: Optimizer) -> _Stepper:
        found: _Stepper | None = optimizer.__dict__.get(_PLACE)
        if found and found.owner() is optimizer and found.boosting is self:
            return found
        record = Record(name=type(optimizer).__name__)  # a copied or unpickled one is seen first when it steps
        self.records.append(record)
        found = optimizer.__dict__[_PLACE] = _Stepper(self, optimizer, record)
        return found

    def _begin(self, stepper: _Stepper, optimizer: Optimizer) -> None:
        from lrdiff_bench.boost.twins import reason_against, twin_of

        stepper.begun = True
        if reason_against(optimizer) is None:
            stepper.twin = twin_of(optimizer)

    def _checked(self, twin: Twin, record: Record) -> None:
        from lrdiff_bench.boost.check import Beside

        record.checked = record.checked or Checked()
        beside = Beside(twin)
        twin.take_step()
        beside.compare(record.checked, record.steps + 1)

    def _note(self, stepper: _Stepper, twin: Twin) -> None:
        """Remember what was prepared, and let torch go on alone where nothing is ours."""
        from lrdiff_bench.boost.twins import reason_left

        record, prepared = stepper.record, twin._prepared
        stepper.noted = prepared
        if prepared is None:
            record.reason = "torch's fused step applies a scaler's factor, too"
            return
        record.reason = None
        record.tensors = {form: count for form, count in twin.forms().items() if form != "torch"}
        record.left = {}
        for number in prepared.left:
            group = twin.param_groups[number]
            reason = reason_left(twin, group)
            count = sum(param.grad is not None for param in group["params"])
            record.left[reason] = record.left.get(reason, 0) + count
        record.layout = _layout_of(twin, [twin.param_groups[i] for i in prepared.covered])
        if not prepared.covered:
            stepper.twin, record.reason = None, "; ".join(record.left) or None


def _layout_of(twin: Twin, groups: Sequence[dict[str, Any]]) -> Layout:
    kind = twin._torch_class.__name__
    decoupled = any(group.get("decoupled_weight_decay") for group in groups)
    return Layout(
        kind="AdamW" if decoupled else kind,
        groups=tuple(
            (
                {name: _number(group[name]) for name in twin._update.setting._fields},
                tuple((_shape(param), param.dtype) for param in group["params"] if param.grad is not None),
            )
            for group in groups
        ),
    )


def _shape(param: Any) -> tuple[int, ...]:
    """Of the part that is here, where a parameter is divided over processes."""
    return tuple(param.to_local().shape if hasattr(param, "to_local") else param.shape)


def _number(value: Any) -> Any:
    """What a setting is now: nothing of the script's is held on to."""
    if isinstance(value, tuple | list):
        return tuple(map(_number, value))
    return value.item() if hasattr(value, "item") else value


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds one module as everybody else does, and calls back once it is there."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the module that is waited for, None for every other."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            self.then()

        loader.exec_module = exec_module
        return spec


def when_imported(name: str, then: Callable[[], None]) -> Callable[[], None]:
    """Call ``then`` as soon as a module is imported, at once if it is; returns what stops waiting.

    A script may set the environment before it imports torch: importing it earlier would take that from it.

    Example:
        >>> when_imported("sys", lambda: print("there"))()
        there
    """
    if name in sys.modules:
        then()
        return lambda: None
    watcher = _Watcher(name, then)
    sys.meta_path.insert(0, watcher)

    def stop() -> None:
        if watcher in sys.meta_path:
            sys.meta_path.remove(watcher)

    return stop
