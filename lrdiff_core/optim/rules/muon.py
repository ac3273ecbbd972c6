"""Muon for the matrices of hidden layers and AdamW for everything else, in one optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim.loading.restore import label
from lrdiff_core.optim.memory.shards import divided_as, whole
from lrdiff_core.optim.rules.adamw import AdamW

__all__ = ["MuonAdamW", "adjustment", "as_matrices", "orthogonalize"]

# Keller Jordan's coefficients and count of iterations, https://kellerjordan.github.io/posts/muon/
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
EPS = 1e-7


def orthogonalize(
    matrices: Tensor, coefficients: tuple[float, float, float] = COEFFICIENTS, steps: int = STEPS, eps: float = EPS
) -> Tensor:
    r"""Newton-Schulz iteration towards the nearest orthogonal matrix of each, in bfloat16.

    .. math::
        X_{k+1} = a X_k + (b X_k X_k^\top + c (X_k X_k^\top)^2) X_k, \qquad X_0 = G / \max(\|G\|_F, \epsilon)

    Args:
        matrices: ``[count, rows, columns]``.
        coefficients: :math:`a, b, c`.
        steps: iterations.
        eps: smallest norm divided by.

    Returns:
        bfloat16 ``[count, rows, columns]``; singular values lie roughly between 0.7 and 1.2, not at 1.

    Example:
        >>> orthogonalize(torch.diag(torch.tensor([3.0, 4.0]))[None]).shape
        torch.Size([1, 2, 2])
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16)
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW(AdamW):
    r"""Muon for the groups that say ``use_muon=True``, AdamW for the others; matrices of one shape go in one batch.

    .. math::
        B_t &= \mu B_{t-1} + (1 - \mu) G_t, \qquad U_t = (1 - \mu) G_t + \mu B_t \;\text{(Nesterov)} \\
        \theta_t &= (1 - \gamma \lambda)\, \theta_{t-1} - \gamma\, \rho\, \mathrm{NS}(U_t)

    with :math:`\rho = \sqrt{\max(1, \text{rows} / \text{columns})}`, or
    :math:`0.2 \sqrt{\max(\text{rows}, \text{columns})}` for ``adjust_lr_fn="match_rms_adamw"``.

    Args:
        params: parameter groups; those of hidden matrices carry ``"use_muon": True``. Embeddings, heads, biases and
            norms belong to AdamW. :class:`lrdiff_core.rates.MuonRouter` makes such groups.
        lr: rate of groups that state none.
        betas, eps, weight_decay, amsgrad: as :class:`~lrdiff_core.optim.AdamW`.
        use_muon: what groups do that do not say.
        momentum: :math:`\mu` of Muon.
        nesterov: looks one step ahead (Muon).
        ns_coefficients, ns_steps, muon_eps: of the Newton-Schulz iteration, see :func:`orthogonalize`.
        adjust_lr_fn: ``None`` or ``"original"``, or ``"match_rms_adamw"``, with which rates tuned for AdamW do.
        matrices, heads: what the matrices of a tensor are, see :func:`as_matrices`.

    State, for each Muon parameter: ``momentum_buffer`` (shape and dtype of the parameter), as
    :class:`torch.optim.Muon`; for the others as :class:`~lrdiff_core.optim.AdamW`.

    Raises:
        OptimizerError: a Muon group with something other than real matrices, an option out of its interval.

    Example:
        >>> body, head = torch.ones(4, 4, requires_grad=True), torch.zeros(4, requires_grad=True)
        >>> optimizer = MuonAdamW([{"params": [body], "use_muon": True, "lr": 0.02}, {"params": [head], "lr": 1e-3}])
        >>> (body @ head).sum().backward()
        >>> optimizer.step()
        >>> optimizer.forms()["muon"]
        1

    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks,
    https://kellerjordan.github.io/posts/muon/; rate adjustment: Liu et al., Muon is Scalable for LLM Training,
    https://arxiv.org/abs/2502.16982
    """

    _has_formats = False

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        use_muon: bool = False,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        ns_steps: int = STEPS,
        muon_eps: float = EPS,
        adjust_lr_fn: str | None = None,
        matrices: str = "flatten",
        heads: int = 1,
        maximize: bool = False,
    ) -> None:
        self._muon_defaults = {
            "use_muon": use_muon,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "ns_steps": ns_steps,
            "muon_eps": muon_eps,
            "adjust_lr_fn": adjust_lr_fn,
            "matrices": matrices,
            "heads": heads,
        }
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
        self.defaults |= self._muon_defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch does; refuses a Muon group that holds anything but real matrices."""
        for key, value in self._muon_defaults.items():
            param_group.setdefault(key, value)
        super().add_param_group(param_group)
        try:
            _check(param_group)
        except OptimizerError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        # torch's Adam looks for a step in every state; Muon's has none.
        held = state["state"].items()
        muon = {param: values for param, values in held if isinstance(values, dict) and "momentum_buffer" in values}
        rest = {param: values for param, values in held if param not in muon}
        super().__setstate__({**state, "state": defaultdict(dict, rest)})
        self.state.update(muon)
        self._muon_defaults = {key: self.defaults[key] for key in _MUON_KEYS}
        for group in self.param_groups:
            for key, value in self._muon_defaults.items():
                group.setdefault(key, value)

    def _needed_state(self, group: Mapping[str, Any]) -> Set[str]:
        return {"momentum_buffer"} if group["use_muon"] else super()._needed_state(group)

    def _accept(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Takes the groups of :class:`torch.optim.Muon` and of AdamW where they are stepped by the same rule here."""
        saved = state_dict["param_groups"]
        if len(saved) == len(self.param_groups):
            groups = [
                _migrated(group, own, i) for i, (group, own) in enumerate(zip(saved, self.param_groups, strict=True))
            ]
            state_dict = {**state_dict, "param_groups": groups}
        return super()._accept(state_dict)

    def forms(self) -> dict[str, int]:
        """As :meth:`AdamW.forms`, with the key ``muon``."""
        counts = super().forms()
        muon = sum(p.grad is not None for group in self.param_groups if group["use_muon"] for p in group["params"])
        if self._prepared is not None and muon:
            counts["muon"] = muon
            counts["torch"] -= muon
        return {name: count for name, count in counts.items() if count}

    def _covers(self, group: dict[str, Any]) -> bool:
        return not group["use_muon"] and super()._covers(group)

    def _torch_step(self, closure: Callable[[], Any] | None = None) -> Any:
        groups = self.param_groups
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            self.param_groups = [group for group in groups if group["use_muon"]]
            self._muon_step()
            self.param_groups = [group for group in groups if not group["use_muon"]]
            super()._torch_step()
        finally:
            self.param_groups = groups
        return loss

    @torch.no_grad()
    def _muon_step(self) -> None:
        alike: dict[tuple[Any, ...], list[tuple[Tensor, dict[str, Any]]]] = {}
        for group in self.param_groups:
            how = tuple(group[key] for key in ("momentum", "nesterov", "ns_coefficients", "ns_steps", "muon_eps"))
            for param in group["params"]:
                if param.grad is None or not param.numel():
                    continue
                if param.grad.is_sparse:
                    raise OptimizerError("Muon does not take sparse gradients", help="give such parameters to AdamW")
                shape = as_matrices(param, group["matrices"], group["heads"]).shape[1:]
                key = (shape, param.dtype, param.device, group["maximize"], *how)
                alike.setdefault(key, []).append((param, group))
        for members in alike.values():
            self._muon_batch([param for param, _ in members], [group for _, group in members])

    def _muon_batch(self, params: list[Tensor], groups: Sequence[dict[str, Any]]) -> None:
        """One step of tensors whose matrices agree in shape, and that agree in all but rate and decay."""
        group = groups[0]
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        kept = [self.state[param]["momentum_buffer"] for param in params]
        buffers, weights = _in_float32(kept), _in_float32(params)
        grads = _in_float32([param.grad for param in params if param.grad is not None])
        grads = list(torch._foreach_neg(grads)) if group["maximize"] else grads
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, buffers, group["momentum"]) if group["nesterov"] else buffers
        # A direction is one of the whole matrix: every process that has a part of it makes it, with the same bits.
        parts = [as_matrices(whole(u), g["matrices"], g["heads"]) for u, g in zip(updates, groups, strict=True)]
        directions = orthogonalize(
            torch.cat(parts), group["ns_coefficients"], group["ns_steps"], group["muon_eps"]
        ).split([len(part) for part in parts])
        rates = [float(g["lr"]) for g in groups]
        torch._foreach_mul_(weights, [1 - lr * g["weight_decay"] for lr, g in zip(rates, groups, strict=True)])
        for weight, direction, lr, g in zip(weights, directions, rates, groups, strict=True):
            alpha = -lr * adjustment(g["adjust_lr_fn"], direction.shape[1:])
            weight.add_(divided_as(weight, direction.reshape(weight.shape)), alpha=alpha)
        if weights[0] is not params[0]:
            torch._foreach_copy_(kept, buffers)
            torch._foreach_copy_(params, weights)


def _in_float32(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors themselves, or float32 copies of those of lower precision.

    There torch rounds a factor, too, on the CPU: a decay of 0.998 to the bfloat16 of 0.9961.
    """
    return [tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor for tensor in tensors]


_MUON_KEYS = (
    *("use_muon", "momentum", "nesterov", "ns_coefficients", "ns_steps", "muon_eps", "adjust_lr_fn"),
    *("matrices", "heads"),
)


def as_matrices(tensor: Tensor, matrices: str = "flatten", heads: int = 1) -> Tensor:
    """A tensor as the matrices that Muon orthogonalizes.

    Args:
        tensor: ``[rows, ...]``, or ``[..., rows, columns]`` for a stack.
        matrices: ``"flatten"``: one matrix, what is behind the first dimension flattened (a convolution); ``"stack"``:
            one for every index of the dimensions before the last two.
        heads: splits the rows of each matrix into as many matrices.

    Returns:
        ``[count, rows, columns]``.

    Example:
        >>> as_matrices(torch.zeros(8, 3, 5, 5)).shape, as_matrices(torch.zeros(4, 8, 6), "stack", heads=2).shape
        (torch.Size([1, 8, 75]), torch.Size([8, 4, 6]))
    """
    stacked = tensor.reshape(-1, *tensor.shape[-2:]) if matrices == "stack" else tensor.reshape(1, len(tensor), -1)
    count, rows, columns = stacked.shape
    return stacked.reshape(count * heads, rows // heads, columns)


def _migrated(saved: Mapping[str, Any], own: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A saved group with everything that a group here has; refuses one that another rule has stepped."""
    of_torch = "ns_steps" in saved and "use_muon" not in saved
    by_muon = saved.get("use_muon", of_torch)
    if "use_muon" not in saved and by_muon != own["use_muon"]:
        rules = {True: "Muon", False: "AdamW"}
        raise OptimizerError(
            f"{label(own, number)} was saved by {rules[by_muon]} and is stepped by {rules[not by_muon]} here",
            help=f"give its parameters to a group with use_muon={by_muon}, or take what fits with "
            "load_state_only(optimizer, state, partial=True)",
        )
    filled = {**{key: own[key] for key in _MUON_KEYS}, **saved, "use_muon": by_muon}
    if by_muon:  # AdamW's settings are not asked for, but have a place in every group
        filled = {**{key: value for key, value in own.items() if key not in ("params", "param_names")}, **filled}
    if of_torch:
        filled |= {"muon_eps": saved["eps"], "eps": own["eps"]}
    _check({**filled, "params": own["params"]})
    return filled


def adjustment(name: str | None, shape: Sequence[int]) -> float:
    """What Muon multiplies the rate of a matrix ``[rows, columns]`` by, see :class:`MuonAdamW`.

    Example:
        >>> adjustment("match_rms_adamw", (25, 100)), adjustment(None, (100, 25))
        (2.0, 2.0)
    """
    rows, columns = shape
    if name == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def _check(group: dict[str, Any]) -> None:
    if not group["use_muon"]:
        return
    for param in group["params"]:
        if param.ndim < 2 or param.is_complex():
            raise OptimizerError(
                f"Muon takes real matrices, not {param.dtype} of shape {tuple(param.shape)}",
                help="put vectors, embeddings and heads into a group with use_muon=False",
            )
        rows = param.shape[-2] if group["matrices"] == "stack" else param.shape[0]
        if group["heads"] < 1 or rows % group["heads"]:
            raise OptimizerError(
                f"heads is {group['heads']} for a matrix of {rows} rows", help="write a number that divides the rows"
            )
    if group["matrices"] not in ("flatten", "stack"):
        raise OptimizerError(f"matrices is {group['matrices']!r}", help="write 'flatten' or 'stack'")
    if not 0.0 <= group["momentum"] < 1.0:
        raise OptimizerError(f"momentum is {group['momentum']}", help="write a number in [0, 1), such as 0.95")
    if group["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
        raise OptimizerError(
            f"adjust_lr_fn is {group['adjust_lr_fn']!r}", help="write None, 'original' or 'match_rms_adamw'"
        )
    if not 0 < group["ns_steps"] < 100:
        raise OptimizerError(f"ns_steps is {group['ns_steps']}", help="write a whole number from 1 to 99, such as 5")
