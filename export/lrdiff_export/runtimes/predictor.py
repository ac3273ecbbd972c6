"""ONNX Runtime sessions that run where they were asked to, and a predictor with named outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnxruntime

from lrdiff_core.errors import ConfigError, DataError, ModelFileError, UnavailableError
from lrdiff_export.model.domain import read_domain
from lrdiff_export.onnx_file.load import load_onnx, parse_onnx
from lrdiff_export.records import first_line

__all__ = ["CPU_PROVIDER", "OnnxPredictor", "open_session"]

CPU_PROVIDER = "CPUExecutionProvider"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_QUIET = 4  # ONNX Runtime's log severity "fatal": errors come as exceptions


def open_session(
    data: bytes,
    *,
    optimise: bool | str = True,
    threads: int = 1,
    provider: str = CPU_PROVIDER,
    record_assignment: bool = False,
) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session on exactly one execution provider.

    Args:
        data: bytes of a model, as :func:`lrdiff_export.onnx_file.load.load_onnx` returns them.
        optimise: all graph optimisations, or none, or a level by name: ``disabled``, ``basic``, ``extended``, ``all``.
        threads: threads inside an operator.
        provider: the execution provider. ONNX Runtime would fall back to the CPU with a mere warning; here that fails.
        record_assignment: let the session tell afterwards which provider was given which node.

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
    options.log_severity_level = _QUIET
    level = optimise if isinstance(optimise, str) else "all" if optimise else "disabled"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
    folder = getattr(data, "folder", None)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if record_assignment:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
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
            help="`lrdiff doctor` shows what works on this machine",
        )
    return session


class OnnxPredictor:
    """Predict with an ONNX file, as a deployer would: one session, inputs by position or name, outputs by name.

    Args:
        path: an ONNX file, or its bytes, whose inputs are float32, integer, bool or string tensors.
        threads: threads inside an operator; one answers a single row fastest.
        provider: the execution provider; one that is not here is an error, never the CPU.

    Attributes:
        input_names: in the order of the file.
        input_shape: of the first input: ``[batch, ...]``, a text or None where a dimension is free.
        output_names: in the order of the file.
        domain: the inputs that the file is proven for; others are refused.

    Raises:
        ModelFileError: not an ONNX file, or one with other inputs.
        ConfigError: the number of threads is not positive.
        UnavailableError: the provider is not here.

    Example:
        >>> import torch
        >>> from lrdiff_export import convert_to_onnx
        >>> data = convert_to_onnx(torch.nn.ReLU(), example=torch.zeros(1, 2))
        >>> OnnxPredictor(data).run(np.array([[-1.0, 2.0]], np.float32))
        {'output': array([[0., 2.]], dtype=float32)}
    """

    def __init__(self, path: str | os.PathLike[str] | bytes, *, threads: int = 1, provider: str = CPU_PROVIDER) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ConfigError(f"threads is {threads!r}, not a whole number of 1 or more", help="write threads=1")
        data = path if isinstance(path, bytes) else load_onnx(path)
        if isinstance(path, bytes):
            parse_onnx(data)
        self._session = open_session(data, threads=threads, provider=provider)
        inputs = self._session.get_inputs()
        if not inputs or any(one.type not in _DTYPES for one in inputs):
            found = ", ".join(f"{one.name}: {one.type}" for one in inputs)
            raise ModelFileError(
                f"the model takes {found or 'nothing'}, not float32, integer, bool or string tensors",
                help="run it with onnxruntime itself, which takes any inputs",
            )
        self.input_names: tuple[str, ...] = tuple(one.name for one in inputs)
        self.input_name: str = self.input_names[0]
        self.input_shapes: tuple[tuple[int | str | None, ...], ...] = tuple(tuple(one.shape) for one in inputs)
        self.input_shape = self.input_shapes[0]
        self._dtypes = [np.dtype(_DTYPES[one.type]) for one in inputs]
        self.output_names: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())
        self._outputs = list(self.output_names)
        self.domain = read_domain(self._session.get_modelmeta().custom_metadata_map)
        # Where only the batch is free, one comparison tells whether rows fit.
        self._tails = [
            tuple(shape[1:]) if all(isinstance(size, int) for size in shape[1:]) and shape[:1] else None
            for shape in self.input_shapes
        ]

    def run(self, *rows: np.ndarray, **named: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs for ``rows`` by name.

        Args:
            rows: one array an input, ``[batch, ...]``, in the order of the file; other real dtypes are converted.
                Words may be any array of strings; None, NaN and a word that is not known mean the same.
            named: the same by name.

        Raises:
            DataError: the rows have another shape, or are not numbers, or inputs are missing.
        """
        answers = self._session.run(self._outputs, self._feed(rows, named))
        return dict(zip(self._outputs, answers, strict=True))

    def bind(self, *rows: np.ndarray, **named: np.ndarray) -> Bound:
        """Return a call with memory of its own for inputs and outputs of this batch size.

        Args:
            rows: as for :meth:`run`; their values are the first inputs.
            named: the same by name.

        Raises:
            DataError: as for :meth:`run`, or an input takes words, which lie in no memory that stays.
        """
        if words := [name for name, dtype in zip(self.input_names, self._dtypes, strict=True) if dtype.kind == "O"]:
            raise DataError(f"input {words[0]!r} takes words, which cannot be bound", help="call run() with them")
        return Bound(self._session, self._feed(rows, named), self._outputs)

    def _feed(self, rows: tuple[np.ndarray, ...], named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if named:
            if rows or sorted(named) != sorted(self.input_names):
                raise DataError(
                    f"inputs {', '.join(named)} are given by name",
                    help=f"the model takes {', '.join(self.input_names)}",
                )
            rows = tuple(named[name] for name in self.input_names)
        if len(rows) != len(self.input_names):
            raise DataError(
                f"{len(rows)} inputs are given, the model takes {len(self.input_names)}",
                help=f"give one array for each of {', '.join(self.input_names)}",
            )
        feed = {}
        for index, one in enumerate(rows):
            # The usual case costs two comparisons: a call with one row takes a few microseconds in all.
            if (
                type(one) is not np.ndarray
                or one.dtype is not self._dtypes[index]
                or one.shape[1:] != self._tails[index]
            ):
                one = self._fitted(index, one)
            feed[self.input_names[index]] = one
        self.domain.check(feed)
        return feed

    def _fitted(self, index: int, rows: np.ndarray) -> np.ndarray:
        dtype, shape = self._dtypes[index], self.input_shapes[index]
        if dtype.kind == "O":
            return self._fitted_words(rows, shape)
        try:
            given = np.asarray(rows)
            if dtype.kind != "f" and given.dtype.kind not in "iub":
                raise TypeError(f"{given.dtype} for an input of {dtype}")
            batch = np.asarray(given, dtype=dtype, order="C")
        except (TypeError, ValueError) as problem:
            raise DataError(f"rows are not numbers: {first_line(problem)}", help=f"give a {dtype} array") from problem
        return self._checked(batch, shape)

    def _fitted_words(self, rows: np.ndarray, shape: tuple[int | str | None, ...]) -> np.ndarray:
        """Objects: of NumPy's own strings ONNX Runtime cuts a word at a zero."""
        words = np.asarray(rows, dtype=object, order="C")
        if wrong := [word for word in words.ravel().tolist() if not isinstance(word, str) and not _is_missing(word)]:
            raise DataError(
                f"rows of words hold {wrong[0]!r}, a {type(wrong[0]).__name__}",
                help="give strings; None where there is none",
            )
        return self._checked(words, shape)

    def _checked(self, batch: np.ndarray, shape: tuple[int | str | None, ...]) -> np.ndarray:
        if not fits(batch.shape, shape):
            raise DataError(
                f"rows have shape {list(batch.shape)}, the model takes {describe_shape(shape)}",
                help="give one row of features a sample, in the order of training",
            )
        return batch


class Bound:
    """One batch size bound to memory that stays: each call reads ``inputs`` and overwrites ``outputs``.

    It saves ONNX Runtime the checking of names and the allocation of outputs. Keep an answer by copying it.

    Attributes:
        inputs: arrays by name; write new rows into them, in place.
        outputs: arrays by name, filled by each call.

    Source: https://onnxruntime.ai/docs/api/python/api_summary.html#data-inputs-and-outputs
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray], outputs: Sequence[str]
    ) -> None:
        self._session = session
        self.inputs = {name: np.array(one, order="C") for name, one in feed.items()}
        self.outputs = dict(zip(outputs, session.run(list(outputs), self.inputs), strict=True))
        self._binding = session.io_binding()
        for name, one in self.inputs.items():
            self._binding.bind_cpu_input(name, one)
        for name, one in self.outputs.items():
            self._binding.bind_output(name, "cpu", 0, one.dtype, one.shape, one.ctypes.data)

    def __call__(self) -> dict[str, np.ndarray]:
        """Run on what ``inputs`` hold now, and return ``outputs``."""
        self._session.run_with_iobinding(self._binding)
        return self.outputs


def _is_missing(word: object) -> bool:
    return word is None or (isinstance(word, float) and word != word)


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
