"""What ``lrdiff parity`` does: find what to compare, run it everywhere, show it, and write it into a folder."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lrdiff_bench.parity.page import parity_page
from lrdiff_bench.parity.sources import find_subjects
from lrdiff_bench.report.json import print_json, write_document
from lrdiff_bench.report.page import as_given
from lrdiff_bench.report.parity_table import draw_matrix, draw_parity
from lrdiff_bench.report.record import NO_FILES, PageFiles
from lrdiff_bench.report.tables import doing, make_console
from lrdiff_bench.system.factory import user_code
from lrdiff_bench.system.machine import provenance
from lrdiff_bench.system.run_folder import make_folder
from lrdiff_core import __version__
from lrdiff_core.devices import torch_threads
from lrdiff_core.errors import CheckFailed, ConfigError, UnavailableError
from lrdiff_core.files import sealed, write_text
from lrdiff_export import BACKENDS, ParityReport, Subject, check_subjects
from lrdiff_export.parity.layers import layer_errors
from lrdiff_export.runtimes import find_backends

__all__ = ["PARITY", "backend_names", "prediction_parity", "write_parity"]

PARITY: Mapping[str, Any] = {"format": "lrdiff.parity", "version": 2}


def prediction_parity(
    sources: Sequence[str],
    *,
    backends: Sequence[str] | None = None,
    data: Path | None = None,
    out: Path | None = None,
    files: PageFiles = NO_FILES,
    json: bool = False,
) -> None:
    """Compare predictions everywhere, show the matrix, and write it to a folder if one is named.

    Args:
        sources: run folders, ONNX files, ``MODULE:FACTORY``; none for the built-in models.
        backends: names; all that can run the sources by default.
        data: rows to predict, for a single source.
        out: folder for ``parity.json``, ``parity.md`` and the pictures.
        files: a record to keep in place of ``parity.json``, or one to read in place of predicting.
        json: print one JSON document instead of the matrix.

    Raises:
        InputError: what was given cannot be used.
        CheckFailed: a backend differs or refuses.
        UnavailableError: a backend that was named is not available here.
    """
    find_backends(backends or ())  # before anything is trained or converted
    if out is not None:
        make_folder(out)
    document = files.document(
        lambda: _measured(sources, data, backends, by_layer=out is not None or files.record is not None), **PARITY
    )
    if out is not None:
        write_parity(out, document)
        if files.record is None and files.source is None:
            write_document(out / "parity.json", sealed(document))
    if json:
        print_json(document)
    else:
        _show(document)
    _raise_for(document["models"], asked=backends is not None)


def _measured(
    sources: Sequence[str], data: Path | None, backends: Sequence[str] | None, *, by_layer: bool
) -> dict[str, Any]:
    made = provenance()
    with torch_threads(1), user_code():
        subjects = find_subjects(sources, data)
        with doing() as show:

            def watch(backend: str, model: str) -> None:
                show(f"{backend}: {model}")

            reports = check_subjects(subjects, backends=backends, watch=watch)
            layers = _layers(subjects, reports, watch) if by_layer else {}
    return {
        "passed": all(report.passed for report in reports.values()),
        "command": as_given(),
        "commit": made["commit"],
        "lrdiff": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": made["machine"],
        "models": {name: report.to_dict() for name, report in reports.items()},
        "layers": layers,
    }


def backend_names(text: str | None) -> list[str] | None:
    """Read a list such as ``eager,onnxruntime``.

    Raises:
        ConfigError: it names none.

    Example:
        >>> backend_names("eager, onnxruntime")
        ['eager', 'onnxruntime']
    """
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError("--backends names none", help=f"backends: {', '.join(BACKENDS)}")
    return names


def _show(document: Mapping[str, Any]) -> None:
    models = document["models"]
    if len(models) == 1:
        draw_parity(make_console(), next(iter(models.values())))
    else:
        draw_matrix(make_console(), models)


def write_parity(out: Path, document: dict[str, Any]) -> None:
    """Write the page of a document, and its pictures, into a folder."""
    from lrdiff_bench.parity import pictures  # here: matplotlib takes half a second to import

    title = f"max error of tolerance, compared with float64, in eps of the dtype; {document['machine']['cpu']}"
    pictures.draw_matrix(out / "parity", document["models"], title)
    if document["layers"]:
        title = "Error by layer against float64: layers as separate outputs, nothing fused across them"
        pictures.draw_layers(out / "parity-layers", document["layers"], title)
    guide = (out / ".." / "guide" / "parity.md").is_file()
    write_text(out / "parity.md", parity_page({**document, "guide": guide}))


def _layers(
    subjects: Mapping[str, Subject], reports: Mapping[str, ParityReport], watch: Callable[[str, str], object]
) -> dict[str, list[dict[str, Any]]]:
    """Errors by layer wherever predictions ran; compiled code is left out: its layers are fused."""
    found = {}
    for name, subject in subjects.items():
        ran = [result.backend for result in reports[name].results if result.max_error is not None]
        chosen = [BACKENDS[one] for one in ran if BACKENDS[one].needs_onnx or not BACKENDS[one].heavy]
        if subject.module is not None and chosen:
            watch("layer by layer", name)
            found[name] = [asdict(one) for one in layer_errors(subject, chosen)]
    return found


def _raise_for(models: Mapping[str, Mapping[str, Any]], *, asked: bool) -> None:
    results = [result for model in models.values() for result in model["results"]]
    failed = {
        result["backend"]: result["status"]
        for result in results
        if result["counts"] and result["status"] in ("differs", "refused")
    }
    if failed:
        said = ", ".join(f"{backend} {status}" for backend, status in failed.items())
        raise CheckFailed(
            f"no parity: {said}", help="the reasons are below the matrix; docs/guide/parity.md explains them"
        )
    absent = {result["backend"]: result["reason"] for result in results if result["status"] == "unavailable" and asked}
    if absent:
        said = "; ".join(f"{backend}: {reason}" for backend, reason in absent.items())
        raise UnavailableError(f"not available here: {said}", help="see lrdiff doctor, or leave them out of --backends")
