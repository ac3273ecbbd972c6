"""What was published, and what was bundled with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrdiff_export.model.ports import Port
from lrdiff_export.onnx_file.external_data import DataFile
from lrdiff_export.publish.variants import VariantReport
from lrdiff_export.records import json_ready
from lrdiff_export.verify.verify import VerificationReport

__all__ = ["BundleReport", "ExportReport"]


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """What was bundled.

    Attributes:
        path: the folder or zip.
        files: how many files the manifest names.
        signed: whether it carries a signature.
        replayed: what each runtime here said to the golden rows, by its name.
    """

    path: str
    files: int
    signed: bool
    replayed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was published.

    Attributes:
        path: the file's name as it was given.
        sha256: of the file.
        size: of the file, in bytes.
        data: the second file with the weights of a model past 2 GiB; None for one file.
        opset: operator set of the file.
        ir_version: format version of the file.
        input_name: name of the first input.
        output_names: names of the outputs.
        inputs: name, dtype, shape and unit of each input.
        outputs: the same of each output.
        rows_are: ``held out`` when the caller gave rows, ``drawn`` when they were made up around the example.
        target: the runtime that the file was made for; empty when none was named.
        golden: files of golden vectors beside the model.
        variants: what was published besides, and what it loses.
        seconds: spent in ``convert`` (torch's exporter) and ``verify`` (everything that comes on top).
        verification: the whole verification of these bytes.
        bundle: what was bundled with it; None where no bundle was asked for.
    """

    path: str
    sha256: str
    size: int
    data: DataFile | None
    opset: int
    ir_version: int
    input_name: str
    output_names: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    rows_are: str
    target: str
    golden: tuple[str, ...]
    variants: tuple[VariantReport, ...]
    verification: VerificationReport
    seconds: Mapping[str, float] = field(default_factory=dict)
    bundle: BundleReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**json_ready(self), "verification": self.verification.to_dict()}
