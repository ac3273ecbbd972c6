"""ONNX Runtime sessions that run where they were asked to, and a predictor with named outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnxruntime

from lrdiff_core.errors import ConfigError, DataError, ModelFileError, UnavailableError
from lrdiff_export.modelfile import load_onnx, parse_onnx
from lrdiff_export.records import first_line

__all__ = ["CPU_PROVIDER", "OnnxPredictor", "open_session"]

CPU_PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3  # ONNX Runtime's log severity: what matters comes as an exception


def open_session(
    data: bytes, *, optimise: bool = True, threads: int = 1, provider: str = CPU_PROVIDER
) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session on exactly one execution provider.

    Args:
        data: bytes of a model.
        optimise: all graph optimisations, or none.
        threads: threads inside an operator.
        provider: the execution provider. ONNX Runtime would fall back to the CPU with a mere warning; here that fails.

    Raises:
        UnavailableError: the provider is not in this build, or did not take the model.
        ModelFileError: ONNX Runtime cannot read or run the model.

    Example:
        >>> open_session(b"", provider="NoSuchProvider")
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.UnavailableError: onnxruntime has no NoSuchProvider here
        help: providers of this build: ...

    Source: https://onnxruntime.ai/docs/execution-providers/
    """
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise UnavailableError(
            f"onnxruntime has no {provider} here", help=f"providers of this build: {', '.join(available)}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if provider != CPU_PROVIDER:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[provider])
    except Exception as problem:  # its exceptions share no base below Exception
        raise ModelFileError(
            f"onnxruntime {onnxruntime.__version__} cannot load the model: {first_line(problem)}",
            help="check the opset, the IR version and the operators: lrdiff verify shows them",
        ) from problem
    if session.get_providers()[:1] != [provider]:
        raise UnavailableError(
            f"asked onnxruntime for {provider}, got {', '.join(session.get_providers())}",
            help="see lrdiff doctor for what can be used here",
        )
    return session


class OnnxPredictor:
    """Predict with an ONNX file, as a deployer would: one session on the CPU, outputs by name.

    Args:
        path: an ONNX file, or its bytes, with one float32 input ``[batch, features...]``.
        threads: threads inside an operator; one answers a single row fastest.

    Raises:
        ModelFileError: not an ONNX file, or not one with a single float32 input.
        ConfigError: the number of threads is not positive.

    Example:
        >>> import torch
        >>> from lrdiff_export import convert_to_onnx
        >>> data = convert_to_onnx(torch.nn.ReLU(), example=torch.zeros(1, 2))
        >>> OnnxPredictor(data).run(np.array([[-1.0, 2.0]], np.float32))
        {'output': array([[0., 2.]], dtype=float32)}
    """

    def __init__(self, path: str | os.PathLike[str] | bytes, *, threads: int = 1) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ConfigError(f"threads is {threads!r}, not a whole number of 1 or more", help="write threads=1")
        data = path if isinstance(path, bytes) else load_onnx(path)
        if isinstance(path, bytes):
            parse_onnx(data)
        self._session = open_session(data, threads=threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{one.name}: {one.type}" for one in inputs)
            raise ModelFileError(
                f"the model takes {found or 'nothing'}, not one float32 tensor",
                help="run it with onnxruntime itself, which takes any inputs",
            )
        self.input_name: str = inputs[0].name
        # [batch, features...], a text or None where a dimension is free
        self.input_shape: tuple[int | str | None, ...] = tuple(inputs[0].shape)
        self.output_names: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs for ``rows`` by name.

        Args:
            rows: ``[batch, features...]``; other real dtypes are converted to float32.

        Raises:
            DataError: the rows have another shape, or are not numbers.
        """
        try:
            batch = np.ascontiguousarray(rows, dtype=np.float32)
        except (TypeError, ValueError) as problem:
            raise DataError(f"rows are not numbers: {first_line(problem)}", help="give a float32 array") from problem
        if not fits(batch.shape, self.input_shape):
            raise DataError(
                f"rows have shape {list(batch.shape)}, the model takes {describe_shape(self.input_shape)}",
                help="give one row of features a sample, in the order of training",
            )
        return dict(zip(self.output_names, self._session.run(None, {self.input_name: batch}), strict=True))


def fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    """Whether a concrete shape satisfies one with free dimensions.

    Example:
        >>> fits((4, 10), ("batch", 10))
        True
    """
    return len(shape) == len(wanted) and all(
        not isinstance(need, int) or have == need for have, need in zip(shape, wanted, strict=True)
    )


def describe_shape(shape: Sequence[int | str | None]) -> str:
    """Write a shape with free dimensions the way the documentation does.

    Example:
        >>> describe_shape(("batch", 10))
        '[batch, 10]'
    """
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
