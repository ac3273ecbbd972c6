"""Smaller variants of a verified file, what they lose, and how much of that is let through.

``fp16``
    weights and arithmetic in float16, inputs and outputs in float32.
``int8``
    weights in int8, activations quantised as they come (dynamic).
``int8-qdq``
    weights and activations in int8 with scales calibrated on held-out rows, as quantize and dequantize nodes.

What stands before the first layer with weights (standardising raw rows, above all) stays in float32 in every variant:
raw columns may be larger than float16 holds, and eight bits cannot hold columns of different sizes.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lrdiff_core.errors import CheckFailed, ConfigError, UnavailableError
from lrdiff_export.onnx_file.convert import clean
from lrdiff_export.onnx_file.float16 import to_float16
from lrdiff_export.onnx_file.load import model_inputs, opset_of, parse_onnx
from lrdiff_export.publish.latency import Latency, measure_calls
from lrdiff_export.records import first_line, json_ready
from lrdiff_export.runtimes.predictor import open_session
from lrdiff_export.verify.inputs import Battery

__all__ = ["VARIANTS", "Allowance", "HeldOut", "VariantReport", "make_variant"]

WEIGHTED = frozenset({"Gemm", "MatMul", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "Gather", "Attention"})
# x86 processors without VNNI add pairs of products in 16 bits: 255 x 127 x 2 is too much for these, 255 x 63 x 2
# is not.
# With full weights a file would be right where it was verified and wrong on another machine.
SEVEN_BITS = True
CALIBRATION_ROWS = 128
CALIBRATION_BATCH = 16
TIMED_CALLS = 200
FLIPPED = 0.02  # of the decisions, unless an allowance says otherwise
PERFECT_DB = 300.0  # what a signal without any noise is given: float64 holds no more


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a variant may lose against float64; each limit is inclusive.

    Attributes:
        snr_db: least ratio of signal to noise over all outputs, in decibels. 20 dB is a tenth of the signal.
        flipped: largest share of rows whose decision changes; by default 0.02 where there are decisions. A number
            that is given is applied, or refused where nothing says what the decisions are.
        score_drop: largest fall of the validation metric.

    Raises:
        ConfigError: a share is not between 0 and 1, or a limit is no number.

    Example:
        >>> Allowance(flipped=0.0).snr_db
        20.0
    """

    snr_db: float = 20.0
    flipped: float | None = None
    score_drop: float = 0.01

    def __post_init__(self) -> None:
        if np.isnan(self.snr_db):  # which nothing would be less than
            raise ConfigError(f"snr_db is {self.snr_db}, not a number of decibels", help="write 20")
        if self.flipped is not None and not 0 <= self.flipped <= 1:
            raise ConfigError(f"flipped is {self.flipped}, not a share from 0 to 1", help="write 0.02 for two of 100")
        if not self.score_drop >= 0:
            raise ConfigError(f"score_drop is {self.score_drop}, not 0 or more", help="write 0.01")


@dataclass(frozen=True, kw_only=True)
class VariantReport:
    """What a variant is and loses.

    Attributes:
        name: ``fp16``, ``int8`` or ``int8-qdq``.
        path: the file.
        sha256: of the file.
        size: in bytes.
        size_ratio: to the float32 file.
        snr_db: signal to noise over all held-out rows, in decibels, against float64, of the worst floating output.
        flipped: held-out rows whose decision differs from that of float64; None where there are no decisions.
        rows: held-out rows that were run.
        score: validation metric of the variant; None without labels.
        score_fp64: the same of float64.
        median_us: median time of one call with one row, in microseconds, one thread.
        median_us_fp32: the same of the float32 file, timed in turns with it.
    """

    name: str
    path: str
    sha256: str
    size: int
    size_ratio: float
    snr_db: float
    flipped: int | None
    rows: int
    score: float | None
    score_fp64: float | None
    median_us: float
    median_us_fp32: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return json_ready(self)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out rows, their right answers, and how an answer is turned into decisions and a score."""

    feeds: tuple[np.ndarray, ...]
    answers: tuple[np.ndarray, ...]
    decide: Callable[[np.ndarray], np.ndarray] | None
    labels: np.ndarray | None
    score: Callable[[np.ndarray, np.ndarray], float] | None

    @classmethod
    def of(
        cls,
        battery: Battery,
        *,
        labels: np.ndarray | None,
        score: Callable[[np.ndarray, np.ndarray], float] | None,
        decide: Callable[[np.ndarray], np.ndarray] | None,
        classes: bool,
        counts_flips: bool = False,
    ) -> HeldOut:
        """Take the held-out rows of a battery.

        Args:
            battery: of the module.
            labels: one a row.
            score: from answers and labels.
            decide: from answers to decisions.
            classes: whether answers are scores of classes.
            counts_flips: whether decisions are needed.

        Raises:
            ConfigError: as many labels as rows are needed, and a score or decisions to use them.
        """
        several = battery.reference.expected[0].answer[:1].size > 1
        if decide is None and (classes or (counts_flips and several)):
            decide = _decide
        if decide is None and counts_flips:
            raise ConfigError(
                "flipped is given, and nothing says what the decisions are",
                help="give decide=, from answers to decisions, or a card with classes",
            )
        if labels is not None and len(labels) != len(battery.given[0]):
            raise ConfigError(f"{len(labels)} labels for {len(battery.given[0])} rows", help="give one label per row")
        if labels is not None and score is None:
            if decide is None:
                raise ConfigError("labels are given, and no score", help="give score=, from answers and labels")
            score = _share_right(decide)
        return cls(
            feeds=battery.given,
            answers=tuple(battery.answers()),
            decide=decide,
            labels=labels,
            score=score,
        )

    def flips(self, answer: np.ndarray) -> int | None:
        """Count decisions that differ from those of float64."""
        if self.decide is None:
            return None
        return int(np.sum(np.asarray(self.decide(answer)) != np.asarray(self.decide(self.answers[0]))))

    def scored(self, answer: np.ndarray) -> float | None:
        """Return the validation metric of an answer."""
        if self.score is None or self.labels is None:
            return None
        return float(self.score(answer, self.labels))


def make_variant(
    name: str, data: bytes, battery: Battery, held_out: HeldOut, *, path: Path, allowance: Allowance
) -> tuple[bytes, VariantReport]:
    """Make a variant of a verified float32 file and measure what it loses.

    Args:
        name: of :data:`VARIANTS`.
        data: the float32 file.
        battery: whose held-out rows calibrate and judge.
        held_out: the right answers.
        path: its final name, for the report.
        allowance: what it may lose.

    Raises:
        CheckFailed: it loses more; the message says what, how much, and what is allowed.
        UnavailableError: ONNX Runtime's tools cannot make it of this graph.
    """
    try:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            model = VARIANTS[name](data, battery, Path(folder))
    except Exception as problem:  # the tools raise of all kinds
        raise UnavailableError(
            f"{name} cannot be made of this model: {first_line(problem)}", help="leave the variant out"
        ) from problem
    source = onnx.ModelProto.FromString(data)
    clean(model, opset=opset_of(model), metadata={entry.key: entry.value for entry in source.metadata_props})
    model.producer_name, model.producer_version = source.producer_name, source.producer_version
    entry = model.metadata_props.add()
    entry.key, entry.value = "lrdiff.variant", name
    content = model.SerializeToString(deterministic=True)
    parse_onnx(content, name=path.name)
    report = _measure(name, content, data, held_out, path)
    _check(report, allowance)
    return content, report


def _measure(name: str, content: bytes, fp32: bytes, held_out: HeldOut, path: Path) -> VariantReport:
    session = open_session(content)
    names = [one.name for one in session.get_inputs()]
    outputs = session.run(None, dict(zip(names, held_out.feeds, strict=True)))
    rows = dict(zip(names, (one[:1] for one in held_out.feeds), strict=True))
    times: dict[str, Latency] = measure_calls(
        {"variant": lambda: session.run(None, rows), "fp32": _call(fp32, held_out)},
        calls=TIMED_CALLS,
        batch=1,
        threads=1,
    )
    return VariantReport(
        name=name,
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        size_ratio=len(content) / len(fp32),
        snr_db=_snr(outputs, held_out.answers),
        flipped=held_out.flips(np.asarray(outputs[0])),
        rows=len(held_out.feeds[0]),
        score=held_out.scored(np.asarray(outputs[0])),
        score_fp64=held_out.scored(held_out.answers[0]),
        median_us=times["variant"].median_us,
        median_us_fp32=times["fp32"].median_us,
    )


def _call(data: bytes, held_out: HeldOut) -> Callable[[], Any]:
    session = open_session(data)
    rows = dict(zip((one.name for one in session.get_inputs()), (one[:1] for one in held_out.feeds), strict=True))
    return lambda: session.run(None, rows)


def _check(report: VariantReport, allowance: Allowance) -> None:
    lost: list[str] = []
    if report.snr_db < allowance.snr_db:
        lost.append(f"signal to noise {report.snr_db:.1f} dB, at least {allowance.snr_db:g} is asked for")
    flipped = FLIPPED if allowance.flipped is None else allowance.flipped
    if report.flipped is not None and report.flipped > flipped * report.rows:
        lost.append(f"{report.flipped} of {report.rows} decisions flipped, {flipped:.2%} are allowed")
    if report.score is not None and report.score_fp64 is not None:
        drop = report.score_fp64 - report.score
        if not drop <= allowance.score_drop + 1e-12:  # 1 - 0.99 is a little more than 0.01
            lost.append(f"the validation metric falls by {drop:.4g}, {allowance.score_drop:g} is allowed")
    if lost:
        raise CheckFailed(
            f"variant {report.name} loses too much: {'; '.join(lost)}",
            help="nothing was written; leave the variant out, or allow more: --allow, or allowance= in Python",
        )


def _snr(outputs: list[Any], answers: tuple[np.ndarray, ...]) -> float:
    """Signal to noise in decibels of the worst floating output: a small one is not hidden by a large one."""
    pairs = zip(outputs, answers, strict=True)
    found = [_snr_of(np.asarray(output), answer) for output, answer in pairs if answer.dtype.kind == "f"]
    return min(found, default=PERFECT_DB)


def _snr_of(output: np.ndarray, answer: np.ndarray) -> float:
    both = np.isfinite(answer) & np.isfinite(output)
    if (np.isfinite(answer) != np.isfinite(output)).any():
        return -PERFECT_DB
    signal = float((answer[both] ** 2).sum())
    noise = float(((output.astype(np.float64)[both] - answer[both]) ** 2).sum())
    if noise == 0.0:
        return PERFECT_DB
    return -PERFECT_DB if signal == 0.0 else float(10 * np.log10(signal / noise))


def _before_weights(model: onnx.ModelProto) -> list[str]:
    """Name the nodes that no layer with weights comes before; nodes without a name are given one."""
    makers = {name: node for node in model.graph.node for name in node.output}
    after: set[str] = set()
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node{index}"
        if node.op_type in WEIGHTED or any(name in after for name in node.input):
            after.update(node.output)
    return [node.name for node in model.graph.node if not any(name in after for name in node.output) and makers]


def _shares_weights(model: onnx.ModelProto) -> bool:
    """Whether two nodes read one matrix: the tools then take the channels of one for those of the other."""
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
    read = [name for node in model.graph.node for name in node.input if name in matrices]
    return len(read) != len(set(read))


def _fp16(data: bytes, battery: Battery, folder: Path) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(data)
    kept = _before_weights(model)
    return to_float16(model, kept=kept)


def _int8(data: bytes, battery: Battery, folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.ModelProto.FromString(data)
    kept = _before_weights(model)
    out = folder / "out.onnx"
    quantize_dynamic(
        model,
        out,
        weight_type=QuantType.QInt8,
        per_channel=not _shares_weights(model),
        reduce_range=SEVEN_BITS,
        nodes_to_exclude=kept,
    )
    return onnx.load(out)


def _int8_qdq(data: bytes, battery: Battery, folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    model = onnx.ModelProto.FromString(data)
    kept = _before_weights(model)
    names = [one.name for one in model_inputs(model)]

    class Rows(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
        def __init__(self) -> None:
            count = min(CALIBRATION_ROWS, len(battery.given[0]))
            starts = range(0, count, CALIBRATION_BATCH)
            self.batches = iter(
                [{n: a[i : i + CALIBRATION_BATCH] for n, a in zip(names, battery.given, strict=True)} for i in starts]
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    out = folder / "out.onnx"
    quantize_static(
        model,
        out,
        Rows(),
        quant_format=QuantFormat.QDQ,
        per_channel=not _shares_weights(model),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=SEVEN_BITS,
        nodes_to_exclude=kept,
    )
    return onnx.load(out)


VARIANTS: dict[str, Callable[[bytes, Battery, Path], onnx.ModelProto]] = {
    "fp16": _fp16,
    "int8": _int8,
    "int8-qdq": _int8_qdq,
}


def _decide(answer: np.ndarray) -> np.ndarray:
    """[batch] or [batch, 1]: above one half; [batch, classes]: the largest."""
    flat = answer.reshape(len(answer), -1)
    return np.asarray(flat[:, 0] > 0.5 if flat.shape[1] == 1 else flat.argmax(axis=1))


def _share_right(decide: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda answer, labels: float(np.mean(np.asarray(decide(answer)) == np.asarray(labels)))


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools log advice about pre-processing that does not apply to a file that is optimised already."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
