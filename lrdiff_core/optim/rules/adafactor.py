"""Adafactor, stepped in one pass whatever the number of rates."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import kernel
from lrdiff_core.optim.forms import PIECE, Division
from lrdiff_core.optim.kernel_rule import KernelRule, KernelUpdate
from lrdiff_core.optim.memory.layout import is_lazy_view
from lrdiff_core.optim.memory.shards import is_sharded

__all__ = ["Adafactor", "AdafactorUpdate"]

# Blocks of a matrix at most: each keeps a sum for every column, and more threads than that find no work here anyway.
MOST_BLOCKS = 64


class AdafactorSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    beta2_decay: Any
    eps: Any
    d: Any
    maximize: Any
    foreach: Any


class AdafactorUpdate(KernelUpdate):
    """The rule of Adafactor."""

    setting: type[Any] = AdafactorSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "beta2_decay", "eps", "d")
    buffers: tuple[str, str, str] = ("row_var", "col_var", "variance")
    whole_pieces = True

    @override
    def structure(self, columns: AdafactorSetting) -> tuple[Any, ...]:
        return columns.maximize, columns.foreach

    @override
    def numbers(self, columns: AdafactorSetting) -> tuple[Sequence[Any], ...]:
        eps1, eps2 = zip(*columns.eps, strict=True)
        least = [torch.finfo(torch.float32).eps if eps is None else eps for eps in eps1]
        return columns.lr, columns.weight_decay, columns.beta2_decay, eps2, least, columns.d

    @override
    def flags(self, setting: AdafactorSetting) -> int:
        return kernel.MAXIMIZE * bool(setting.maximize)

    @override
    def divide(self, params: Sequence[Tensor]) -> Division:
        parts = [_parts(tuple(param.shape)) for param in params]
        sums = [blocks * columns for blocks, _, columns, _ in parts]
        blocks, rows, columns, share = (list(numbers) for numbers in zip(*parts, strict=True))
        begin = [0, *accumulate(sums)][: len(parts)]
        arrays: list[ctypes.Array[Any]] = [_array(ctypes.c_int64, one) for one in (rows, columns, share, begin)]
        arrays.append((ctypes.c_double * sum(sums))())
        return Division(blocks=blocks, table=_Factors(*map(ctypes.addressof, arrays)), arrays=arrays)


class _Factors(ctypes.Structure):
    """The fields are explained in ``adafactor.h``."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("rows", "columns", "share", "begin", "sums")]


def _array(kind: type[Any], numbers: Sequence[int]) -> ctypes.Array[Any]:
    made: ctypes.Array[Any] = (kind * len(numbers))(*numbers)
    return made


def _parts(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Blocks of a tensor, rows and columns of its matrices (of a vector none), and rows that a block takes."""
    size = torch.Size(shape).numel()
    if len(shape) < 2 or not size:
        return -(-size // PIECE), 0, 0, 0
    rows, columns = shape[-2:]
    if rows * columns <= PIECE:  # whole matrices
        share = PIECE // (rows * columns) * rows
        return -(-size // (share * columns)), rows, columns, share
    share = max(1, PIECE // columns, -(-rows // MOST_BLOCKS))
    return size // (rows * columns) * -(-rows // share), rows, columns, share


class Adafactor(KernelRule, torch.optim.Adafactor):
    r"""Adafactor: same arguments, options, state and results as :class:`torch.optim.Adafactor`, one pass for all rates.

    .. math::
        R_t &= \hat\beta_t R_{t-1} + (1 - \hat\beta_t)\, \tfrac{1}{m} G_t^2 1_m, \qquad
            C_t = \hat\beta_t C_{t-1} + (1 - \hat\beta_t)\, \tfrac{1}{n} 1_n^\top G_t^2, \qquad
            \hat\beta_t = 1 - t^\tau \\
        \hat V_t &= \max\!\left(\frac{R_t C_t}{\max(\operatorname{mean} R_t, \epsilon_1)}, \epsilon_1^2\right), \qquad
            U_t = \frac{G_t}{\sqrt{\hat V_t}} \\
        \theta_t &= (1 - \gamma \lambda)\, \theta_{t-1} - \max(\epsilon_2, \operatorname{RMS}(\theta_{t-1}))
            \min\!\left(\gamma, \tfrac{1}{\sqrt t}\right) \frac{U_t}{\max(1, \operatorname{RMS}(U_t) / d)}

    for the matrices :math:`G_t` of :math:`n` rows and :math:`m` columns, the last two dimensions of a tensor. A tensor
    of fewer keeps all of :math:`V_t`. The rate multiplies the tensor's own size, as in LAMB. The pass is the compiled
    kernel's: float32 parameters on the CPU, in rows. Others (channels last, say) are stepped by PyTorch's own class.
    A tensor without numbers is left out; PyTorch's class divides by their count.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        beta2_decay: :math:`\tau`, at most 0.
        eps: :math:`\epsilon_1` (None: that of the dtype) and :math:`\epsilon_2`.
        d: largest root mean square of a step, in units of the rate; at least 1.
        weight_decay: :math:`\lambda`, shrinks the parameter by the rate times this.
        foreach: if given, PyTorch's own implementation of that name steps the group.
        maximize: ascends.

    State, for each parameter: ``step`` (float32, no dimensions); of the parameter's dtype ``row_var`` and ``col_var``,
    its shape with 1 as the last and as the last but one size, or ``variance``, its shape, where it has fewer than two
    dimensions.

    Raises:
        ValueError: an option out of its interval (torch's own checks).
        OptimizerError: a sharded parameter: the factors are of whole matrices, and PyTorch's class fails at its first
            step over shards (2.13).

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import Adafactor
        >>> body, head = torch.ones(2, 3, requires_grad=True), torch.full((4,), 2.0, requires_grad=True)
        >>> optimizer = Adafactor([{"params": [body], "lr": 1e-3}, {"params": [head], "lr": 1e-1}])
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([1.8000, 1.8000, 1.8000, 1.8000], requires_grad=True)
        >>> tuple(optimizer.state[body]["row_var"].shape), tuple(optimizer.state[body]["col_var"].shape)
        ((2, 1), (1, 3))

    Paper: Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost,
    https://arxiv.org/abs/1804.04235
    """

    _update = AdafactorUpdate()
    _symbol = "lrdiff_adafactor"
    _torch_class: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adafactor

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch does; refuses sharded parameters."""
        super().add_param_group(param_group)
        if any(map(is_sharded, self.param_groups[-1]["params"])):
            self.param_groups.pop()
            raise OptimizerError(
                "Adafactor does not step sharded parameters (FSDP2, DTensor): its factors are of whole matrices",
                help="train with whole parameters (DDP), or take another optimizer",
            )

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ()  # that all parameters have

    @override
    def _begin(self, param: Tensor, group: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
        begun, filled = super()._begin(param, group)
        if begun:
            begun |= {name: param.new_zeros(shape) for name, shape in _state_shapes(param).items()}
        return begun, filled

    @override
    def _covers_param(self, param: Tensor, capturable: bool, needed: Set[str]) -> bool:
        if not param.is_contiguous():
            return False
        return super()._covers_param(param, capturable, needed | _state_shapes(param).keys())

    @override
    def _covers_state(self, param: Tensor, capturable: bool, name: str, value: Any) -> bool:
        shape = _state_shapes(param).get(name)
        if shape is None or shape == param.shape:
            return super()._covers_state(param, capturable, name, value)
        if type(value) is not Tensor or value.layout is not torch.strided or value.is_inference():
            return False
        alike = value.dtype is param.dtype and value.device == param.device and value.shape == shape
        return alike and value.is_contiguous() and not is_lazy_view(value)

    @override
    def _drop_half_begun(self) -> None:
        for state, param in ((self.state.get(p), p) for group in self.param_groups for p in group["params"]):
            if state and not _state_shapes(param).keys() <= state.keys() and not state.get("step"):
                state.clear()

    def _init_group(self, group: dict[str, Any], *lists: Any) -> Any:
        return super()._init_group({**group, "params": list(_with_numbers(group["params"]))}, *lists)


def _state_shapes(param: Tensor) -> dict[str, tuple[int, ...]]:
    """What a parameter keeps beside its count of steps."""
    shape = tuple(param.shape)
    if len(shape) < 2:
        return {"variance": shape}
    return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}


def _with_numbers(params: Iterable[Tensor]) -> Iterable[Tensor]:
    return (param for param in params if param.numel())
