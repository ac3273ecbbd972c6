"""The folder of a map: whole tiles while it is computed, one Zarr store when it is complete.

::

    OUT/map.json          what the map is of; two runs must agree in it
    OUT/tiles/00012.npz   a tile, there only when it is whole
    OUT/map.zarr          the map, there only when it is complete; the tiles are gone then; .zmanifest in it has the
                          checksum of every file
    OUT/map.png ...       pictures and findings

One process at a time holds the folder, as it holds a run folder.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lrdiff_bench.maps.plan import MapPlan
from lrdiff_bench.maps.tiles import CELLS, COLUMNS, MARKED, REFERENCE, SINGLE, Tile
from lrdiff_bench.system.arrays import read_arrays
from lrdiff_bench.system.machine import describe_code, describe_machine
from lrdiff_bench.system.manifest import check_files, check_seal, write_manifest
from lrdiff_bench.system.ownership import OWNER, Owner
from lrdiff_bench.system.run_folder import make_folder, read_document
from lrdiff_core.errors import CheckFailed, CheckpointError, DataError, InputError
from lrdiff_core.files import atomic_path, sealed, unsealed, write_json

__all__ = ["MapFolder", "hold_folder", "open_map"]

FORMAT, VERSION = "lrdiff.map", 1
ANY_SIZE = 2**30  # bytes in memory that a store may ask for, however small it is
MOST_UNPACKED = 1000  # bytes in memory for each on the disk, beyond that
_STORED = 2  # the flag of a chunk of Blosc's that is not compressed
STORE_MANIFEST = ".zmanifest"  # hidden from those who read the store as Zarr


@contextmanager
def hold_folder(folder: Path, plan: MapPlan) -> Iterator[MapFolder]:
    """Open or make the folder of a map and keep other processes out.

    Raises:
        InputError: the folder cannot be written, holds something else or another map, or another process is at it.
    """
    make_folder(folder)
    manifest = folder / "map.json"
    if not manifest.is_file() and any(entry.name != OWNER for entry in folder.iterdir()):
        raise InputError(
            f"{folder} exists and is not a map folder", help="name another folder with --out, or remove it"
        )
    with _held(folder):
        begun = (folder / "map.zarr").is_dir() or any(folder.glob("tiles/*.npz"))
        there = _read_manifest(manifest) if manifest.is_file() else None
        if there is not None and begun:
            _same_map(folder, there, plan)
        else:
            write_json(manifest, sealed(_manifest(plan)))
        yield MapFolder(folder, plan)


REMOVALS = 20  # a second


class MapFolder:
    """The folder of one map, held by this process."""

    def __init__(self, folder: Path, plan: MapPlan) -> None:
        self.path, self.plan = folder, plan
        self.tiles = folder / "tiles"
        self.zarr = folder / "map.zarr"
        self.manifest = _read_manifest(folder / "map.json")
        for leftover in folder.glob(".*.partial"):  # of a process that was killed
            shutil.rmtree(leftover)
        for leftover in [*folder.glob(".*.tmp*"), *self.tiles.glob(".*.tmp*")]:
            leftover.unlink()
        if self.complete:
            shutil.rmtree(self.tiles, ignore_errors=True)
        else:
            self.tiles.mkdir(exist_ok=True)

    @property
    def complete(self) -> bool:
        """Whether the map is there."""
        return self.zarr.is_dir()

    def whole(self) -> set[int]:
        """Numbers of the tiles that are there and whole."""
        return {tile.number for tile in self.plan.tiles if self.read(tile) is not None}

    def read(self, tile: Tile) -> dict[str, np.ndarray] | None:
        """Columns of a tile, [cells, seeds] each, and the `path` that trained it; None if missing or damaged."""
        shape = (int(np.prod(tile.shape())), len(self.plan.seeds))
        wanted = {"path": ((), "U"), **{name: (shape, np.dtype(kind).kind) for name, kind in COLUMNS.items()}}
        try:
            found = read_arrays(self._file(tile))
        except DataError:
            return None
        if not isinstance(found, dict) or {k: (one.shape, one.dtype.kind) for k, one in found.items()} != wanted:
            return None
        return found

    def kept(self, tile: Tile) -> dict[str, Any]:
        """A tile that was written, from this folder.

        Raises:
            CheckFailed: somebody else has removed it, or changed it.
        """
        found = self.read(tile)
        if found is None:
            raise CheckFailed(
                f"{self.path} no longer holds tile {tile.number}, which was written there",
                help="it was removed or changed from outside; the same command makes what is missing",
            )
        return found

    def write(self, tile: Tile, found: Mapping[str, Any]) -> None:
        """Keep a tile, as a whole or not at all."""
        with atomic_path(self._file(tile)) as beside, open(beside, "wb") as file:
            np.savez_compressed(file, path=np.array(found["path"]), **{name: found[name] for name in COLUMNS})

    def assemble(self, seconds: float | None) -> None:
        """Write all tiles into ``map.zarr``, a tile at a time, and drop them; the store appears when it is complete.

        Args:
            seconds: that training took; None where it was spread over several runs.
        """
        beside = self.path / ".map.zarr.partial"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            self._write_store(beside, seconds)
            write_manifest(beside, name=STORE_MANIFEST)
            beside.rename(self.zarr)
        finally:  # on a full disk it would stand in its own way
            for _ in range(REMOVALS):  # zarr's own threads may still write into it after an interrupt
                shutil.rmtree(beside, ignore_errors=True)
                if not beside.exists():
                    break
                time.sleep(0.05)
        shutil.rmtree(self.tiles)

    def _write_store(self, beside: Path, seconds: float | None) -> None:
        import xarray

        template = self._template(seconds)
        # Version 2 of the format: every reader of Zarr has it.
        template.to_zarr(
            beside, compute=False, mode="w", zarr_format=2, consolidated=True, encoding=_encoding(template)
        )
        for tile in self.plan.tiles:
            found = self.kept(tile)
            if tile.kind == REFERENCE:
                continue
            prefix, region = _place(tile)
            region["seed"] = slice(0, len(self.plan.seeds))
            shape = tuple(s.stop - s.start for s in region.values())
            parts = {prefix + name: (list(region), values.reshape(shape)) for name, values in _decoded(found).items()}
            xarray.Dataset(parts).to_zarr(beside, region=region, zarr_format=2)

    def _file(self, tile: Tile) -> Path:
        return self.tiles / f"{tile.number:05d}.npz"

    def _paths(self) -> set[str]:
        """Paths of train_population that trained the tiles."""
        return {str(self.kept(tile)["path"]) for tile in self.plan.tiles}

    def _template(self, seconds: float | None) -> Any:
        """The store with all but the values of cells."""
        import dask.array
        import xarray

        plan, grid = self.plan, self.plan.grid
        workload = plan.workload
        found = self.kept(plan.tiles[0])
        initial, target = plan.reference_losses(found)
        block = next(tile for tile in plan.tiles if tile.kind == CELLS).shape()
        seeds = len(plan.seeds)
        described = _attributes(plan)
        variables: dict[str, Any] = {}
        for name, kind in COLUMNS.items():
            dtype = "float64" if kind == "int32" else kind  # what is missing is NaN to the reader
            empty = dask.array.zeros((*grid.shape, seeds), chunks=(*block, seeds), dtype=dtype)
            variables[name] = (("y", "x", "seed"), empty, described[name])
            if len(grid.single):
                empty = dask.array.zeros((len(grid.single), seeds), chunks=(block[0] * block[1], seeds), dtype=dtype)
                variables[f"single_{name}"] = (("single", "seed"), empty, described[name])
            if plan.marked is not None:
                empty = dask.array.zeros(seeds, chunks=seeds, dtype=dtype)
                variables[f"marked_{name}"] = ("seed", empty, described[name])
        coordinates: dict[str, Any] = {
            "x": ("x", grid.x.values, {"long_name": grid.x.label, "units": "1", "axis": str(grid.x)}),
            "y": ("y", grid.y.values, {"long_name": grid.y.label, "units": "1", "axis": str(grid.y)}),
            "seed": ("seed", np.array(plan.seeds, dtype=np.int64), {"long_name": "seed of rows, weights and order"}),
        }
        if len(grid.single):
            label = {"long_name": "one learning rate for both groups", "units": "1"}
            coordinates["single"] = ("single", grid.single, label)
        manifest = self.manifest
        attributes = {
            "title": f"{workload.name}: {workload.loss_name}, by {grid.x.name} and {grid.y.name}",
            "format": FORMAT,
            "version": VERSION,
            "target": plan.target_words,
            "loss": workload.loss_name,
            "marked_rates": list(plan.marked) if plan.marked is not None else [],
            "trained_by": ", ".join(sorted(f"{path} path of train_population" for path in self._paths())),
            "trained_seconds": "several runs" if seconds is None else f"{seconds:.3g}",
            "settings": json.dumps(manifest["settings"]),
            **{f"provenance_{key}": str(value) for key, value in manifest["provenance"].items()},
        }
        for name, values, words in (
            ("initial_loss", initial, "loss before training"), ("target_loss", target, plan.target_words),
        ):  # fmt: skip
            variables[name] = ("seed", values, {"long_name": words, "units": workload.loss_unit})
        return xarray.Dataset(variables, coordinates, attributes)


def open_map(folder: str | os.PathLike[str]) -> Any:
    """The map of a folder as an :class:`xarray.Dataset`, with all its numbers read.

    Every file of it is held against the store's manifest first.

    Raises:
        CheckpointError: there is no complete map, or it was changed or damaged after it was written.
    """
    import xarray

    path = Path(folder)
    store = path if path.suffix == ".zarr" else path / "map.zarr"
    if not store.is_dir():
        raise CheckpointError(f"no complete map at {path}", help="name a folder that `lrdiff map` has finished")
    check_files(store, whole=True, manifest=STORE_MANIFEST)
    try:
        _check_codecs(store)
        opened = xarray.open_zarr(store, consolidated=True)
        if opened.attrs.get("format") != FORMAT:
            raise ValueError("its attributes are not those of a map")
        there = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
        if opened.nbytes > max(ANY_SIZE, MOST_UNPACKED * there):
            raise ValueError(f"it would be {opened.nbytes} bytes, of {there} that are there")
        return opened.load()
    except Exception as problem:  # metadata and chunks of a store without a manifest fail in many ways
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise CheckpointError(f"{store} is damaged: {said}", help="compute it again with `lrdiff map`") from problem


def _manifest(plan: MapPlan) -> dict[str, Any]:
    code = describe_code()
    return {
        "format": FORMAT,
        "version": VERSION,
        "settings": plan.settings(),
        "provenance": {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "lrdiff": code.project,
            "torch": code.torch,
            "numpy": code.numpy,
            "python": code.python,
            "commit": code.commit or "unknown",
            "commit_has_changes": code.dirty,
            "cpu": describe_machine().cpu,
        },
    }


def _read_manifest(file: Path) -> dict[str, Any]:
    help = "name another folder with --out, or remove that one"
    document = read_document(file, format=FORMAT, version=VERSION, what="of a map", help=help)
    check_seal(document, file, help=help)
    if not isinstance(document.get("settings"), dict) or not isinstance(document.get("provenance"), dict):
        raise CheckpointError(f"{file} lacks what it says of a map", help=help)
    return unsealed(document)


def _same_map(folder: Path, manifest: Mapping[str, Any], plan: MapPlan) -> None:
    """Refuse to mix two maps; a complete one is only read, so the versions that made it do not matter."""
    there, wanted = dict(manifest["settings"]), json.loads(json.dumps(plan.settings()))
    complete = (folder / "map.zarr").is_dir()
    for key in ("lrdiff", "torch", "commit", "tiles") if complete else ():
        there[key] = wanted[key]
    # A fingerprint differs with most of the others, and tells least.
    differ = sorted((key for key in wanted if there.get(key) != wanted[key]), key=lambda key: key == "fingerprint")
    if not differ:
        return
    key = differ[0]
    before, now = there.get(key), wanted[key]
    if key == "workload":
        one, other = dict(before or {}), dict(now or {})
        key = next(name for name in {**one, **other} if one.get(name) != other.get(name))
        before, now = one.get(key), other.get(key)
    if key == "fingerprint":
        raise InputError(
            f"{folder} holds a map of other code or rows: first weights or rows of workload "
            f"{plan.workload.name} have changed",
            help="name another folder with --out, or remove that one",
        )
    raise InputError(
        f"{folder} holds a map with {key} {_short(before)}, now asked for {_short(now)}",
        help="name another folder with --out, or remove that one",
    )


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(str, value)) if len(value) == 2 else str(value)
    return "none" if value is None else str(value)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    owner = Owner.of(folder)
    if owner is None:
        raise InputError(
            f"another process is computing the map in {folder}", help="wait for it, or name another folder with --out"
        )
    try:
        yield
    finally:
        owner.release()


def _check_codecs(store: Path) -> None:
    """Refuse codecs and types that no map is written with: some of them run what they decode.

    Raises:
        ValueError: the store's metadata ask for one.
    """
    for name, array in json.loads((store / ".zmetadata").read_bytes())["metadata"].items():
        if not name.endswith(".zarray"):
            continue
        compressor = array["compressor"]
        if array["filters"] or (compressor is not None and compressor["id"] != "blosc") or "O" in str(array["dtype"]):
            raise ValueError(f"{name} asks for a codec or a type that no map has")
        for chunk in (store / name).parent.glob("[!.]*") if compressor else ():
            _check_blosc(chunk)


def _check_blosc(chunk: Path) -> None:
    """Hold the sizes in a chunk's header against the file: Blosc would read beyond its end.

    Raises:
        ValueError: they do not fit.

    Source: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
    """
    with open(chunk, "rb") as file:
        header = file.read(16)
    flags, unpacked, packed = (header[2], *struct.unpack("<I4xI", header[4:])) if len(header) == 16 else (0, 0, 0)
    length = chunk.stat().st_size
    if packed != length or not packed or (flags & _STORED and packed != unpacked + 16):
        raise ValueError(f"{chunk.parent.name}/{chunk.name} is no whole chunk of Blosc's")


def _place(tile: Tile) -> tuple[str, dict[str, slice]]:
    """Beginning of the variables' names, and where in them the tile lies, seeds left out."""
    if tile.kind == MARKED:
        return "marked_", {}
    if tile.kind == SINGLE:
        return "single_", {"single": slice(*tile.rows)}
    return "", {"y": slice(*tile.rows), "x": slice(*tile.columns)}


def _decoded(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As a reader sees the columns: NaN where a step is missing."""
    return {
        name: np.where(found[name] < 0, np.nan, found[name]) if kind == "int32" else found[name]
        for name, kind in COLUMNS.items()
    }


def _encoding(template: Any) -> dict[str, dict[str, Any]]:
    chunks: dict[str, dict[str, Any]]
    chunks = {name: {"chunks": [s[0] for s in v.chunks]} for name, v in template.data_vars.items() if v.chunks}
    for name, encoding in chunks.items():
        if COLUMNS[name.removeprefix("single_").removeprefix("marked_")] == "int32":
            encoding |= {"dtype": "int32", "_FillValue": -1}
    return chunks


def _attributes(plan: MapPlan) -> dict[str, dict[str, str]]:
    workload = plan.workload
    attributes = {
        "loss": (f"{workload.loss_name} after the last step; inf where it is not finite", workload.loss_unit),
        "score": (f"{workload.score_name} of the same rows after the last step", "1"),
        "best_step": ("steps after which the loss was lowest, of those evaluated", "steps"),
        "steps_to_target": (f"steps to {plan.target_words}; missing where it is not reached", "steps"),
        "diverged": ("the loss was not finite at some step, or ended no lower than before training", "1"),
    }
    return {name: {"long_name": words, "units": unit} for name, (words, unit) in attributes.items()}
