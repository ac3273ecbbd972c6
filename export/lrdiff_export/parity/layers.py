"""Error by layer: how far each layer's output on a backend is from float64, errors of earlier layers carried along.

The module is wrapped so that every layer's output is an output of the whole; the wrapped module then goes the same way
to every backend, as a module or as an ONNX file. What a runtime would fuse across layers is not fused then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_core.errors import InputError, LrdiffError
from lrdiff_export.model.float64 import evaluate_float64, evaluation_copy, float64_copy, run_module
from lrdiff_export.model.precision import ARITHMETICS
from lrdiff_export.onnx_file.convert import convert_to_onnx
from lrdiff_export.parity.subjects import Subject
from lrdiff_export.records import first_line
from lrdiff_export.runtimes import Backend
from lrdiff_export.verify.compare import largest_error

__all__ = ["LayerErrors", "Tapped", "layer_errors"]


@dataclass(frozen=True, kw_only=True)
class LayerErrors:
    """One backend's errors.

    Attributes:
        backend: its name.
        layers: names of the layers with their classes, in the order in which they finish.
        errors: of each, in float32 eps of its largest output, whatever the backend's arithmetic; None where it is not
            finite.
        reason: why there are none.
    """

    backend: str
    layers: tuple[str, ...] = ()
    errors: tuple[float | None, ...] = ()
    reason: str | None = None


class Tapped(nn.Module):
    """A module that gives the output of each of its layers, its own last.

    Args:
        inner: takes tensors by position.

    Example:
        >>> tapped = Tapped(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
        >>> [tuple(one.shape) for one in tapped(torch.zeros(4, 3))], tapped.names
        ([(4, 2), (4, 2)], ['0 (Linear)', '1 (ReLU)'])
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.names: list[str] = []  # of the last run
        self.only: frozenset[str] | None = None  # names to look at; all by default

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the module; return the floating output of every layer, in the order of their calls."""
        seen: list[tuple[str, Tensor]] = []
        calls: Counter[str] = Counter()

        def tap(name: str) -> Any:
            def hook(module: nn.Module, given: Any, result: Any) -> None:
                calls[name] += 1
                label = f"{name} ({type(module).__name__})" + (f" #{calls[name]}" if calls[name] > 1 else "")
                first = result[0] if isinstance(result, tuple | list) and result else result
                if not isinstance(first, Tensor) or not first.is_floating_point():
                    return
                # A container gives what its last layer gave, dropout what it was given.
                if label in self.only if self.only is not None else not seen or seen[-1][1] is not first:
                    seen.append((label, first))

            return hook

        handles = [
            module.register_forward_hook(tap(name.removeprefix("inner.") or "output"))
            for name, module in self.inner.named_modules()
        ]
        try:
            self.inner(*tensors)
        finally:
            for handle in handles:
                handle.remove()
        self.names = [name for name, _ in seen]
        return tuple(tensor for _, tensor in seen)


def layer_errors(subject: Subject, backends: Sequence[Backend]) -> list[LayerErrors]:
    """Return the errors of every layer on each backend.

    Args:
        subject: a module with its rows.
        backends: that are here.

    Raises:
        InputError: the subject is only a file, or its layers cannot be seen.

    Example:
        >>> from lrdiff_export import BACKENDS, subject_of_module
        >>> subject = subject_of_module(nn.Linear(3, 1), np.ones((4, 3), np.float32))
        >>> [one.layers for one in layer_errors(subject, [BACKENDS["eager"]])]
        [('output (Linear)',)]
    """
    if subject.module is None:
        raise InputError("an ONNX file by itself does not show its layers", help="compare the module")
    tapped = Tapped(evaluation_copy(subject.module))
    eager = [output.numpy() for output in run_module(tapped, *map(torch.tensor, subject.rows))]
    names = tuple(tapped.names)
    tapped.only = frozenset(names)  # a tracer hands on other objects than eager does
    answers = evaluate_float64(float64_copy(tapped), subject.rows, [one.dtype for one in eager])
    onnx: bytes | None = None
    found = []
    for backend in backends:
        try:
            if backend.needs_onnx and onnx is None:
                outputs = [f"layer{i}" for i in range(len(names))]
                examples = [torch.tensor(one[:2]) for one in subject.rows]
                onnx = convert_to_onnx(tapped, example=examples, output_names=outputs)
            model = onnx if backend.needs_onnx else tapped
            given = backend.prepare(model)(*(one.copy() for one in subject.rows))
            errors = tuple(_error(one, answer) for one, answer in zip(given, answers, strict=True))
            found.append(LayerErrors(backend=backend.name, layers=names, errors=errors))
        except LrdiffError as problem:
            found.append(LayerErrors(backend=backend.name, reason=problem.message))
        except Exception as problem:  # noqa: BLE001 - whatever a backend raises is its answer
            found.append(LayerErrors(backend=backend.name, reason=f"{type(problem).__name__}: {first_line(problem)}"))
        finally:
            backend.release()
    return found


def _error(output: np.ndarray, answer: np.ndarray) -> float | None:
    finite = np.isfinite(answer)
    if output.shape != answer.shape or not np.isfinite(output[finite]).all():
        return None
    scale = float(np.abs(answer[finite]).max(initial=0.0))
    unit = max(ARITHMETICS["float32"].eps * scale, float(np.finfo(np.float32).tiny))
    return largest_error(output, answer, unit)[0]
