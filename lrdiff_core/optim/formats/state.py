"""The state of a group that asked for a format: which tensors, whether they fit, and from one format to another."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim.formats.codes import BLOCK, NEAREST, decode, encode, flat, round_to_bfloat16
from lrdiff_core.optim.memory.layout import is_dense, is_lazy_view, is_usable, ordered_alike

__all__ = ["FORMATS", "LOW", "MOMENTS", "begin", "check", "read", "require", "settle", "told", "write"]

FORMATS = ("float32", "bfloat16", "8-bit")
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}  # whether numbers have a sign
LOW = "param_low"
_CODES, _EXPONENTS = "_codes", "_exponents"
_DTYPES = (torch.float32, torch.bfloat16)
_NOT_WITH = ("amsgrad", "foreach", "fused", "capturable", "differentiable")


def check(group: Mapping[str, Any], what: str) -> None:
    """Refuse a group that cannot be kept in the format it asks for.

    Args:
        group: with ``state_format``.
        what: the group is called.

    Raises:
        OptimizerError: an unknown format, an option that does not go with it, a parameter of another device or dtype.
    """
    chosen = group["state_format"]
    if chosen not in FORMATS:
        raise OptimizerError(f"state_format of {what} is {chosen!r}", help=f"write one of: {', '.join(FORMATS)}")
    given = [name for name in _NOT_WITH if group.get(name)]
    if given:
        raise OptimizerError(
            f"state_format of {what} does not go with {given[0]}={group[given[0]]}", help="leave out one of the two"
        )
    for param in group["params"]:
        if param.requires_grad and not (param.dtype in _DTYPES and param.device.type == "cpu"):
            kind = f"{str(param.dtype).removeprefix('torch.')} on {param.device.type}"
            raise OptimizerError(
                f"state_format of {what} is for float32 and bfloat16 parameters on the CPU, not for {kind}",
                help="leave state_format out of that group",
            )


def require(group: Mapping[str, Any], states: Mapping[Tensor, Any], what: str) -> None:
    """Refuse a group that cannot be stepped: as :func:`check`, and what its gradients and state are.

    Raises:
        OptimizerError: see there; a sharded, sparse or complex tensor, a subclass, memory with gaps, other state.
    """
    check(group, what)
    chosen = group["state_format"]
    for number, param in enumerate(group["params"]):
        if param.grad is None:
            continue
        plain = type(param) in (Tensor, Parameter) and not param.is_inference() and not is_lazy_view(param)
        if not (plain and is_dense(param) and is_usable(param.grad, param)):
            raise OptimizerError(
                f"state_format of {what} is for plain dense parameters with gradients alike; number {number} is not",
                help="leave state_format out of that group",
            )
        state = states.get(param)
        if state and not _fits(param, state, chosen):
            raise OptimizerError(
                f"state of parameter {number} of {what} is not in the format {chosen}, or not laid out as it is",
                help="read it anew: optimizer.load_state_dict(optimizer.state_dict())",
            )


def _layout(param: Tensor, chosen: str) -> dict[str, torch.dtype]:
    """Names and dtypes of a parameter's state, the count of steps apart."""
    if chosen == "8-bit":
        return {name + part: torch.uint8 for name in MOMENTS for part in (_CODES, _EXPONENTS)}
    low = {LOW: torch.int16} if chosen == "float32" and param.dtype is torch.bfloat16 else {}
    return {**dict.fromkeys(MOMENTS, getattr(torch, chosen)), **low}


def _fits(param: Tensor, state: Mapping[str, Any], chosen: str) -> bool:
    layout = _layout(param, chosen)
    if layout.keys() | {"step"} != state.keys() or not all(type(value) is Tensor for value in state.values()):
        return False
    step = state["step"]
    counted = step.is_cpu and step.dtype is torch.float32 and step.numel() == 1
    return counted and all(_placed(param, name, state[name], dtype) for name, dtype in layout.items())


def _placed(param: Tensor, name: str, value: Tensor, dtype: torch.dtype) -> bool:
    if value.dtype is not dtype or not value.is_cpu or value.layout is not torch.strided or is_lazy_view(value):
        return False
    if name.endswith(_EXPONENTS):
        return value.shape == (_blocks(param),) and value.is_contiguous()
    return value.shape == param.shape and ordered_alike(value, param)


def _blocks(param: Tensor) -> int:
    return -(-param.numel() // BLOCK)


def begin(param: Tensor, chosen: str) -> dict[str, Tensor]:
    """The state of a parameter that was not stepped yet."""
    state = {"step": torch.zeros((), dtype=torch.float32, device="cpu")}
    for name, dtype in _layout(param, chosen).items():
        if name.endswith(_EXPONENTS):
            state[name] = torch.zeros(_blocks(param), dtype=dtype, device="cpu")
        else:
            state[name] = torch.zeros_like(param, dtype=dtype, requires_grad=False)
    return state


def read(state: Mapping[str, Tensor], name: str) -> Tensor:
    """A moment in float32, as it lies in memory: [numel]."""
    if name in state:
        return flat(state[name]).float()
    return decode(flat(state[name + _CODES]), state[name + _EXPONENTS], signed=MOMENTS[name])


def write(state: Mapping[str, Tensor], name: str, numbers: Tensor, chance: Tensor | int) -> None:
    """Put a moment back, rounded by 16 bits of chance where the format has fewer bits."""
    if name + _CODES in state:
        codes, exponents = encode(numbers, chance, signed=MOMENTS[name])
        flat(state[name + _CODES]).copy_(codes)
        state[name + _EXPONENTS].copy_(exponents)
    elif state[name].dtype is torch.bfloat16:
        flat(state[name]).copy_(round_to_bfloat16(numbers, chance))
    else:
        flat(state[name]).copy_(numbers)


def told(state: Mapping[str, Any]) -> Set[str]:
    """What a state holds, in the names that torch has for it."""
    return {str(name).removesuffix(_CODES) for name in state}


def settle(optimizer: torch.optim.Optimizer, loaded: Mapping[str, Any]) -> None:
    """After a load: state in the format of its group here. Torch has cast it to the parameter's dtype.

    Args:
        optimizer: that has loaded.
        loaded: the state dict, as torch got it.
    """
    for group, saved in zip(optimizer.param_groups, loaded["param_groups"], strict=True):
        for param, position in zip(group["params"], saved["params"], strict=True):
            held, chosen = loaded["state"].get(position), group.get("state_format")
            if not held or (chosen is None and told(held) - {LOW} == set(held)):
                continue
            own = optimizer.state[param]
            if chosen is None:
                optimizer.state[param] = {**_others(own), **_decoded(param, held)}
            elif told(held) >= MOMENTS.keys():
                optimizer.state[param] = {**_others(own), **_converted(param, held, chosen)}


def _others(state: Mapping[str, Any]) -> dict[str, Any]:
    kept = {*MOMENTS, LOW, *(name + part for name in MOMENTS for part in (_CODES, _EXPONENTS))}
    return {name: value for name, value in state.items() if name not in kept}


def _decoded(param: Tensor, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Moments as torch keeps them."""
    return {name: torch.zeros_like(param, requires_grad=False).copy_(_moment(held, name)) for name in MOMENTS}


def _converted(param: Tensor, held: Mapping[str, Tensor], chosen: str) -> dict[str, Tensor]:
    state = begin(param, chosen)
    step = state.pop("step")
    as_they_are = {name: held[name] for name in state if name in held}
    if _fits(param, {"step": step, **as_they_are}, chosen):
        return as_they_are
    for name in MOMENTS:
        laid_out = torch.empty_like(param, dtype=torch.float32, requires_grad=False).copy_(_moment(held, name))
        write(state, name, flat(laid_out), NEAREST)
    if LOW in state and LOW in held:
        state[LOW].copy_(held[LOW])
    return state


def _moment(held: Mapping[str, Tensor], name: str) -> Tensor:
    """A moment in float32, of the parameter's shape."""
    if name in held:
        return held[name].float()
    codes = held[name + _CODES].cpu()
    moment = torch.empty_like(codes, dtype=torch.float32)
    flat(moment).copy_(read({**held, name + _CODES: codes, name + _EXPONENTS: held[name + _EXPONENTS].cpu()}, name))
    return moment
