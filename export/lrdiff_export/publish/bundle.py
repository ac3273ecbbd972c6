"""A proof bundle: a model with everything that shows what was proven of it, for people who have neither us nor PyTorch.

One folder or zip holds the file, its golden rows, ``proof.json`` (cases, budgets, domain, environment), a model card,
snippets, serving configurations and two verifiers. ``manifest.json`` names each file with its hash; a signature in the
format of OpenSSF Model Signing covers all of them. The verifier is run on the bundle before it gets its name.

Source: https://github.com/ossf/model-signing-spec
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrdiff_core.errors import CheckFailed, ConfigError, LrdiffError, ModelFileError, UnavailableError
from lrdiff_export.publish.bundle_files import verify as verifier
from lrdiff_export.publish.deployment import Deployment
from lrdiff_export.publish.metadata import read_model_card
from lrdiff_export.publish.proof import proof_of
from lrdiff_export.publish.report import BundleReport, ExportReport
from lrdiff_export.records import first_line
from lrdiff_export.runtimes import BACKENDS
from lrdiff_export.verify.golden import GoldenReport, golden_paths, verify_golden

__all__ = ["check_bundle_request", "verify_bundle", "write_bundle"]

PASSWORD = "LRDIFF_SIGNING_PASSWORD"  # of the private key; an option would stand in the shell's history
SHIPPED = ("verify.py", "verify.mjs")  # as they are, from bundle_files/
OTHER_RUNTIMES = ("openvino", "onnxruntime-node", "onnxruntime-web")  # the golden rows are run in those that are here


def check_bundle_request(out: Path, key: Path | None) -> None:
    """Raise before anything is converted where a bundle could not be written or signed.

    Raises:
        ConfigError: the place is taken, or there is no such key.
        UnavailableError: model-signing is not installed.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already", help="name another place for the bundle, or remove it")
    if not out.parent.is_dir():
        raise ConfigError(f"cannot write {out}: no folder {out.parent}", help="make the folder first")
    if key is None:
        return
    if not key.is_file():
        raise ConfigError(f"there is no private key {key}", help="name a PEM file, made by `openssl ecparam -genkey`")
    if find_spec("model_signing") is None:
        raise UnavailableError("model-signing is not installed", help="pip install model-signing pyopenssl")


def write_bundle(
    report: ExportReport,
    out: str | os.PathLike[str],
    *,
    key: str | os.PathLike[str] | None = None,
    runtimes: Sequence[str] = OTHER_RUNTIMES,
) -> BundleReport:
    """Bundle a published model with its proof; nothing appears under ``out`` unless the bundle's own verifier passes.

    Args:
        report: of the export; the model and its golden vectors are where it says.
        out: a folder that does not exist yet, or a name that ends in ``.zip``.
        key: a private key (elliptic curve, PEM) to sign with; its password is taken from ``LRDIFF_SIGNING_PASSWORD``.
        runtimes: that the golden rows are run in where they are here, beside ONNX Runtime.

    Raises:
        CheckFailed: a runtime here answers the golden rows otherwise.
        ConfigError, UnavailableError: as :func:`check_bundle_request`.

    Example:
        >>> import tempfile, torch
        >>> from lrdiff_export import export
        >>> folder = Path(tempfile.mkdtemp())
        >>> report = export(torch.nn.Linear(3, 1), torch.zeros(1, 3), out=folder / "model.onnx")
        >>> write_bundle(report, folder / "bundle.zip", runtimes=()).signed
        False
    """
    final, private = Path(out), None if key is None else Path(key)
    check_bundle_request(final, private)
    model = Path(report.path)
    replayed = _replay(model, runtimes)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent) as beside:
        folder = Path(beside, "bundle")
        folder.mkdir()
        _fill(folder, model, report, replayed, signed=private is not None)
        count = _write_manifest(folder, signed=private is not None)
        if private is not None:
            _sign(folder, private)
        verifier.verify(folder)
        if final.suffix == ".zip":
            archive = Path(beside, "bundle.zip")
            _pack(folder, archive)
            os.replace(archive, final)
        else:
            os.rename(folder, final)
    return BundleReport(path=str(final), files=count, signed=private is not None, replayed=replayed)


def verify_bundle(path: str | os.PathLike[str], *, runtime: str = "onnxruntime") -> GoldenReport:
    """Check a bundle from anywhere: every file, and the golden rows in a sandbox.

    Args:
        path: a folder or zip.
        runtime: as for :func:`lrdiff_export.verify_golden`.

    Raises:
        ModelFileError: a file is not the one that the manifest names, or it is not a bundle.
        UnavailableError: the runtime is not here.
    """
    place = Path(path)
    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside) if place.is_file() else place
        try:
            if place.is_file():
                verifier.unpack(place, folder)
            manifest = verifier.read_manifest(folder / verifier.MANIFEST)
            verifier.check_files(folder, manifest)
            name = str(verifier.read_json(folder / "proof.json")["model"]["file"])
        except Exception as problem:  # a damaged bundle fails in many ways
            raise ModelFileError(
                f"{place} is not a whole bundle: {first_line(problem)}", help="get it again from where it came from"
            ) from problem
        if name not in manifest["files"]:
            raise ModelFileError(f"{place} holds no {name}", help="get it again from where it came from")
        return verify_golden(folder / name, runtime=runtime)


def _replay(model: Path, runtimes: Sequence[str]) -> dict[str, str]:
    """What runtimes here say to the golden rows, or why they were not asked; one that differs is an error."""
    said = {}
    for name in runtimes:
        if (reason := BACKENDS[name].availability()) is not None:
            said[name] = f"not checked here: {reason}"
            continue
        try:
            report = verify_golden(model, runtime=name)
        except UnavailableError as problem:
            said[name] = problem.message
            continue
        except LrdiffError as problem:
            said[name] = f"checked: it does not run the file ({problem.message})"
            continue
        if not report.passed:
            raise CheckFailed(
                f"{report.runtime} answers the golden rows otherwise: {report.problems[0]}",
                help="the bundle was not written; lrdiff parity shows where it differs",
            )
        said[name] = f"checked: {report.rows} golden rows agree in {report.runtime}"
    return said


def _fill(folder: Path, model: Path, report: ExportReport, replayed: Mapping[str, str], *, signed: bool) -> None:
    """Put every file but the manifest and the signature into a folder."""
    weights = [] if report.data is None else [model.with_name(report.data.name)]
    for file in (model, *weights, *golden_paths(model)):
        shutil.copyfile(file, folder / file.name)
    shipped = files("lrdiff_export")
    sources = [*(shipped / "publish" / "bundle_files" / name for name in SHIPPED)]
    sources.append(shipped / "runtimes" / "javascript" / "onnx_worker.mjs")
    for source in sources:
        with as_file(source) as file:
            shutil.copyfile(file, folder / file.name)
    proof = proof_of(report, model.name, read_model_card(model))
    _write_json(folder / "proof.json", proof)
    deployment = Deployment.of(report, golden_paths(model)[0], most_batch=report.verification.domain.most_batch)
    for name, text in deployment.files(proof=proof, replayed=replayed, signed=signed).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _write_manifest(folder: Path, *, signed: bool) -> int:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    entries = {
        name: {"size": (folder / name).stat().st_size, "sha256": verifier.sha256_of(folder / name)} for name in names
    }
    signature = verifier.SIGNATURE if signed else None
    manifest = {"format": verifier.FORMAT, "version": 1, "signature": signature, "files": entries}
    _write_json(folder / verifier.MANIFEST, manifest)
    return len(names)


def _sign(folder: Path, key: Path) -> None:
    """Sign every file of a folder in the format of OpenSSF Model Signing."""
    hashing, signing = (import_module(f"model_signing.{name}") for name in ("hashing", "signing"))
    signature = folder / verifier.SIGNATURE
    hashed = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key, password=os.environ.get(PASSWORD))
        config.set_hashing_config(hashed).sign(folder, signature)
    except Exception as problem:  # whatever cryptography raises for a key that is none, or another password
        raise ConfigError(
            f"cannot sign with {key}: {type(problem).__name__}: {first_line(problem)}",
            help=f"name an elliptic-curve key in PEM; the password of a locked one is taken from {PASSWORD}",
        ) from problem


def _pack(folder: Path, archive: Path) -> None:
    """Store a folder as zip, uncompressed and the same in every process."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                with target.open(entry, "w", force_zip64=True) as file, open(path, "rb") as source:
                    shutil.copyfileobj(source, file)
