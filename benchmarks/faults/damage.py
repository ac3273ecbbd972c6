"""Flipped, cut and zeroed bytes in every kind of file, and what those who read it say."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.faults.jobs import JOBS, SETTINGS, Job
from benchmarks.faults.kills import SLOW_SECONDS, Ended, fresh_folder, import_all, start

__all__ = ["KINDS", "damaged", "judge"]

WAYS = ("flip", "cut", "zero")
_PATIENCE = 60.0
_TELLS = re.compile(r"damaged|no\s+record|is\s+missing|lacks")
_OF_THE_MOMENT = re.compile(r"\d+(\.\d+)? (s|ms|µs|ns)\b|\d{4}-\d\d-\d\d[T ][0-9:]+\S*|sha256 \w+")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file.

    Args:
        files: patterns from the folder in which everything was made.
        reads: commands that read it; what they print is what may not change unsaid.
        answers: patterns of files that they write, and that may not change unsaid either.
    """

    files: tuple[str, ...]
    reads: tuple[list[str], ...]
    answers: tuple[str, ...] = ()


_STUDY = ["planted-quick", "--from", "s"]
_TRACE, _PREDICT = ["trace", "r"], ["predict", "r", "--data", "rows.csv"]
KINDS: dict[str, Kind] = {
    "summary": Kind(files=("r/summary.json",), reads=(_TRACE, ["runs", "."])),
    "settings of a run": Kind(files=("r/config.toml",), reads=(_TRACE, _PREDICT)),
    "rate plan": Kind(files=("r/rates.json",), reads=(["rates", "r"], _TRACE)),
    "checkpoint": Kind(files=("r/model.safetensors",), reads=(_PREDICT, _TRACE)),
    "manifest": Kind(files=("r/manifest.json",), reads=(_TRACE, _PREDICT)),
    "state of a training": Kind(
        files=("u/training.safetensors",), reads=(["train", "--resume", "u"],), answers=("u/model.safetensors",)
    ),
    "ONNX": Kind(
        files=("r/model.onnx",),
        reads=(
            ["verify", "r/model.onnx"],
            ["predict", "r/model.onnx", "--data", "rows.csv"],
            ["latency", "r", "--batch", "1"],
        ),
    ),
    "golden vectors": Kind(files=("r/model.golden.*",), reads=(["verify", "r/model.onnx"],)),
    "records": Kind(
        files=("b/*.jsonl",), reads=(["bench", "show", "latest", "--from", "b"], ["bench", "ls", "--from", "b"])
    ),
    "map": Kind(files=("m/map.zarr/**/*", "m/map.json"), reads=(["report", "m"],), answers=("m/report.html",)),
    "study": Kind(files=("s/studies.db",), reads=(["study", "ls", "--from", "s"], ["study", "show", *_STUDY])),
    "study as a document": Kind(files=("s/*/study.json",), reads=(["report", "s"],), answers=("s/report.html",)),
    "parity": Kind(files=("p/parity.json",), reads=(["report", "p"],), answers=("p/report.html",)),
}  # fmt: skip


def damaged(
    draw: random.Random, scratch: Path, prepared: Path, count: int, kinds: list[str] | None = None
) -> Iterator[tuple[str, str, list[str]]]:
    """Kind, outcome and faults of every damaged file.

    Args:
        draw: of kinds, places and ways.
        scratch: for folders.
        prepared: with a finished training in ``r``.
        count: files to damage.
        kinds: names of :data:`KINDS`; all of them.
    """
    names = kinds or list(KINDS)
    whole = _made(scratch, prepared, names)
    right: dict[str, list[tuple[Ended, str]]] = {}
    for number in range(count):
        name = names[number % len(names)]
        kind = KINDS[name]
        if name not in right:
            right[name] = _read(kind, _copy(whole, scratch / "whole"), _PATIENCE * 10, imports=True)
            if any(ended.status not in (0, 1) for ended, _ in right[name]):
                said = next(ended.err for ended, _ in right[name] if ended.status not in (0, 1))
                raise SystemExit(f"{name} cannot be read undamaged:\n{said}")
        folder = _copy(whole, scratch / "damaged")
        files = [one for pattern in kind.files for one in sorted(folder.glob(pattern)) if one.is_file()]
        file = draw.choice([one for one in files if one.stat().st_size])
        how = damage(file, draw.choice(WAYS), draw)
        found = _read(kind, folder, 3 * SLOW_SECONDS + 2 * sum(ended.seconds for ended, _ in right[name]))
        outcomes = [judge(*one, *other) for one, other in zip(found, right[name], strict=True)]
        bad = [f"{said}: {_said(found[i][0])}" for i, said in enumerate(outcomes) if said not in GOOD]
        # One reader may not need what was damaged, as long as none is deceived.
        outcome = next((one for one in ORDER if one in outcomes), outcomes[0])
        yield name, outcome, [f"{how} of {file.relative_to(folder)}: {one}" for one in bad]


GOOD = ("refused", "told", "same answer")
ORDER = ("hang", "traceback", "silent change", "refused", "told", "same answer")


def damage(file: Path, way: str, draw: random.Random) -> str:
    """Change a file on the disk; says how."""
    data = bytearray(file.read_bytes())
    at = draw.randrange(len(data))
    if way == "flip":
        bit = draw.randrange(8)
        data[at] ^= 1 << bit
        how = f"bit {bit} of byte {at}"
    elif way == "cut":
        del data[at:]
        how = f"end from byte {at}"
    else:
        length = min(draw.choice([1, 16, 512]), len(data) - at)
        if not any(data[at : at + length]):  # nothing would change
            return damage(file, "flip", draw)
        data[at : at + length] = bytes(length)
        how = f"{length} bytes zeroed from {at}"
    file.write_bytes(data)
    return how


def judge(ended: Ended, answer: str, right: Ended, right_answer: str) -> str:
    """What a command made of a damaged file, beside what it said of the whole one.

    Args:
        ended: of the damaged one.
        answer: what it wrote.
        right: of the whole one.
        right_answer: what that wrote.
    """
    if ended.signal or ended.seconds > SLOW_SECONDS + right.seconds:
        return "hang"
    if "Traceback" in ended.err or "a fault in lrdiff" in ended.err or ended.status < 0 or ended.status > 3:
        return "traceback"
    if ended.status and ended.status != right.status:
        return "refused" if "error: " in ended.err or ended.status == 1 else "traceback"
    same = _plain(ended.out) == _plain(right.out) and answer == right_answer
    if same:
        return "same answer"
    told = ended.err != right.err or len(_TELLS.findall(ended.out)) > len(_TELLS.findall(right.out))
    return "told" if told else "silent change"


def _plain(text: str) -> str:
    return _OF_THE_MOMENT.sub("", text)


def _said(ended: Ended) -> str:
    text = ended.err.strip() or ended.out.strip()
    return f"status {ended.status}, {ended.seconds:.1f} s: {' | '.join(text.splitlines()[-2:])[:300]}"


def _read(kind: Kind, folder: Path, longest: float, *, imports: bool = False) -> list[tuple[Ended, str]]:
    found = []
    for arguments in kind.reads:
        job = replace(JOBS["train"], arguments=arguments, again=None, patch=lambda: None)
        ended = start(job, folder, imports=imports).end(signal.SIGKILL, longest)
        if imports and ended.status in (0, 1):
            import_all(folder)
        files = [file for pattern in kind.answers for file in sorted(folder.glob(pattern))]
        found.append((ended, "".join(_plain(file.read_bytes().decode("latin-1")) for file in files)))
    return found


def _copy(whole: Path, folder: Path) -> Path:
    """The same folder name each time: it stands in what is printed."""
    target = folder.parent / "files"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(whole, target)
    return target


def _made(scratch: Path, prepared: Path, names: list[str]) -> Path:
    """One of every kind of artefact, small."""
    folder = fresh_folder(scratch / "artefacts")
    shutil.copytree(prepared / "r", folder / "r")
    JOBS["train"].prepare(folder)
    (folder / "rows.csv").write_text(_rows(folder / "r"))
    wanted = {file.partition("/")[0] for name in names for file in KINDS[name].files}
    if any(name in names for name in ("ONNX", "golden vectors")):
        _do(JOBS["export"], folder)
    for place, job in (("m", "map"), ("s", "study"), ("p", "parity"), ("b", "bench")):
        if place in wanted:
            _do(JOBS[job], folder)
    if "u" in wanted:
        _unfinished(folder)
    return folder


def _do(job: Job, folder: Path) -> None:
    ended = start(job, folder).end()
    if ended.status != 0:
        raise SystemExit(f"{job.arguments} failed:\n{ended.err}")


def _unfinished(folder: Path) -> None:
    """A training that was killed, to be gone on with."""
    (folder / "long.toml").write_text(SETTINGS.format(epochs=150))
    started = start(replace(JOBS["train"], arguments=["train", "long.toml", "--out", "u"], again=None), folder)
    until = time.monotonic() + _PATIENCE
    while not (folder / "u" / "training.safetensors").is_file():
        if time.monotonic() > until:
            raise SystemExit("no state of a training was kept")
        time.sleep(0.002)
    if started.end(signal.SIGKILL, 0.0).status == 0:
        raise SystemExit("the training to go on with was over before it was killed")


def _rows(run: Path) -> str:
    import json

    names = json.loads((run / "summary.json").read_text())["data"]["feature_names"]
    return ",".join(names) + "\n" + "\n".join(",".join(str(i + j) for i in range(len(names))) for j in range(5)) + "\n"
