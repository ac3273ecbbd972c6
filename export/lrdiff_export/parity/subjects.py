"""What a parity check compares: a module, or an ONNX file with golden vectors beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lrdiff_core.errors import ConfigError, ModelFileError
from lrdiff_export.model.prepared import Prepared, prepare
from lrdiff_export.model.signature import Arrays, as_arrays
from lrdiff_export.onnx_file.convert import convert
from lrdiff_export.onnx_file.external_data import ModelBytes, sha256_of
from lrdiff_export.onnx_file.load import load_onnx, parse_onnx
from lrdiff_export.onnx_file.text_inputs import network_of, takes_text
from lrdiff_export.parity.judge import GoldenJudge, Judge, ModuleJudge
from lrdiff_export.runtimes import Backend
from lrdiff_export.runtimes.sandbox import Limits, Sandbox
from lrdiff_export.verify.golden import read_golden

__all__ = ["Decide", "Subject", "subject_of_file", "subject_of_module"]

LIMITS = Limits()  # for a file that a path names: it may come from anywhere
EAGER = "eager float64 on cpu"
Decide = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What predicts, with the rows to predict and who judges; see :func:`subject_of_module`, :func:`subject_of_file`.

    Attributes:
        module: takes tensors by position; None where there is only a file.
        rows: one array an input, ``[batch, ...]``.
        judge: knows the answers.
        get_onnx: makes or gives the ONNX file: its bytes where it was made here, else its path.
        limits: of the sandbox in which a file from elsewhere is run; None to run it in this process.
        decide: from the first output ``[batch, ...]`` to one decision a row ``[batch]``.
        batched: whether a file takes rows together; False to run it on one sample after the other.
        reference: what the answers are, in words.
        own_state: names of the buffers that the module itself changes when it is called, such as a count of calls.
    """

    module: nn.Module | None
    rows: tuple[np.ndarray, ...]
    judge: Judge
    get_onnx: Callable[[], bytes | Path]
    limits: Limits | None = None
    decide: Decide | None = None
    batched: bool = True
    reference: str = EAGER
    own_state: frozenset[str] = frozenset()

    def weights(self) -> list[str]:
        """Return something of each weight that changes when it does."""
        if self.module is None:
            return []
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        return [_trace(one) for name, one in named if name not in self.own_state]

    def model_for(self, backend: Backend) -> nn.Module | bytes | Path:
        """Return what a backend prepares."""
        if backend.needs_onnx:
            return self.get_onnx()
        assert self.module is not None
        return self.module


def subject_of_module(
    module: nn.Module | Prepared,
    rows: Arrays,
    *,
    onnx_bytes_or_path: bytes | str | os.PathLike[str] | None = None,
    decide: Decide | None = None,
    output_names: Sequence[str] | None = None,
    limits: Limits | None = LIMITS,
) -> Subject:
    """Return a module as the subject of a comparison.

    Args:
        module: takes tensors by position, or by keyword where ``rows`` is a mapping; it is copied. Or one that is
            prepared, where there is more to say of it.
        rows: ``[batch, ...]`` an input, float32, integer or bool; of a module without a batch, samples.
        onnx_bytes_or_path: what ONNX backends run; converted from ``module`` when not given. Of a file that takes words
            they run the network of codes and numbers behind its encoders.
        decide: from the first output to one decision a row, to count flips.
        output_names: of the outputs; which entries to take where the module gives a mapping.
        limits: within which an ONNX file that a path names is run; None to trust it.

    Raises:
        DataError: the rows cannot be fed to a model.
        InputError: the module cannot be evaluated in float64.
        ModelFileError: the ONNX file is not one, or does not run within the limits.
        ConfigError: another number of output names than of outputs.

    Example:
        >>> subject = subject_of_module(nn.Linear(3, 1), np.ones((4, 3), np.float32))
        >>> subject.judge.answers[0].dtype, len(subject.get_onnx()) > 100
        (dtype('float64'), True)
    """
    arrays = as_arrays(rows)
    examples = [torch.from_numpy(one[:2].copy()) for one in arrays]
    example = dict(zip(rows, examples, strict=True)) if isinstance(rows, Mapping) else examples
    prepared = module if isinstance(module, Prepared) else prepare(module, example, output_names=output_names)
    judge = ModuleJudge(prepared, arrays)
    if len(prepared.output_names) != len(judge.answers):
        raise ConfigError(
            f"{len(prepared.output_names)} output names are given, the module gives {len(judge.answers)}",
            help="give one name per output",
        )
    made: list[bytes | Path] = []  # at most one: given, or converted when a backend first asks
    given, reference = None, EAGER
    if isinstance(onnx_bytes_or_path, bytes):
        network = _network(onnx_bytes_or_path)
        made.append(onnx_bytes_or_path if network is None else network)
    elif onnx_bytes_or_path is not None:
        given, file = limits, Path(onnx_bytes_or_path)
        network = _network_in(file, limits)
        made.append(_tried(file, [one[:2] for one in arrays], limits) if network is None else network)
    if made and network is not None:
        reference = f"{EAGER} (in ONNX: the network behind the encoders of words)"

    def get_onnx() -> bytes | Path:
        if not made:
            made.append(convert(prepared).data)
        return made[0]

    return Subject(
        module=prepared.module,
        rows=arrays,
        judge=judge,
        get_onnx=get_onnx,
        limits=given,
        decide=decide,
        batched=prepared.batched,
        reference=reference,
        own_state=_own_state(prepared.module, examples),
    )


def _trace(tensor: torch.Tensor) -> str:
    """Something that changes when a tensor does; as text, because NaN is not equal to itself."""
    return str(tensor.sum().item())


def _own_state(module: nn.Module, example: Sequence[torch.Tensor]) -> frozenset[str]:
    """Return the names of the buffers that a call changes; all are put back."""
    before = {name: (buffer, buffer.clone()) for name, buffer in module.named_buffers()}
    with torch.no_grad():
        module(*example)
        changed = frozenset(name for name, one in module.named_buffers() if _trace(one) != _trace(before[name][1]))
        for name, (buffer, values) in before.items():  # in place, so that what shares a buffer goes on sharing it
            owner, _, last = name.rpartition(".")
            setattr(module.get_submodule(owner), last, buffer.copy_(values))
    return changed


def subject_of_file(path: str | os.PathLike[str], *, limits: Limits | None = LIMITS) -> Subject:
    """Return an ONNX file as the subject of a comparison: the golden vectors beside it are the answers.

    Args:
        path: of a file from anywhere.
        limits: within which it is run; None to trust it, and to run it in this process.

    Raises:
        ModelFileError: the file or its golden vectors cannot be used, or do not belong together, or it does not run
            within the limits.
    """
    file, golden = Path(path), read_golden(path)
    if sha256_of(file, through_links=True) != golden.model_sha256:
        raise ModelFileError(
            f"{file.name} is not the file that the golden vectors beside it were written for",
            help="get the three files from one export",
        )
    _tried(file, golden.inputs, limits)
    return Subject(
        module=None,
        rows=golden.inputs,
        judge=GoldenJudge(golden),
        get_onnx=lambda: file,
        limits=limits,
        reference="golden vectors, float64",
    )


def _network(data: bytes) -> bytes | None:
    """The network of a file that takes words; None of any other."""
    model = parse_onnx(data)
    if not takes_text(model):
        return None
    cut: bytes = network_of(model).SerializeToString()
    return ModelBytes.of(cut, getattr(data, "folder", None), getattr(data, "weights", 0))


def _network_in(file: Path, limits: Limits | None) -> bytes | None:
    if limits is not None:
        with Sandbox(limits) as sandbox:
            ports = sandbox.inspect(file)
        if not ports.takes_words:
            return None
    return _network(load_onnx(file))


def _tried(file: Path, rows: Sequence[np.ndarray], limits: Limits | None) -> Path:
    """Raise unless a file runs in ONNX Runtime within the limits; only then do other runtimes see it."""
    if limits is None:
        load_onnx(file)
    else:
        with Sandbox(limits) as sandbox:
            sandbox.run(file, rows)
    return file
