"""Golden vectors: inputs, float64 answers and budgets in two small files beside a model.

With ``model.golden.npz`` and ``model.golden.json`` anyone can check a file in any runtime, without PyTorch, without the
module and without this package: run the inputs, compare with the answers, allow ``allowed`` units of ``unit``.
``onnx_worker.mjs`` in :mod:`lrdiff_export.runtimes.javascript` does it under node and in a browser.

A file is not believed everything: whatever budget it states, an answer may lose at most half of the digits of its
dtype at the scale of the outputs, and integers must be equal. A file that allows more is refused.

The arrays are stored uncompressed, ``input0 ...`` and ``output0 ...``, in the order of the JSON document's lists.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_core.errors import DataError, InputError, ModelFileError, UnavailableError
from lrdiff_core.text import count
from lrdiff_export.model.text_inputs import TextInputs
from lrdiff_export.onnx_file.external_data import DataFile, is_plain, sha256_of
from lrdiff_export.records import first_line, json_ready
from lrdiff_export.runtimes import find_backends
from lrdiff_export.runtimes.protocol import refuses_words
from lrdiff_export.runtimes.sandbox import Sandbox, in_sandbox
from lrdiff_export.verify.compare import Budget, Verdict, judge_output

if TYPE_CHECKING:
    from lrdiff_export.verify.inputs import Battery

__all__ = [
    "Golden",
    "GoldenReport",
    "check_beside",
    "earlier_golden_kept",
    "golden_paths",
    "make_golden",
    "read_golden",
    "verify_golden",
]

FORMAT = "lrdiff.golden"
VERSION = 1
HELD_OUT_ROWS = 16
OTHER_ROWS = 8  # of normal ones and of extremes each
LARGEST = 64 * 2**20  # bytes of golden vectors that are read
Run = Callable[[Path, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
_HELP = "export the model again, or get the files beside it from where it came from"


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Golden vectors.

    Attributes:
        model_sha256: of the file that they belong to.
        data: the second file with its weights; None where they are inside.
        input_names: in the order of the file's inputs.
        output_names: in the order of the file's outputs.
        inputs: one array an input, ``[rows, ...]``.
        outputs: one array an output, ``[rows, ...]``, float64 for floating outputs.
        budgets: one an output.
    """

    model_sha256: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    budgets: tuple[Budget, ...]
    data: DataFile | None = None

    def files(self) -> tuple[bytes, bytes]:
        """Return the bytes of the npz file and of the JSON document; the same in every process."""
        buffer = io.BytesIO()
        arrays = {f"input{i}": one for i, one in enumerate(self.inputs)}
        arrays |= {f"output{i}": one for i, one in enumerate(self.outputs)}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        vectors = buffer.getvalue()
        document = {
            "format": FORMAT,
            "version": VERSION,
            "rows": len(self.inputs[0]),
            "model_sha256": self.model_sha256,
            **({} if self.data is None else {"data": asdict(self.data)}),
            "vectors_sha256": hashlib.sha256(vectors).hexdigest(),
            "inputs": [
                {"name": name, "dtype": _name_of(one.dtype), "shape": list(one.shape)}
                for name, one in zip(self.input_names, self.inputs, strict=True)
            ],
            "outputs": [
                {"name": name, "shape": list(one.shape), **asdict(budget)}
                for name, one, budget in zip(self.output_names, self.outputs, self.budgets, strict=True)
            ],
        }
        return vectors, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


@dataclass(frozen=True, kw_only=True)
class GoldenReport:
    """What a runtime answered to golden vectors.

    Attributes:
        file: the model.
        runtime: that ran it, with its version.
        sha256: of the model.
        rows: that were run.
        verdicts: one an output.
        problems: what failed, one line each.
    """

    file: str
    runtime: str
    sha256: str
    rows: int
    verdicts: tuple[Verdict, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every output agrees."""
        return bool(self.verdicts) and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; errors that are not finite become None."""
        return {"passed": self.passed, **json_ready(self)}


def golden_paths(model: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return where the golden vectors of a model lie: the npz file and the JSON document.

    Example:
        >>> [path.name for path in golden_paths("model.onnx")]
        ['model.golden.npz', 'model.golden.json']
    """
    path = Path(model)
    return path.with_name(path.stem + ".golden.npz"), path.with_name(path.stem + ".golden.json")


@contextmanager
def earlier_golden_kept(model: Path) -> Iterator[None]:
    """Keep the golden vectors of the model that is there, by its hash, while a block replaces it and them.

    Three files cannot be renamed at once. Whatever stops the renames, the model that stands then has its own vectors.
    """
    kept = _keep(model)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if all(one.read_bytes() == path.read_bytes() for path, one in zip(golden_paths(model), kept, strict=False)):
                for one in kept:  # nothing was replaced
                    one.unlink()
        raise
    for one in _all_kept(model):
        one.unlink(missing_ok=True)


def _keep(model: Path) -> tuple[Path, ...]:
    try:
        sha256 = sha256_of(model, through_links=True)
        if _read_document(golden_paths(model)[1]).get("model_sha256") != sha256:
            return ()
    except ModelFileError:  # there is none, or none of it
        return ()
    both = _kept_paths(model, sha256)
    for path, kept in zip(golden_paths(model), both, strict=True):
        kept.unlink(missing_ok=True)
        try:
            os.link(path, kept)
        except OSError:  # a file system without links
            shutil.copyfile(path, kept)
    return both


def _all_kept(model: Path) -> list[Path]:
    return sorted(model.parent.glob(f".{glob.escape(model.stem)}.golden.*"))


def _kept_paths(model: Path, sha256: str) -> tuple[Path, Path]:
    stem = model.with_name(f".{model.stem}.golden.{sha256[:16]}")
    return stem.with_name(stem.name + ".npz"), stem.with_name(stem.name + ".json")


def _paths_of(model: Path) -> tuple[Path, Path]:
    """The golden vectors beside a model, or where its replacement was broken off those that were kept."""
    if _all_kept(model):
        kept = _kept_paths(model, sha256_of(model, through_links=True))
        if all(path.is_file() for path in kept):
            return kept
    return golden_paths(model)


def check_beside(model: str | os.PathLike[str]) -> bool:
    """Hold a file against the hash in the golden vectors beside it; whether there are any.

    Raises:
        ModelFileError: it is not the file that they were written for, or they are damaged.
    """
    path = Path(model)
    document = _paths_of(path)[1] if path.is_file() else golden_paths(path)[1]
    if not document.is_file():
        return False
    said = _read_document(document)
    data = said.get("data")
    hashes = {path: said.get("model_sha256")}
    if isinstance(data, dict) and is_plain(str(data.get("name"))):
        hashes[path.with_name(str(data["name"]))] = data.get("sha256")
    for file, wanted in hashes.items():
        if sha256_of(file, through_links=True) != wanted:
            raise ModelFileError(
                f"{file} was changed or damaged: it is not the file that {document.name} was written for", help=_HELP
            )
    return True


def make_golden(
    battery: Battery,
    *,
    model_sha256: str,
    data: DataFile | None = None,
    text: TextInputs | None = None,
) -> Golden:
    """Take finite rows of a battery, held-out ones first, with their float64 answers.

    Args:
        battery: of a model that passed.
        model_sha256: of the file.
        data: the second file with its weights.
        text: how the file takes numbers and words in place of the battery's rows.

    Raises:
        InputError: no row has finite inputs and answers.
    """
    cases = {case.name: case for case in battery.ordinary()}
    counts = {"held out": HELD_OUT_ROWS, "normal": OTHER_ROWS, "zeros": 1, "extremes": OTHER_ROWS}
    counts["categories"] = HELD_OUT_ROWS
    parts = [(cases[name], np.arange(min(count, cases[name].batch))) for name, count in counts.items() if name in cases]
    feeds = [np.concatenate([case.feeds[i][places] for case, places in parts]) for i in range(len(battery.rows))]
    outputs = range(len(battery.reference.expected))
    expected = [[case.expected[i].take(places) for case, places in parts] for i in outputs]
    answers = [np.concatenate([one.answer for one in several]) for several in expected]
    plain = np.ones(len(feeds[0]), bool)
    with np.errstate(over="ignore"):
        for one in (*feeds, *answers):
            if one.dtype.kind == "f":
                plain &= np.isfinite(one.astype(np.float32).reshape(len(one), -1)).all(axis=1)
    masks = [[one.one_answer for one in several] for several in expected]
    for several in masks:
        plain &= np.concatenate(several)
    if not plain.any():
        raise InputError(
            "no row has finite inputs and answers that are known to half of their digits",
            help="give held-out rows that have, or export without golden vectors: golden=False",
        )
    inputs = [one[plain] for one in feeds]
    if text is not None:
        # NumPy's own strings: objects would be pickled, which nobody should read.
        inputs = [one if one.dtype.kind == "f" else one.astype(str) for one in text.split(inputs[0])]
    return Golden(
        model_sha256=model_sha256,
        data=data,
        input_names=battery.prepared.input_names if text is None else tuple(name for name, *_ in text.ports),
        output_names=battery.prepared.output_names,
        inputs=tuple(inputs),
        outputs=tuple(one[plain] for one in answers),
        budgets=tuple(
            max((one.widest(mask) for one, mask in zip(*both, strict=True)), key=lambda budget: budget.allowed)
            for both in zip(expected, masks, strict=True)
        ),
    )


def read_golden(model: str | os.PathLike[str]) -> Golden:
    """Read the golden vectors beside a model.

    Raises:
        ModelFileError: missing, damaged, or not ours.
    """
    if not Path(model).exists():
        raise ModelFileError(f"{model} does not exist", help="name an ONNX file")
    if not Path(model).is_file():  # a pipe or a device may never end
        raise ModelFileError(f"{model} is not a file", help="name an ONNX file")
    vectors, document = _paths_of(Path(model))
    said = _read_document(document)
    data = _read(vectors)
    if hashlib.sha256(data).hexdigest() != said.get("vectors_sha256"):
        raise ModelFileError(f"{vectors} is not the file that {document.name} was written with", help=_HELP)
    try:
        golden = _golden_of(said, data)
        arrays = (*golden.inputs, *golden.outputs)
        if len({len(one) for one in arrays}) != 1 or not (
            all(one.dtype.kind in "fiubU" for one in golden.inputs)
            and all(one.dtype.kind in "fiub" and one.size for one in golden.outputs)
            and golden.inputs
            and golden.outputs
        ):
            raise ValueError(
                "arrays of numbers are needed, or of words as inputs, with as many rows each, one at least"
            )
        if len(set(golden.output_names)) < len(golden.output_names):  # another output would not be looked at
            raise ValueError("an output is named twice")
        for name, answer, budget in zip(golden.output_names, golden.outputs, golden.budgets, strict=True):
            _check_budget(name, answer, budget)
    except Exception as problem:  # a damaged document or archive fails in many ways
        raise ModelFileError(f"{document} is damaged: {first_line(problem)}", help=_HELP) from problem
    return golden


def _golden_of(said: dict[str, Any], vectors: bytes) -> Golden:
    with zipfile.ZipFile(io.BytesIO(vectors)) as archive:
        # Written so by us, and what is stored cannot grow when it is read.
        if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
            raise ValueError("the vectors are compressed")
        if len(set(archive.namelist())) < len(archive.namelist()):  # others would read the other one
            raise ValueError("an array stands twice")
    with np.load(io.BytesIO(vectors), allow_pickle=False) as arrays:
        inputs = tuple(arrays[f"input{i}"] for i in range(len(said["inputs"])))
        outputs = tuple(arrays[f"output{i}"] for i in range(len(said["outputs"])))
    numbers = [key for key in Budget.__dataclass_fields__ if key != "dtype"]
    return Golden(
        model_sha256=str(said["model_sha256"]),
        data=None if said.get("data") is None else _data_of(said["data"]),
        input_names=tuple(str(one["name"]) for one in said["inputs"]),
        output_names=tuple(str(one["name"]) for one in said["outputs"]),
        inputs=inputs,
        outputs=outputs,
        budgets=tuple(
            Budget(dtype=str(one["dtype"]), **{key: _number(key, one[key]) for key in numbers})
            for one in said["outputs"]
        ),
    )


def _number(key: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{key} is {value!r:.40}, not a number")
    return float(value)


def _name_of(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind == "U" else str(dtype)


def _check_budget(name: str, answer: np.ndarray, budget: Budget) -> None:
    """Raise ValueError where a budget allows what arithmetic does not explain."""
    dtype = np.dtype(budget.dtype)
    if dtype.kind != "f":
        if budget.allowed != 0:
            raise ValueError(f"{budget.allowed:g} elements of {name} may differ, and {dtype} is exact")
        if budget.unit not in (0, 1):  # NaN is neither, and would compare with nothing
            raise ValueError(f"elements of {name} may be off by {budget.unit:g}, and {dtype} is exact")
        if answer.dtype != dtype:
            raise ValueError(f"the answers of {name} are {answer.dtype}, not {dtype}")
        return
    if answer.dtype.kind != "f" or not np.isfinite(answer).all():
        raise ValueError(f"the answers of {name} are not finite floating numbers")
    info = np.finfo(dtype)
    largest = float(np.abs(answer).max())
    most = max(float(info.eps) * largest, float(info.tiny)) / math.sqrt(info.eps)
    if not (budget.allowed >= 0 and budget.unit > 0 and budget.allowed * budget.unit <= most):
        raise ValueError(
            f"{name} may be off by {budget.allowed * budget.unit:.3g}; more than {most:.3g}, half of its digits, "
            f"no {dtype} arithmetic explains"
        )


def _data_of(said: dict[str, Any]) -> DataFile:
    made = DataFile(name=str(said["name"]), sha256=str(said["sha256"]), size=int(said["size"]))
    if not is_plain(made.name):
        raise ValueError(f"{made.name!r} is not a file in the same folder")
    return made


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise ModelFileError(
            f"{path} does not exist: there are no golden vectors beside the model", help=_HELP
        ) from None
    except OSError as problem:
        raise ModelFileError(f"cannot read {path}: {problem.strerror}", help=_HELP) from problem
    if len(data) > LARGEST:
        raise ModelFileError(f"{path} is larger than {LARGEST // 2**20} MiB", help=_HELP)
    return data


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read(path))
    except (ValueError, RecursionError) as problem:
        raise ModelFileError(f"{path} is not JSON: {first_line(problem)}", help=_HELP) from problem
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("version") != VERSION:
        raise ModelFileError(f"{path} holds no golden vectors of version {VERSION}", help=_HELP)
    return document


def verify_golden(model: str | os.PathLike[str], *, runtime: str | Run = "onnxruntime") -> GoldenReport:
    """Run a model on the golden vectors beside it, in a sandbox; neither PyTorch nor the module is needed.

    Args:
        model: an ONNX file, from anywhere.
        runtime: a name from :data:`lrdiff_export.BACKENDS` that runs ONNX files, or a function from the model's path
            and a mapping of inputs to a mapping of outputs, both by name.

    Raises:
        ModelFileError: the model or the golden vectors cannot be used.
        UnavailableError: the runtime is not here.
        ConfigError: no such runtime.
    """
    golden, path = read_golden(model), Path(model)
    feeds = dict(zip(golden.input_names, golden.inputs, strict=True))
    sha256 = sha256_of(path, through_links=True)
    if isinstance(runtime, str):
        outputs, ran = _run_backend(path, feeds, runtime, expected=len(golden.outputs))
    else:
        outputs, ran = runtime(path, feeds), getattr(runtime, "__name__", "runtime")
    verdicts = []
    for name, answer, budget in zip(golden.output_names, golden.outputs, golden.budgets, strict=True):
        if name not in outputs:
            verdicts.append(Verdict(output=name, error=math.inf, allowed=budget.allowed, reason="no such output"))
        else:
            verdicts.append(judge_output(name, np.asarray(outputs[name]), answer, budget))
    problems = [f"output {one.output!r}: {one.reason}" for one in verdicts if not one.agrees]
    hashes = {path.name: (sha256, golden.model_sha256)}
    if golden.data is not None:  # a runtime that the caller brings may not have looked at it
        beside = path.with_name(golden.data.name)
        hashes[beside.name] = (sha256_of(beside), golden.data.sha256)
    problems += [
        f"{name} is not the file that the golden vectors were written for"
        for name, (found, wanted) in hashes.items()
        if found != wanted
    ]
    return GoldenReport(
        file=str(model),
        runtime=ran,
        sha256=sha256,
        rows=len(golden.inputs[0]),
        verdicts=tuple(verdicts),
        problems=tuple(problems),
    )


def _run_backend(
    model: Path, feeds: Mapping[str, np.ndarray], name: str, *, expected: int
) -> tuple[Mapping[str, np.ndarray], str]:
    """Outputs by name, and what ran it, with its version."""
    (backend,) = find_backends([name], of_files=True)
    if (reason := backend.availability()) is not None:
        raise UnavailableError(reason, help="see lrdiff doctor, or take another --runtime")
    if any(one.dtype.kind == "U" for one in feeds.values()) and (reason := refuses_words(backend)) is not None:
        raise UnavailableError(reason, help="lrdiff export RUN --string-inputs off writes a file that takes codes")
    with Sandbox() as sandbox, sandbox.open(model) as opened:
        inputs, names = ([one[0] for one in several] for several in (opened.ports.inputs, opened.ports.outputs))
        if sorted(inputs) != sorted(feeds):
            raise DataError(
                f"{model} takes {', '.join(inputs) or 'nothing'}, the golden vectors have {', '.join(feeds)}",
                help="the golden vectors belong to another model",
            )
        if len(names) != expected:
            raise DataError(
                f"{model} gives {', '.join(names)}, the golden vectors have {count(expected, 'output')}",
                help="the golden vectors belong to another model",
            )
        rows = [feeds[one] for one in inputs]
        outputs, facts = opened(*rows), opened.facts
        if name != "onnxruntime":  # another runtime sees only what ONNX Runtime has run within the limits
            backend = in_sandbox(backend, sandbox)
            try:
                outputs, facts = backend.prepare(model)(*rows), backend.facts()
            finally:
                backend.release()
    where = f" in {facts['in']}" if "in" in facts else ""
    return dict(zip(names, outputs, strict=True)), f"{facts['runtime']}{where}"
