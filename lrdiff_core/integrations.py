"""Callbacks for other people's trainers. Each library is imported when its callback is asked for, and not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from torch import nn

from lrdiff_core.errors import UnavailableError
from lrdiff_core.rates import RatePlan
from lrdiff_core.rates.matching import Match
from lrdiff_core.text import check_choice
from lrdiff_core.unfreezing import GradualUnfreezing

__all__ = ["lightning_unfreezing", "log_rates", "transformers_unfreezing"]

Stages = Sequence[Match] | Callable[[nn.Module], Sequence[Match]]


def lightning_unfreezing(
    plan: RatePlan | Callable[[nn.Module], RatePlan], *, every: int, stages: Stages, interval: str = "epoch"
) -> Any:
    """A Lightning callback that unfreezes one more stage every ``every`` epochs or optimizer steps.

    A resumed run goes on where it was: what trains follows from the trainer's epoch or step alone. Frozen layers stay
    in their groups, unlike with Lightning's own finetuning callbacks, which add groups.

    Args:
        plan: whose groups the module's optimizer has, or a function that finds it in the module.
        every: epochs, or optimizer steps, between two stages.
        stages: as for :class:`~lrdiff_core.unfreezing.GradualUnfreezing`, or a function of the module.
        interval: ``"epoch"`` or ``"step"``.

    Raises:
        UnavailableError: Lightning is not installed.

    For example::

        callback = lightning_unfreezing(
            lambda module: module.plan, every=1, stages=lambda module: head_down(module.model)
        )
        lightning.Trainer(callbacks=[callback]).fit(module)
    """
    check_choice("interval", interval, ("epoch", "step"))
    callbacks = _library("lightning.pytorch.callbacks", "Lightning")

    class Unfreezing(callbacks.Callback):  # type: ignore[name-defined, misc] # its module may be missing
        def on_train_start(self, trainer: Any, module: nn.Module) -> None:
            self.unfreezing = _begin(plan, stages, every, module, trainer.optimizers[0])
            self.unfreezing.step(trainer.current_epoch if interval == "epoch" else trainer.global_step)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if interval == "step":
                self.unfreezing.step(trainer.global_step)

        def on_train_epoch_end(self, trainer: Any, module: nn.Module) -> None:
            if interval == "epoch":
                self.unfreezing.step(trainer.current_epoch + 1)

    return Unfreezing()


def transformers_unfreezing(
    plan: RatePlan | Callable[[nn.Module], RatePlan], *, every: int, stages: Stages, interval: str = "step"
) -> Any:
    """A callback of the Hugging Face Trainer that unfreezes one more stage every ``every`` optimizer steps or epochs.

    Arguments and errors as for :func:`lightning_unfreezing`.

    For example::

        callback = transformers_unfreezing(plan, every=100, stages=head_down(model))
        Trainer(model, arguments, optimizers=(optimizer, schedule), callbacks=[callback]).train()
    """
    check_choice("interval", interval, ("epoch", "step"))
    transformers = _library("transformers", "transformers")

    class Unfreezing(transformers.TrainerCallback):  # type: ignore[name-defined, misc] # its module may be missing
        def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any) -> None:
            self.unfreezing = _begin(plan, stages, every, model, optimizer)
            self._move(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._move(state)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._move(state)

        def _move(self, state: Any) -> None:
            # An epoch ends at a sum of fractions.
            self.unfreezing.step(state.global_step if interval == "step" else int((state.epoch or 0) + 1e-6))

    return Unfreezing()


def log_rates(trainer: Any) -> None:
    """Let a Hugging Face Trainer log the rate of every group by its name, where by itself it logs that of the first.

    The groups of a plan have names; others are called by their number. The entries are ``learning_rate/head`` and
    alike, in ``trainer.state.log_history`` and in whatever the Trainer reports to. (Lightning's ``LearningRateMonitor``
    uses the names of the groups by itself.)

    Args:
        trainer: a ``transformers.Trainer``.

    Raises:
        UnavailableError: transformers is not installed.

    For example::

        log_rates(trainer)
        trainer.train()
    """
    transformers = _library("transformers", "transformers")

    class Rates(transformers.TrainerCallback):  # type: ignore[name-defined, misc] # its module may be missing
        def __init__(self) -> None:
            self.rates: dict[str, float] = {}

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, optimizer: Any, **_: Any) -> None:
            groups = enumerate(optimizer.param_groups)
            self.rates = {f"learning_rate/{group.get('name', i)}": float(group["lr"]) for i, group in groups}

        def on_log(self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **_: Any) -> None:
            if "learning_rate" in logs:  # of the step before, as that one is
                logs.update(self.rates)
                state.log_history[-1].update(self.rates)

    trainer.callback_handler.callbacks.insert(0, Rates())  # before those that report what is in logs


def _begin(
    plan: RatePlan | Callable[[nn.Module], RatePlan], stages: Stages, every: int, module: nn.Module, optimizer: Any
) -> GradualUnfreezing:
    found = plan if isinstance(plan, RatePlan) else plan(module)
    return GradualUnfreezing(found, optimizer, every=every, stages=stages(module) if callable(stages) else stages)


def _library(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as problem:
        package = module.split(".")[0]
        raise UnavailableError(f"{name} is not installed", help=f"install it: pip install {package}") from problem
