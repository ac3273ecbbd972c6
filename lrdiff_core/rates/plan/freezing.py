"""Setting ``requires_grad``, and the statistics of norms that freezing alone does not stop."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lrdiff_core.errors import RateError, RateWarning, warn
from lrdiff_core.rates.names import ParamInfo, some

__all__ = ["STILL_MOVING", "Freezing", "frozen_names", "moving_norms"]

STILL_MOVING = "frozen norms that still update their statistics"
_STATISTICS = ("update", "stop")


@dataclass
class Freezing:
    """What a plan has frozen in its model so far.

    Attributes:
        applied: the model follows the plan from now on; before, it does not yet.
        statistics: what frozen batch norms do, see :meth:`RatePlan.apply_freeze`.
    """

    applied: bool = False
    statistics: str | None = None

    def choose_statistics(self, statistics: str | None) -> None:
        """Take one of the two ways, or None; refuse anything else."""
        if statistics is not None and statistics not in _STATISTICS:
            raise RateError(
                f"statistics is {statistics!r}",
                help='write "stop" (frozen norms use what they have stored) or "update" (as torch does)',
            )
        self.statistics = statistics

    def freeze_exactly(self, names: Collection[str], infos: Mapping[str, ParamInfo], root: nn.Module) -> None:
        """Freeze these parameters of a model and let all others learn; warn of norms that go on moving."""
        before = moving_norms(root, _identities(infos, frozen_names(infos)))
        set_frozen(infos, names)
        first = not self.applied
        self.applied = True
        if self.statistics == "stop":
            keep_statistics(root)
        new = [name for name in moving_norms(root, _identities(infos, names)) if first or name not in before]
        if new and self.statistics is None:
            warn(
                f"{STILL_MOVING}: {some(new, 3)}",
                RateWarning,
                help='apply_freeze(statistics="stop") stops them; "update" says that it is meant',
            )


def frozen_names(infos: Mapping[str, ParamInfo]) -> list[str]:
    """Names of the parameters that do not learn now."""
    return [name for name, info in infos.items() if not info.parameter.requires_grad]


def _identities(infos: Mapping[str, ParamInfo], names: Collection[str]) -> set[int]:
    return {id(infos[name].parameter) for name in names}


def set_frozen(infos: Mapping[str, ParamInfo], names: Collection[str]) -> None:
    """Freeze exactly these parameters; gradients of frozen ones are dropped."""
    stuck = [n for n, i in infos.items() if n not in names and not _can_learn(i.parameter)]
    if stuck:
        raise RateError(
            f"integer parameters cannot learn: {some(stuck)}", help="leave them frozen: name the others only"
        )
    for name, info in infos.items():
        info.parameter.requires_grad_(name not in names)
        if name in names:
            info.parameter.grad = None  # an optimizer would go on applying a gradient left over


def moving_norms(root: nn.Module, frozen: Collection[int]) -> list[str]:
    """Names of the frozen norms in a model whose running statistics a forward pass in training mode still moves.

    A norm is frozen when its own parameters are; one without any, when those of the nearest module around it are.

    Args:
        root: the model.
        frozen: identities of the parameters that are frozen.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        >>> moving_norms(model, [id(model[1].weight), id(model[1].bias)])
        ['1']
    """
    norms = _norms(root)
    return [name for name, norm, own in norms if all(id(one) in frozen for one in own) and not _is_held(norm)]


def keep_statistics(root: nn.Module) -> None:
    """Put the frozen norms of a model into evaluation mode for good, and let go those that learn again."""
    for _, norm, own in _norms(root):
        frozen = not any(one.requires_grad for one in own)
        if frozen and not _is_held(norm):
            norm.register_forward_pre_hook(_evaluate)
            norm.eval()
        elif not frozen and _is_held(norm):
            for key, hook in list(norm._forward_pre_hooks.items()):
                if hook is _evaluate:
                    del norm._forward_pre_hooks[key]
            norm.train(root.training)


def _evaluate(norm: nn.Module, inputs: Any) -> None:
    """The hook: a function of the module, so that models with it can be copied and pickled."""
    learns = any(parameter.requires_grad for parameter in norm.parameters())
    if norm.training and not learns:  # after a model.train()
        norm.training = False


def _is_held(norm: nn.Module) -> bool:
    return _evaluate in norm._forward_pre_hooks.values()


def _norms(root: nn.Module) -> Iterable[tuple[str, nn.Module, list[nn.Parameter]]]:
    """Name, module and the parameters that speak for it, of every norm that keeps running statistics."""
    around: dict[str, list[nn.Parameter]] = {}
    for name, module in root.named_modules():
        own = list(module.parameters())
        around[name] = own or around.get(name.rpartition(".")[0], [])
        if isinstance(module, _NormBase) and module.track_running_stats and module.running_mean is not None:
            yield name, module, around[name]


def _can_learn(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()
