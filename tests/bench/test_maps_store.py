"""The folder of a map: whole tiles, going on, never two maps in one, one Zarr store that opens in one line."""

from __future__ import annotations

import copy
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from map_helpers import computed, planted, same, small, write_own

from lrdiff_bench.maps import MapRequest, compute_map, make_plan, open_map, report, run, store
from lrdiff_bench.maps.pool import run_tiles
from lrdiff_bench.maps.store import hold_folder
from lrdiff_bench.system.ownership import OWNER
from lrdiff_core.errors import CheckFailed, CheckpointError, InputError
from lrdiff_core.files import sealed


def test_the_store_opens_in_one_line_and_says_what_it_holds(tmp_path: Path) -> None:
    plan, dataset = computed(tmp_path / "map")
    assert dataset["loss"].dims == ("y", "x", "seed")
    assert dataset["loss"].shape == (4, 4, 3)
    assert dataset["single_loss"].shape == (4, 3)
    assert np.array_equal(dataset["x"], plan.grid.x.values)
    assert dataset["loss"].attrs["units"] == "nats"
    assert dataset["best_step"].attrs["units"] == "steps"
    assert dataset["x"].attrs["long_name"] == "learning rate of layer1"
    assert dataset.attrs["target"] == "1.05 times the loss that the workload's own rates end with on the same seed"
    assert dataset.attrs["provenance_torch"] == torch.__version__
    assert len(dataset.attrs["provenance_commit"]) in (40, len("unknown"))
    settings = json.loads(dataset.attrs["settings"])
    assert settings["workload"]["epochs"] == 1
    assert settings["workload"]["data"] == "seed"
    assert sorted(entry.name for entry in (tmp_path / "map").iterdir()) == ["map.json", "map.zarr"]


def test_what_is_stored_is_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {}
    wanted = store.MapFolder.write
    monkeypatch.setattr(store.MapFolder, "write", lambda s, t, f: (kept.update({t: f}), wanted(s, t, f))[1])
    # x is a ratio, so the plane's sides differ; 3 cells a tile leave narrower ones at the end.
    plan, dataset = computed(tmp_path / "map", small(x="layer1/layer2:0.1:100", size=4, tile=3))
    seen = np.zeros(plan.grid.shape, dtype=int)
    for tile, found in kept.items():
        if tile.kind != "cells":
            continue
        part = dataset.isel(y=slice(*tile.rows), x=slice(*tile.columns))
        seen[slice(*tile.rows), slice(*tile.columns)] += 1
        for name in ("loss", "score", "best_step", "diverged"):
            assert np.array_equal(part[name].values.reshape(-1, 3), found[name]), name
        steps = part["steps_to_target"].values.reshape(-1, 3)
        assert np.array_equal(np.isnan(steps), found["steps_to_target"] < 0)
    assert (seen == 1).all()


def test_only_missing_tiles_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, whole = computed(tmp_path / "whole")
    folder = tmp_path / "map"
    trained: list[int] = []

    def some(pool, jobs, done, **options):
        for tile, job in jobs.items():
            if len(trained) == 4:
                raise KeyboardInterrupt
            trained.append(tile.number)
            run_tiles(pool, {tile: job}, done, **options)

    monkeypatch.setattr(run, "run_tiles", some)
    with pytest.raises(KeyboardInterrupt):
        compute_map(plan, folder, workers=0)
    assert not (folder / "map.zarr").exists()
    assert trained == [0, 1, 2, 3]
    (folder / "tiles" / "00002.npz").write_bytes(b"half of a ti")  # a disk that lost power
    tile = bytearray((folder / "tiles" / "00001.npz").read_bytes())
    tile[tile.index(b"path.npy") + 30] ^= 1  # what trained it, which is needed at the end alone
    (folder / "tiles" / "00001.npz").write_bytes(tile)
    (folder / "tiles" / ".00004.npz.abc.tmp.npz").write_bytes(b"")  # killed while writing
    (folder / ".map.zarr.partial").mkdir()
    told = []
    trained.clear()
    monkeypatch.setattr(
        run, "run_tiles", lambda p, j, d, **o: (trained.extend(t.number for t in j), run_tiles(p, j, d, **o))
    )
    compute_map(plan, folder, workers=0, on_tile=lambda *args: told.append(args))
    assert trained == [1, 2, *range(4, len(plan.tiles))]
    assert xarray.open_zarr(folder / "map.zarr").attrs["trained_seconds"] == "several runs"
    assert told[0] == (2, len(plan.tiles), 2)
    assert told[-1] == (len(plan.tiles), len(plan.tiles), 2)
    assert same(xarray.open_zarr(folder / "map.zarr").load(), whole)
    assert not list(folder.glob(".map*"))


def test_a_damaged_tile_is_whole_or_is_none(tmp_path: Path) -> None:
    """A bit of every byte, ends of every kind, and zeros everywhere."""
    plan = make_plan(small())
    tile = plan.tiles[0]
    shape = (int(np.prod(tile.shape())), len(plan.seeds))
    whole = {name: np.ones(shape, kind) for name, kind in store.COLUMNS.items()} | {"path": np.array("kernel")}
    with hold_folder(tmp_path / "map", plan) as folder:
        folder.write(tile, whole)
        data = folder._file(tile).read_bytes()
        damaged = [data[:at] for at in range(0, len(data), 5)]
        damaged += [data[:at] + bytes(8) + data[at + 8 :] for at in range(0, len(data), 8)]
        damaged += [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in range(len(data))]
        for other in ({**whole, "loss": "words"}, {**whole, "diverged": whole["loss"]}, {"loss": whole["loss"]}):
            np.savez(made := io.BytesIO(), **other)
            damaged.append(made.getvalue())
        np.save(made := io.BytesIO(), whole["loss"])
        damaged.append(made.getvalue())
        with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
            for name in whole:
                archive.writestr(f"{name}.npy", "words")
        damaged.append(made.getvalue())
        lost = 0
        for one in damaged:
            folder._file(tile).write_bytes(one)
            found = folder.read(tile)
            lost += found is None
            assert found is None or all(np.array_equal(found[name], values) for name, values in whole.items())
        assert lost > 0.7 * len(damaged)


def test_a_complete_map_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = computed(tmp_path / "map")

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(run, "run_tiles", never)
    monkeypatch.setattr(run, "open_pool", never)
    assert compute_map(plan, tmp_path / "map") is None
    # Another size of tiles is the same map.
    assert compute_map(make_plan(small(tile=1)), tmp_path / "map") is None


def test_a_tile_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(small())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        compute_map(plan, tmp_path / "map", workers=0)
    assert not list((tmp_path / "map" / "tiles").iterdir())


def test_what_is_written_while_it_is_removed_is_removed_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt ends the thread that waits for zarr, not those that write."""
    removing, late, written = shutil.rmtree, [2], list[bool]()

    def write_once_more(path: Path, ignore_errors: bool = False) -> None:
        removing(path, ignore_errors=ignore_errors)
        if path.name == ".map.zarr.partial" and written and late[0]:
            late[0] -= 1
            (path / "loss").mkdir(parents=True)

    def interrupted(*_: object) -> None:
        written.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(store.shutil, "rmtree", write_once_more)
    monkeypatch.setattr(store.MapFolder, "_write_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compute_map(make_plan(small()), tmp_path / "map", workers=0)
    assert late == [0]
    assert not (tmp_path / "map" / ".map.zarr.partial").exists()


@pytest.mark.parametrize("gone", [1, -1])
def test_a_folder_that_vanishes_while_a_map_is_made_is_told(gone: int, tmp_path: Path) -> None:
    """After the first tile, whose losses the others need, and after the last, before they are put together."""
    plan = make_plan(small())

    def take_away(done: int, total: int, before: int) -> None:
        if done == gone % (total + 1):
            shutil.rmtree(tmp_path / "map" / "tiles")

    with pytest.raises(CheckFailed, match=r"map no longer holds tile 0, which was written there\nhelp: it was removed"):
        compute_map(plan, tmp_path / "map", workers=0, on_tile=take_away)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"size": 5}, "size 4 to 4, now asked for 5 to 5"),
        ({"seeds": 2}, "seeds 0 to 2, now asked for 0 to 1"),
        ({"epochs": 2}, "epochs 1, now asked for 2"),
        ({"x": "layer1:1e-3:1"}, "x layer1:0.0001:10, now asked for layer1:0.001:1"),
        ({"target_loss": 0.5}, "target_loss none, now asked for 0.5"),
        ({"dtype": "float64"}, "dtype float32, now asked for float64"),
    ],
)
def test_another_map_in_the_folder_is_refused(tmp_path: Path, changes: dict[str, object], error: str) -> None:
    folder = tmp_path / "map"
    _, before = computed(folder)
    with pytest.raises(InputError) as caught:
        compute_map(make_plan(small(**changes)), folder, workers=0)
    assert caught.value.message == f"{folder} holds a map with {error}"
    assert caught.value.help == "name another folder with --out, or remove that one"
    assert same(xarray.open_zarr(folder / "map.zarr").load(), before)


def test_other_versions_do_not_go_on_with_a_map_and_may_read_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "map"
    plan = make_plan(small())
    with hold_folder(folder, plan) as held:
        tile = plan.tiles[0]
        run_tiles(None, {tile: plan.job(tile, None)}, held.write)
    manifest = json.loads((folder / "map.json").read_text())
    manifest["settings"]["torch"] = "1.0"
    (folder / "map.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(InputError, match=r"holds a map with torch 1\.0, now asked for"):
        compute_map(plan, folder, workers=0)
    manifest["settings"]["torch"] = torch.__version__
    (folder / "map.json").write_text(json.dumps(sealed(manifest)))
    compute_map(plan, folder, workers=0)
    manifest["settings"]["torch"] = "1.0"
    (folder / "map.json").write_text(json.dumps(sealed(manifest)))
    assert compute_map(plan, folder, workers=0) is None


def test_a_workers_other_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(pool, jobs, done, **_):
        for tile in jobs:
            done(tile, {"torch": torch.__version__, "lrdiff": "0.0.1"})

    monkeypatch.setattr(run, "run_tiles", older)
    with pytest.raises(CheckFailed, match=r"a worker has lrdiff 0\.0\.1"):
        compute_map(make_plan(small()), tmp_path / "map", workers=0)
    assert not list((tmp_path / "map" / "tiles").iterdir())


def test_changed_code_does_not_go_on_with_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "map"
    request = MapRequest(workload=write_own(tmp_path, "own_first"), size=4, tile=2)
    computed(folder, request)
    text = (tmp_path / "own_first.py").read_text().replace("inputs.sum(dim=1, keepdim=True)", "inputs[:, :1]")
    (tmp_path / "own_second.py").write_text(text)
    second = make_plan(MapRequest(workload="own_second:workload", size=4, tile=2))
    with pytest.raises(InputError, match="holds a map of other code or rows"):
        compute_map(second, folder, workers=0)


def test_folders_that_are_no_maps_are_left_alone(tmp_path: Path) -> None:
    plan = make_plan(small())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="mine exists and is not a map folder"):
        compute_map(plan, tmp_path / "mine", workers=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        compute_map(plan, tmp_path / "file", workers=0)
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(CheckpointError, match="no complete map"):
        open_map(tmp_path / "mine")
    (tmp_path / "mine" / "thesis.txt").rename(tmp_path / "mine" / "map.json")
    with pytest.raises(CheckpointError, match=r"map\.json is damaged"):
        compute_map(plan, tmp_path / "mine", workers=0)


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="folders are locked on POSIX systems only")
    plan = make_plan(small())
    with (
        hold_folder(tmp_path / "map", plan),
        pytest.raises(InputError, match="another process is computing the map"),
        hold_folder(tmp_path / "map", plan),
    ):
        pass
    compute_map(plan, tmp_path / "map", workers=0)


def test_a_map_of_another_machine_is_left_alone_as_long_as_it_gives_signs_of_life(tmp_path: Path) -> None:
    plan, folder = make_plan(small()), tmp_path / "map"
    with hold_folder(folder, plan):
        pass
    (folder / OWNER).write_text(json.dumps({"host": "", "boot": "another", "process": os.getpid(), "done": False}))
    leftover = folder / ".map.zarr.partial"
    leftover.mkdir()
    with pytest.raises(InputError, match="another process is computing the map"), hold_folder(folder, plan):
        pass
    assert leftover.is_dir()
    long_ago = time.time() - 3600
    os.utime(folder / OWNER, (long_ago, long_ago))
    compute_map(plan, folder, workers=0)
    assert sorted(entry.name for entry in folder.iterdir()) == ["map.json", "map.zarr"]


def test_a_folder_without_locks_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="folders are locked on POSIX systems only")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    _, dataset = computed(tmp_path / "map")
    assert dataset["loss"].notnull().all()


def test_a_plan_without_tiles_may_be_changed(tmp_path: Path) -> None:
    with hold_folder(tmp_path / "map", make_plan(small())):
        pass  # no scheduler was there, say
    _, found = computed(tmp_path / "map", small(size=5))
    assert set(found.sizes.values()) >= {5}


def test_a_store_that_cannot_be_written_leaves_its_tiles_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk half a store would stand in its own way."""
    plan = make_plan(small())
    written = xarray.Dataset.to_zarr

    def full(self: xarray.Dataset, *rest: object, **options: object) -> object:
        if "region" in options:
            raise OSError(28, "No space left on device")
        return written(self, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(xarray.Dataset, "to_zarr", full)
        with pytest.raises(OSError, match="No space left"):
            compute_map(plan, tmp_path, workers=0)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["map.json", "tiles"]
    assert len(list((tmp_path / "tiles").iterdir())) == len(plan.tiles)
    assert compute_map(plan, tmp_path, workers=0) is None  # nothing is trained again
    assert (tmp_path / "map.zarr").is_dir()


def test_a_damaged_store_is_refused_by_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(tmp_path / "m", monkeypatch, lambda rates, seeds: np.full((len(rates), len(seeds)), 0.5), size=6, seeds=2)
    store = tmp_path / "m" / "map.zarr"
    assert open_map(tmp_path / "m").sizes["seed"] == 2
    files = [one for one in store.rglob("*") if one.is_file() and one.name != ".zmanifest"]
    for file in (store / ".zmetadata", next(one for one in files if one.name == "0.0.0"), store / "seed" / "0"):
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=re.escape(f"{file} was changed or damaged after it was written; ")):
            open_map(tmp_path / "m")
        file.write_bytes(data)
    (store / "extra").mkdir()
    (store / "extra" / "0").write_bytes(b"")
    with pytest.raises(CheckpointError, match="was added after the folder was written"):
        open_map(store)
    shutil.rmtree(store / "extra")
    assert capsys.readouterr().err == ""
    (store / ".zmanifest").unlink()  # as of an earlier version
    assert open_map(store).sizes["seed"] == 2
    assert "has no .zmanifest (an earlier lrdiff wrote it): it is read unchecked" in capsys.readouterr().err
    metadata = json.loads((store / ".zmetadata").read_text())

    def changed(array: str, **fields: object) -> str:
        other = copy.deepcopy(metadata)
        other["metadata"][f"{array}/.zarray"] |= fields
        return json.dumps(other)

    texts = ["{", "{}", "[" * 100_000, "null", json.dumps({**metadata, "metadata": []})]
    texts += [changed(name, filters=[{"id": "pickle"}]) for name in ("loss", "seed", "x")]
    texts += [changed("loss", compressor={"id": "pickle"}), changed("loss", dtype="|O"), changed("loss", dtype="<U9")]
    texts += [changed("x", filters=[{"id": "vlen-utf8"}], dtype="|O"), changed("loss", compressor={"id": "zstd"})]
    texts += [changed("loss", shape=[10**5, 10**5, 10**3]), changed("loss", chunks=[0, 0, 0]), changed("x", shape=[-1])]
    for text in texts:
        (store / ".zmetadata").write_text(text)
        with pytest.raises(CheckpointError, match=f"{store} is damaged: "):
            open_map(store)
    (store / ".zmetadata").write_text(json.dumps(metadata))
    for chunk in ("loss/0.0.0", "seed/0"):
        data = (store / chunk).read_bytes()
        for wrong in (b"garbage", b"", data[:-4], data + b"0", data[:4] + b"\xff\xff\xff\x7f" + data[8:]):
            (store / chunk).write_bytes(wrong)
            with pytest.raises(CheckpointError, match=f"{store} is damaged: "):
                open_map(store)
        (store / chunk).write_bytes(data)
    assert open_map(store).sizes["seed"] == 2


def test_what_a_map_says_of_itself_is_checked(tmp_path: Path) -> None:
    plan, _ = computed(tmp_path / "m")
    file = tmp_path / "m" / "map.json"
    document = json.loads(file.read_text())
    for changed in (document | {"settings": {}}, document | {"sha256": "x"}):
        file.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match="map.json was changed or damaged after it was written"):
            compute_map(plan, tmp_path / "m", workers=0)
    file.write_text(json.dumps({"format": "lrdiff.map", "version": 1}))
    with pytest.raises(CheckpointError, match="map.json lacks what it says of a map"):
        compute_map(plan, tmp_path / "m", workers=0)


def test_a_map_stays_in_its_folder_whatever_its_workload_is_called(tmp_path: Path) -> None:
    plan = make_plan(small())
    for name in ("../../x", "/etc/x", "a/../../b", "..", "\x1b[2J"):
        other = dataclasses.replace(plan, workload=dataclasses.replace(plan.workload, name=name))
        folder = Path("runs") / report._folder_name(other, small())
        assert folder.parent == Path("runs")
        assert folder.name.isprintable()
