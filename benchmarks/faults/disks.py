"""Disks that are full, folders that cannot be written or are gone, and many writers of one folder."""

from __future__ import annotations

import random
import re
import resource
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.faults.jobs import JOBS, SETTINGS, Job
from benchmarks.faults.kills import Ended, fresh_folder, start
from benchmarks.faults.whole import half_files, left_beside

__all__ = ["crowds", "full_disks", "vanished"]

_MESSAGES = 4096  # the limit holds for the files that take the screen, too: what is told must fit
_LARGEST = {"train": 40_000, "run": 120_000, "map": 60_000, "export": 20_000, "records": 20_000, "parity": 20_000}

_LASTS = {"train": 0.8, "map": 1.6, "export": 1.0, "parity": 2.4}  # seconds, about


def full_disks(
    draw: random.Random, scratch: Path, prepared: Path, count: int, names: Collection[str] = tuple(JOBS)
) -> Iterator[tuple[str, list[str]]]:
    """Jobs that may write no file beyond some size: what is told is one line, and nothing half is left."""
    for _ in range(count):
        name = draw.choice(sorted({*_LARGEST} & {*names}))
        size = draw.randrange(_MESSAGES, _LARGEST[name])
        job, folder = JOBS[name], fresh_folder(scratch / "full")
        _prepare(job, folder, prepared)

        def limit(job: Job = job, size: int = size) -> None:
            job.patch()
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        ended = start(replace(job, patch=limit), folder).end()
        yield f"full disk, {name} at {size} bytes", _told(ended, folder, (0, 1, 2))


def vanished(
    draw: random.Random, scratch: Path, prepared: Path, count: int, names: Collection[str] = tuple(JOBS)
) -> Iterator[tuple[str, list[str]]]:
    """Folders that are taken away at some moment, and places where nothing can be written."""
    for i in range(count):
        name = draw.choice(sorted({*_LASTS} & {*names}))
        job, folder = JOBS[name], fresh_folder(scratch / "vanished" / "folder")
        _prepare(job, folder, prepared)
        if i % 3 == 0 and not callable(job.arguments) and "--out" in job.arguments:
            arguments = [*job.arguments[:-1], "/proc/lrdiff/out"]
            ended = start(replace(job, arguments=arguments, again=None), folder).end()
            yield f"no place, {name}", _told(ended, folder, (2,))
            continue
        started, at = start(job, folder), draw.uniform(0.0, _LASTS[name])
        time.sleep(at)
        shutil.rmtree(folder, ignore_errors=True)
        ended = started.end()
        yield f"vanished, {name} after {at:.2f} s", _told(ended, folder, (0, 1, 2))


def crowds(scratch: Path, sizes: tuple[int, ...] = (2, 20)) -> Iterator[tuple[str, list[str]]]:
    """Many trainings into one folder at once: each that stands there is one of them as a whole."""
    seeds = (1, 2, 3, 4)
    alone: dict[int, bytes] = {}
    for seed in seeds:
        folder = fresh_folder(scratch / "alone")
        (folder / "small.toml").write_text(SETTINGS.format(epochs=20))
        ended = start(_training(seed), folder).end()
        assert ended.status == 0, ended.err
        alone[seed] = (folder / "r" / "model.safetensors").read_bytes()
    for size in sizes:
        for replaced in (False, True):
            folder = fresh_folder(scratch / "crowd")
            (folder / "small.toml").write_text(SETTINGS.format(epochs=20))
            jobs = [_training(seeds[i % len(seeds)], *(["--overwrite"] if replaced else [])) for i in range(size)]
            # Outputs lie beside the folder by its name: each has a folder of its own that is a link to the one.
            links = [folder.with_name(f"crowd-{i}") for i in range(size)]
            for link in links:
                link.unlink(missing_ok=True)
                link.symlink_to(folder)
            ends = [one.end() for one in [start(job, link) for job, link in zip(jobs, links, strict=True)]]
            for link in links:
                link.unlink()
            found = [fault for ended in ends for fault in _told(ended, folder, (0, 2))]
            runs = [one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
            for run in runs:
                seed = int(re.search(r"^seed = (\d+)", (run / "config.toml").read_text(), re.MULTILINE)[1])  # type: ignore[index]
                if (run / "model.safetensors").read_bytes() != alone[seed]:
                    found.append(f"{run.name} is a mixture of runs")
            done = sum(ended.status == 0 for ended in ends)
            if not replaced and len(runs) != done:
                found.append(f"{done} runs ended well, {len(runs)} are there")
            if left := left_beside(folder):
                found.append(f"left beside: {left}")
            yield f"{size} writers, {'replacing' if replaced else 'beside'} each other", found


def _training(seed: int, *more: str) -> Job:
    arguments = ["train", "small.toml", "--out", "r", "--seed", str(seed), *more]
    return replace(JOBS["train"], arguments=arguments, again=None)


def _prepare(job: Job, folder: Path, prepared: Path) -> None:
    for name in job.needs:
        shutil.copytree(prepared / name, folder / name)
    job.prepare(folder)


def _told(ended: Ended, folder: Path, statuses: tuple[int, ...]) -> list[str]:
    found = [f"half a file: {file}" for file in half_files(folder)]
    if ended.status not in statuses:
        found.append(f"status {ended.status}: {ended.err.strip()[-300:]}")
    if "Traceback" in ended.err or "a fault in lrdiff" in ended.err:
        found.append(" | ".join(ended.err.strip().splitlines()[-3:])[:300])
    if ended.status in (1, 2) and not ended.err.strip():
        found.append(f"status {ended.status} without a word")
    if ended.stayed:
        found.append(f"{ended.stayed} processes stayed")
    return found
