"""Where a model goes from here: its card in Markdown, snippets in four languages, serving configurations.

All of it is filled from the file's own ports, so that names, shapes and dtypes are right; what was tried and what was
not stands in the card.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from lrdiff_export.model.ports import Port
from lrdiff_export.publish.columns_card import columns_of_card
from lrdiff_export.publish.report import ExportReport

__all__ = ["Deployment", "Feed"]

BATCH = 1024  # rows of a call to Triton where the model takes any number
# What each language and server calls NumPy's dtypes.
TYPES: dict[str, dict[str, str]] = {
    "float32": {"javascript": "Float32Array", "c++": "float", "c#": "float", "triton": "TYPE_FP32"},
    "float64": {"javascript": "Float64Array", "c++": "double", "c#": "double", "triton": "TYPE_FP64"},
    "float16": {"javascript": "Uint16Array", "c++": "Ort::Float16_t", "c#": "Float16", "triton": "TYPE_FP16"},
    "int64": {"javascript": "BigInt64Array", "c++": "int64_t", "c#": "long", "triton": "TYPE_INT64"},
    "int32": {"javascript": "Int32Array", "c++": "int32_t", "c#": "int", "triton": "TYPE_INT32"},
    "int16": {"javascript": "Int16Array", "c++": "int16_t", "c#": "short", "triton": "TYPE_INT16"},
    "int8": {"javascript": "Int8Array", "c++": "int8_t", "c#": "sbyte", "triton": "TYPE_INT8"},
    "uint8": {"javascript": "Uint8Array", "c++": "uint8_t", "c#": "byte", "triton": "TYPE_UINT8"},
    "string": {"javascript": "string", "c++": "std::string", "c#": "string", "triton": "TYPE_STRING"},
    "bool": {"javascript": "Uint8Array", "c++": "bool", "c#": "bool", "triton": "TYPE_BOOL"},
}
LONGEST_REQUEST = 200  # numbers and words of two rows, in an example
PROTOCOL = {"STRING": "BYTES"}  # what the inference protocol calls otherwise than Triton's configuration
PAGES = {
    "README.md": "README.md",
    "snippets/predict.py": "predict.py.txt",
    "snippets/predict.mjs": "predict.mjs.txt",
    "snippets/predict.cpp": "predict.cpp.txt",
    "snippets/Predict.cs": "predict.cs.txt",
    "serving/config.pbtxt": "config.pbtxt",
    "serving/kserve.yaml": "kserve.yaml",
}


@dataclass(frozen=True, kw_only=True)
class Feed:
    """An input or output, and the shape that snippets give it.

    Attributes:
        port: name, dtype and shape in the file.
        shape: of two rows; where the file leaves a size free, that of the golden rows.
    """

    port: Port
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """In the file."""
        return self.port.name

    @property
    def size(self) -> int:
        """Numbers in it."""
        return int(np.prod(self.shape, dtype=np.int64))

    def type_in(self, language: str) -> str:
        """What a language or server calls its dtype."""
        return TYPES[self.port.dtype][language]

    @property
    def words(self) -> bool:
        """Whether it holds strings."""
        return self.port.dtype == "string"

    @property
    def served(self) -> str:
        """Dimensions without the batch, as Triton has them."""
        dims = [size if isinstance(size, int) else -1 for size in self.port.shape[1:]]
        return f"dims: [ {', '.join(map(str, dims))} ]" if dims else "dims: [ 1 ] reshape { shape: [ ] }"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What templates are filled with.

    Attributes:
        file: the model's name.
        inputs, outputs: of the file.
        most_batch: rows that a batch may have at most.
        data: name of the second file with its weights; None where there is none.
    """

    file: str
    inputs: tuple[Feed, ...]
    outputs: tuple[Feed, ...]
    most_batch: int
    data: str | None

    @property
    def request(self) -> str:
        """One row of zeros and empty words in KServe's and Triton's inference protocol, JSON; empty if it is long."""
        if sum(feed.size for feed in self.inputs) > LONGEST_REQUEST:
            return ""
        inputs = []
        for feed in self.inputs:
            shape, kind = [1, *feed.shape[1:]], feed.type_in("triton").removeprefix("TYPE_")
            zero: Any = "" if feed.words else False if kind == "BOOL" else 0
            data = [zero] * int(np.prod(shape))
            inputs.append({"name": feed.name, "shape": shape, "datatype": PROTOCOL.get(kind, kind), "data": data})
        return json.dumps({"inputs": inputs}, ensure_ascii=False)

    @property
    def takes_words(self) -> bool:
        """Whether an input holds strings."""
        return any(feed.words for feed in self.inputs)

    @classmethod
    def of(cls, report: ExportReport, golden: Path, *, most_batch: int | None) -> Deployment:
        """Take ports from an export and sizes from its golden rows.

        Args:
            report: of the export.
            golden: the ``.npz`` file beside the model.
            most_batch: rows that a batch may have at most; None for any number.
        """
        with np.load(golden, allow_pickle=False) as arrays:

            def feeds(kind: str, ports: tuple[Port, ...]) -> tuple[Feed, ...]:
                shapes = [arrays[f"{kind}{i}"].shape for i in range(len(ports))]
                return tuple(
                    Feed(port=port, shape=(2, *map(int, shape[1:]))) for port, shape in zip(ports, shapes, strict=True)
                )

            inputs, outputs = feeds("input", report.inputs), feeds("output", report.outputs)
        return cls(
            file=Path(report.path).name,
            inputs=inputs,
            outputs=outputs,
            most_batch=BATCH if most_batch is None else most_batch,
            data=None if report.data is None else report.data.name,
        )

    def files(self, *, proof: Mapping[str, Any], replayed: Mapping[str, str], signed: bool) -> dict[str, str]:
        """Return the card, snippets and configurations by their names in the bundle.

        Args:
            proof: what stands in ``proof.json``.
            replayed: what runtimes said to the golden rows.
            signed: whether the bundle will be signed.
        """
        stem = self.file.rsplit(".", 1)[0]
        values = {
            "model": self,
            "stem": stem,
            "host": re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "model",
            "proof": proof,
            "card": proof["card"],
            "columns": columns_of_card(proof["card"], self.inputs[0].name),
            "replayed": replayed,
            "signed": signed,
        }
        made = _environment()
        return {name: made.get_template(page).render(**values).rstrip("\n") + "\n" for name, page in PAGES.items()}


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("lrdiff_export.publish"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown and code, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)  # a string in all languages here
    made.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")  # of a table in Markdown
    return made
