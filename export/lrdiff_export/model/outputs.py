"""What a module must give before anything can be proven of it: one answer a row, the same whenever it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, InputError
from lrdiff_export.model.float64 import run_module, two_rows

__all__ = ["check_answers"]

REPEATS_WITHIN = 1e-5  # of the largest output; sums of several threads may differ in the last bits


def check_answers(module: nn.Module, name: str, tensors: Sequence[Tensor], output_names: Sequence[str]) -> None:
    """Raise unless a module gives one answer a row, in numbers that ONNX has, and the same again when asked again.

    Args:
        module: called by position.
        name: what error messages call it.
        tensors: one an input, ``[batch, ...]``.
        output_names: one an output.

    Raises:
        ConfigError: another number of outputs, complex numbers, or a first dimension that is not the batch.
        InputError: the module gives something else for the same rows: it draws random numbers, or keeps a state.

    Example:
        >>> check_answers(nn.Flatten(0), "Flatten", [torch.zeros(2, 3)], ["y"])
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ConfigError: output 'y' of Flatten is [9] for 3 rows: its first dimension is not the batch
        help: give one answer a row, [batch, ...]; leave sums over the batch to the caller
    """
    two = [two_rows(one) for one in tensors]
    three = [torch.cat([one, one[:1]]) for one in two]
    # Copies, because a module may write into its inputs.
    outputs, again, fewer = (run_module(module, *(one.clone() for one in rows)) for rows in (three, three, two))
    if len(outputs) != len(output_names):
        raise ConfigError(
            f"{name} gives {len(outputs)} outputs and output_names has {len(output_names)}",
            help="give one name an output",
        )
    for said, one, other, short in zip(output_names, outputs, again, fewer, strict=True):
        if one.is_complex():
            raise ConfigError(f"output {said!r} of {name} is complex", help="give torch.view_as_real(...) of it")
        for answer, rows in ((one, 3), (short, 2)):
            if answer.shape[:1] != (rows,):
                told = f"{list(answer.shape)} for {rows} rows: its first dimension is not the batch"
                raise ConfigError(
                    f"output {said!r} of {name} is {told}",
                    help="give one answer a row, [batch, ...]; leave sums over the batch to the caller",
                )
        if not _nearly_equal(one.double(), other.double()):
            raise InputError(
                f"output {said!r} of {name} is another when asked again for the same rows",
                help="in evaluation mode it must not draw random numbers or keep a state between calls",
            )


def _nearly_equal(one: Tensor, other: Tensor) -> bool:
    scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=REPEATS_WITHIN * scale, equal_nan=True)
