"""Check a proof bundle: python verify.py [FOLDER_OR_ZIP]. It needs NumPy and ONNX Runtime, and nothing else.

Every file must be the one that the manifest names, and the model must answer the golden rows within its budgets. No
budget is believed that float arithmetic does not explain: at most half of the digits of an output may be lost, and
integers must be equal. The manifest itself is only as good as the signature over it; see README.md.
Exit status: 0 everything holds, 1 something does not, 2 it cannot be checked here.
"""

import hashlib
import json
import math
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

MANIFEST, SIGNATURE, FORMAT = "manifest.json", "model.sig", "lrdiff.bundle"
LARGEST = 64 * 2**20  # bytes of what is read into memory: documents and golden rows


class BrokenError(Exception):
    """What was proven does not hold for these files."""


def verify(folder: Path) -> list[str]:
    """Return what was proven, a line each; raise BrokenError where it does not hold for these files."""
    manifest = read_manifest(folder / MANIFEST)
    check_files(folder, manifest)
    proof = read_json(folder / "proof.json")
    return [*describe(manifest, proof), *replay(folder, proof)]


def read_json(path: Path) -> Any:
    """Read a document; a key that stands in it twice would be read differently by others."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise BrokenError(f"{path.name} names a key twice")
        return dict(pairs)

    try:
        with open(path, "rb") as file:
            return json.loads(file.read(LARGEST), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as problem:
        raise BrokenError(f"{path.name} cannot be read: {problem}") from problem


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest: plain names inside the folder, sizes and hashes."""
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != 1:
        raise BrokenError(f"{path.name} is not the manifest of a bundle of version 1")
    for name in manifest["files"]:
        parts = name.split("/")
        if any(one in ("", ".", "..") or set(one) & set('\\:*?"<>|') for one in parts) or name in (MANIFEST, SIGNATURE):
            raise BrokenError(f"{path.name} names {name!r}, which is not a file of a bundle")
    return manifest


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare every file below the folder with the manifest; nothing may be missing, changed, linked or added."""
    wanted, found = manifest["files"], set()
    for place, folders, names in os.walk(folder):
        for path in (Path(place, name) for name in [*folders, *names]):
            if path.is_symlink():
                raise BrokenError(f"{path.relative_to(folder).as_posix()} is a link")
        found |= {Path(place, name).relative_to(folder).as_posix() for name in names}
    if missing := sorted({*wanted, *([SIGNATURE] if manifest.get("signature") else [])} - found):
        raise BrokenError(f"{missing[0]} is missing")
    if extra := sorted(found - set(wanted) - {MANIFEST, SIGNATURE}):
        raise BrokenError(f"{extra[0]} is not in the manifest")
    for name, entry in wanted.items():
        if (folder / name).stat().st_size != entry["size"] or sha256_of(folder / name) != entry["sha256"]:
            raise BrokenError(f"{name} is not the file that the manifest names")


def sha256_of(path: Path) -> str:
    """Return the hash of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def describe(manifest: dict[str, Any], proof: dict[str, Any]) -> list[str]:
    """Say what was proven and on what."""
    unsigned = "unsigned: whoever changes a file can change the manifest, too"
    signed = f"signed: {SIGNATURE} says by whom, and `model_signing verify` checks it (see README.md)"
    return [
        *(f"proven: {text}" for text in proof["proven"]),
        *(f"not proven: {text}" for text in proof["outside"]),
        "proven with " + ", ".join(f"{name} {version}" for name, version in proof["environment"].items()),
        f"{len(manifest['files'])} files are those of the manifest",
        signed if manifest.get("signature") else unsigned,
    ]


def replay(folder: Path, proof: dict[str, Any]) -> list[str]:
    """Run the golden rows and compare; return a line for each output."""
    import numpy as np

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    model = folder / proof["model"]["file"]
    document, vectors = read_json(model.with_suffix(".golden.json")), model.with_suffix(".golden.npz")
    if document["model_sha256"] != sha256_of(model):
        raise BrokenError(f"the golden rows belong to another file than {model.name}")
    with zipfile.ZipFile(vectors) as archive:
        refuse_compressed(archive)
    with np.load(vectors, allow_pickle=False) as arrays:
        feeds = {one["name"]: arrays[f"input{i}"] for i, one in enumerate(document["inputs"])}
        answers = [arrays[f"output{i}"] for i in range(len(document["outputs"]))]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [one["name"] for one in document["outputs"]]
    ports = [sorted(one.name for one in several) for several in (session.get_inputs(), session.get_outputs())]
    if [sorted(feeds), sorted(names)] != ports or len({len(one) for one in [*feeds.values(), *answers]}) != 1:
        raise BrokenError("the golden rows are not of this model's inputs and outputs")
    lines = []
    for budget, answer, output in zip(document["outputs"], answers, session.run(names, feeds), strict=True):
        if str(output.dtype) != budget["dtype"] or output.shape != answer.shape or not answer.size:
            raise BrokenError(f"{budget['name']} is {output.dtype} {output.shape}, not {answer.shape}")
        lines.append(f"{budget['name']}: {len(answer)} golden rows, {compare(budget, answer, output)}")
    return [*lines, f"replayed with onnxruntime {onnxruntime.__version__}"]


def compare(budget: dict[str, Any], answer: Any, output: Any) -> str:
    """Compare one output with its float64 answer within its budget."""
    import numpy as np

    name, unit, most_units = budget["name"], budget["unit"], budget["allowed"]
    if {type(unit), type(most_units)} - {int, float}:
        raise BrokenError(f"the budget of {name} is not of numbers")
    if output.dtype.kind != "f":
        if answer.dtype != output.dtype or most_units != 0 or unit not in (0, 1):
            raise BrokenError(f"{name} may be off by {unit} from {answer.dtype}, and {output.dtype} is exact")
        low, high = np.minimum(output, answer), np.maximum(output, answer)
        wrong = low != high
        if unit and output.dtype.kind != "b":  # the next whole number is declared to be as good
            wrong &= low + 1 != high
        if wrong.any():
            raise BrokenError(f"{name}: {int(wrong.sum())} of {output.size} elements differ")
        return "equal"
    info, allowed = np.finfo(output.dtype), float(most_units) * float(unit)
    most = max(float(info.eps) * float(np.abs(answer).max()), float(info.tiny)) / math.sqrt(float(info.eps))
    if not (answer.dtype.kind == "f" and unit > 0 and 0 <= allowed <= most < math.inf):
        raise BrokenError(f"{name} may be off by {allowed:.3g}; {output.dtype} arithmetic explains at most {most:.3g}")
    error = np.abs(output.astype(np.float64) - answer)
    if not error.max() <= allowed:  # NaN is not either
        row = int(np.argwhere(~(error <= allowed))[0][0])
        raise BrokenError(f"{name} is off by {error.max():.3g} in golden row {row}, allowed {allowed:.3g}")
    return f"max error {error.max():.3g}, allowed {allowed:.3g}"


def refuse_compressed(archive: zipfile.ZipFile) -> None:
    """Refuse what may grow when it is read, and names that stand twice."""
    names = archive.namelist()
    if len(set(names)) < len(names) or any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
        raise BrokenError("an archive is compressed, or holds a name twice")


def unpack(path: Path, folder: Path) -> None:
    """Unpack what the manifest of an archive names."""
    with zipfile.ZipFile(path) as archive:
        refuse_compressed(archive)
        (folder / MANIFEST).write_bytes(archive.read(MANIFEST))
        known = {*read_manifest(folder / MANIFEST)["files"], MANIFEST, SIGNATURE}
        if extra := sorted(set(archive.namelist()) - known):
            raise BrokenError(f"{extra[0]} is not in the manifest")
        archive.extractall(folder)


def say(text: str) -> None:
    """Print a text without what a terminal would obey: names in a hostile bundle may hold it."""
    print("".join(char if char.isprintable() or char == "\n" else "?" for char in text))


def main(arguments: list[str]) -> int:
    """Check the bundle that is named, or the one that this file stands in."""
    place = Path(arguments[0]) if arguments else Path(__file__).resolve().parent
    if len(arguments) > 1 or not place.exists():
        print("error: name one bundle, a folder or a zip\nhelp: python verify.py BUNDLE", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory() as beside:
            if place.is_file():
                unpack(place, Path(beside))
            say("\n".join([*verify(Path(beside) if place.is_file() else place), "EVERYTHING HOLDS"]))
            return 0
    except ImportError as problem:
        print(f"error: {problem}\nhelp: pip install numpy onnxruntime", file=sys.stderr)
        return 2
    except Exception as problem:  # noqa: BLE001 - whatever a damaged bundle raises, it does not hold
        say("DOES NOT HOLD: " + (str(problem).splitlines() or [type(problem).__name__])[0])
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
