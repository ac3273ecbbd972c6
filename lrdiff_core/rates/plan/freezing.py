"""Setting ``requires_grad``, and the statistics of norms that freezing alone does not stop."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import ParamInfo, some

__all__ = ["check_statistics", "keep_statistics", "moving_norms", "set_frozen"]

_STATISTICS = ("update", "stop")


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


def check_statistics(statistics: str | None) -> None:
    """Refuse what is neither of the two ways."""
    if statistics is not None and statistics not in _STATISTICS:
        raise RateError(
            f"statistics is {statistics!r}",
            help='write "stop" (frozen norms use what they have stored) or "update" (as torch does)',
        )


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
