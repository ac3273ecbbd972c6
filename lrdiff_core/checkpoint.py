"""Checkpoints in safetensors, no pickle: a model with its spec, or a training between two epochs."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lrdiff_core.errors import CheckpointError
from lrdiff_core.files import SEAL, digest_of_document, write_bytes
from lrdiff_core.loop import Best, NotFinite, Observation, TrainingState
from lrdiff_core.model import ModelSpec, TabularNet
from lrdiff_core.text import count

__all__ = [
    "TrainingFile",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "save_training",
    "save_weights",
]

FORMAT = "lrdiff.checkpoint"
VERSION = 1
AGAIN = "train again with `lrdiff run` or `lrdiff train`"
TRAINING = "lrdiff.training"
TRAINING_VERSION = 1
# What schedules, rules and evaluations move; the rest is the settings'.
_MOVED = ("lr", "initial_lr", "weight_decay", "momentum", "train_mode")


def save_weights(path: str | os.PathLike[str], weights: Mapping[str, torch.Tensor], *, info: dict[str, Any]) -> None:
    """Write the weights of any module by their names, with JSON beside them, whole or not at all.

    Args:
        path: the file's name.
        weights: a ``state_dict``, on any device; weights that share memory are written once for each name.
        info: JSON to keep in the header.
    """
    _write(path, FORMAT, {"version": VERSION, "own": True, "info": info}, _copies(weights))


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_weights` wrote: tensors by name, and ``info``.

    Raises:
        CheckpointError: no such file, damaged, or not written so.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_weights(file, torch.nn.Linear(2, 1).state_dict(), info={"epoch": 3})
        >>> weights, info = load_weights(file)
        >>> sorted(weights), info
        (['bias', 'weight'], {'epoch': 3})
    """
    tensors, header = _read_checkpoint(Path(path))
    if not header.get("own") or not isinstance(header.get("info"), dict):
        raise CheckpointError(f"{path} holds no weights of a model of your own", help=AGAIN)
    return tensors, header["info"]


def save_checkpoint(path: str | os.PathLike[str], net: TabularNet, *, info: dict[str, Any] | None = None) -> None:
    """Write the model's weights and its spec to ``path``, whole or not at all.

    Args:
        path: the file's name.
        net: any device; the tensors are saved from the CPU.
        info: more JSON to keep in the header, such as the rates.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    header = {"version": VERSION, "model": net.spec.to_dict(), "info": info or {}}
    _write(path, FORMAT, header, tensors)


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[TabularNet, dict[str, Any]]:
    """Read a checkpoint back: the model on the CPU in evaluation mode, and the saved ``info``.

    Raises:
        CheckpointError: no such file, damaged, or not written by lrdiff.

    Example:
        >>> import tempfile, pathlib
        >>> from lrdiff_core import build_model, ModelSpec
        >>> spec = ModelSpec(features=1, hidden=(2,), outputs=1, task="regression", feature_names=("x",),
        ...                  classes=(), target_name="y")
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_checkpoint(file, build_model(spec, seed=0), info={"note": "fresh"})
        >>> net, info = load_checkpoint(file)
        >>> info
        {'note': 'fresh'}
    """
    file = Path(path)
    tensors, header = _read_checkpoint(file)
    if header.get("own"):
        raise CheckpointError(
            f"{file} holds the weights of a model of your own", help="name its run folder: its factory makes the model"
        )
    info = header.get("info", {})
    try:
        spec = ModelSpec.from_dict(header["model"])
        if not isinstance(info, dict):
            raise TypeError("info is no table")
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(f"{file} has a damaged header: {problem}", help=AGAIN) from problem
    _check_sizes(spec, tensors, file)
    net = TabularNet(spec)
    _load(net, tensors, file, AGAIN)
    return net.eval(), info


def _check_sizes(spec: ModelSpec, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Hold what a file says of its network against the tensors that it has, before anything is allocated."""
    there = sum(re.fullmatch(r"layer\d+\.weight", name) is not None for name in tensors)
    layers = len(spec.hidden) + 1
    if there != layers:
        raise CheckpointError(
            f"{file} does not fit its own model: it has {there} of {count(layers, 'layer')}", help=AGAIN
        )
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(spec.sizes), start=1):
        for name, shape in ((f"layer{number}.bias", (fan_out,)), (f"layer{number}.weight", (fan_out, fan_in))):
            if name not in tensors:
                raise CheckpointError(f"{file} does not fit its own model: {name} is missing", help=AGAIN)
            if tuple(tensors[name].shape) != shape:
                raise CheckpointError(
                    f"{file} does not fit its own model: {name} is {tuple(tensors[name].shape)}", help=AGAIN
                )


def _copies(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies by name: two names of one tensor get one each, which safetensors wants."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}


def _read_checkpoint(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if not file.is_file():
        raise CheckpointError(
            f"no checkpoint at {file}", help="name a run folder made by `lrdiff run` or `lrdiff train`"
        )
    metadata, tensors = _read(file, AGAIN)
    if FORMAT not in metadata:
        raise CheckpointError(f"{file} is a safetensors file, but not a checkpoint of lrdiff", help=AGAIN)
    header = _header(metadata[FORMAT], tensors, file, VERSION)
    return tensors, header


def save_training(
    path: str | os.PathLike[str], net: nn.Module, state: TrainingState, *, info: dict[str, Any] | None = None
) -> None:
    """Write everything that the next epoch depends on to ``path``, whole or not at all: no pickle.

    Args:
        path: the file's name, such as ``training.safetensors``.
        net: whose parameters the optimizer of ``state`` has.
        state: between two epochs.
        info: more JSON to keep, such as what the settings were.

    Example:
        >>> import tempfile, pathlib
        >>> from lrdiff_core import load_table, make_config, set_up, train
        >>> table, config = load_table("seed"), make_config({"epochs": 3, "patience": 0})
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "training.safetensors"
        >>> def kept(net, state):
        ...     if state.epoch == 2:
        ...         save_training(file, net, state)
        >>> whole = train(set_up(table, config), on_state=kept)
        >>> rest = train(set_up(table, config), go_on=TrainingFile(file).restore)
        >>> rest.observations == whole.observations
        True
    """
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    tensors = {f"net/{name}": value for name, value in net.state_dict().items()}
    numbers: dict[str, dict[str, Any]] = {}
    for parameter, entries in state.optimizer.state.items():
        name = names[id(parameter)]
        numbers[name] = {}
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{key}"] = value
            else:
                numbers[name][key] = value
    groups = [
        {key: group[key] for key in _MOVED if key in group} | {"params": [names[id(p)] for p in group["params"]]}
        for group in state.optimizer.param_groups
    ]
    tensors["order"] = state.order.get_state()
    best = state.best
    if best is not None:
        tensors |= {f"best/{name}": value for name, value in best.weights.items()}
    header = {
        "version": TRAINING_VERSION,
        "epoch": state.epoch,
        "observations": [asdict(one) for one in state.observations],
        "best": None if best is None else {"epoch": best.epoch, "loss": best.loss},
        "not_finite": None if state.not_finite is None else asdict(state.not_finite),
        "optimizer": {"kind": type(state.optimizer).__name__, "groups": groups, "state": numbers},
        "schedule": None if state.schedule is None else state.schedule.state_dict(),
        "info": info or {},
    }
    _write(path, TRAINING, header, _copies(tensors))


class TrainingFile:
    """A training between two epochs, read back from what :func:`save_training` wrote.

    Attributes:
        epoch: epochs done.
        info: what was kept with it.
        tensors: by name, as they are in the file: ``net/layer1.weight`` and so on.

    Raises:
        CheckpointError: no such file, damaged, or of another kind or version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file, self._again = Path(path), AGAIN
        if not self._file.is_file():
            raise CheckpointError(f"there is no {self._file}", help=self._again)
        metadata, self.tensors = _read(self._file, self._again)
        if TRAINING not in metadata:
            raise self._damaged("it is a safetensors file of something else")
        self._header = _header(metadata[TRAINING], self.tensors, self._file, TRAINING_VERSION)
        try:
            self.epoch, self.info = int(self._header["epoch"]), dict(self._header["info"])
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise self._damaged(str(problem)) from problem

    def restore(self, net: nn.Module, state: TrainingState) -> None:
        """Put everything into a network and the state of a training that have not begun.

        Raises:
            CheckpointError: it is the training of another network, with another optimizer or in other groups.
        """
        header = self._header
        try:
            net.load_state_dict(self._under("net/"))
            self._restore_optimizer(net, state.optimizer)
            if (header["schedule"] is None) != (state.schedule is None):
                raise self._damaged("it has a schedule" if state.schedule is None else "it has no schedule")
            if state.schedule is not None:
                state.schedule.load_state_dict(header["schedule"])
            state.order.set_state(self.tensors["order"])
            state.epoch = self.epoch
            state.observations = [Observation(**row) for row in header["observations"]]
            if header.get("not_finite") is not None:  # of earlier versions it is not known
                state.not_finite = NotFinite(**header["not_finite"])
            if header["best"] is not None:
                device = next(net.parameters()).device
                weights = {name: value.to(device) for name, value in self._under("best/").items()}
                state.best = Best(**header["best"], weights=weights)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, RuntimeError) as problem:
            raise self._damaged(str(problem).partition("\n")[0]) from problem

    def _restore_optimizer(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        saved = self._header["optimizer"]
        if saved["kind"] != type(optimizer).__name__:
            raise self._damaged(f"its optimizer is {saved['kind']}, not {type(optimizer).__name__}")
        names = {id(parameter): name for name, parameter in net.named_parameters()}
        here = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
        if here != [group["params"] for group in saved["groups"]]:
            raise self._damaged("its parameters are in other groups")
        whole = optimizer.state_dict()
        flat = [name for group in here for name in group]
        entries: dict[str, dict[str, Any]] = {name: dict(numbers) for name, numbers in saved["state"].items()}
        for key, value in self._under("optimizer/").items():
            name, _, entry = key.rpartition("/")
            entries[name][entry] = value
        # In the order of the file: optimizers go through their state in that order.
        whole["state"] = {flat.index(name): values for name, values in entries.items()}
        for group, moved in zip(whole["param_groups"], saved["groups"], strict=True):
            group.update({key: value for key, value in moved.items() if key != "params"})
        optimizer.load_state_dict(whole)

    def _under(self, prefix: str) -> Mapping[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def _damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self._file} is not the state of this training: {why}", help=self._again)


def _write(path: str | os.PathLike[str], kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write tensors and a header, with a checksum of both in it."""
    header = header | {SEAL: _digest(header, tensors)}
    # One key only: safetensors writes several in random order, and the same model must give the same bytes.
    write_bytes(path, safetensors.torch.save(tensors, metadata={kind: json.dumps(header)}))


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(digest_of_document(header).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _header(text: str, tensors: Mapping[str, Tensor], file: Path, version: int) -> dict[str, Any]:
    """The header of a file, if it and the tensors are what was written; earlier files have no checksum."""
    try:
        header = json.loads(text)
        found = header["version"]
    except (KeyError, TypeError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{file} has a damaged header: {problem}", help=AGAIN) from problem
    if not isinstance(header, dict) or found != version:
        raise CheckpointError(
            f"{file} has checkpoint version {found!r:.40}, this program reads {version}",
            help="use the lrdiff that wrote it, or train again",
        )
    if SEAL in header and header[SEAL] != _digest(header, tensors):
        raise CheckpointError(f"{file} is damaged: its content is not what was written", help=AGAIN)
    return header


def _read(file: Path, again: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            return metadata, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as problem:
        raise CheckpointError(f"{file} is damaged or not a safetensors file: {problem}", help=again) from problem


def _load(net: TabularNet, tensors: dict[str, torch.Tensor], file: Path, again: str) -> None:
    expected = net.state_dict()
    if odd := sorted(expected.keys() ^ tensors.keys()):
        raise CheckpointError(f"{file} does not fit its own model: {', '.join(odd[:3])}", help=again)
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise CheckpointError(f"{file} does not fit its own model: {name} is {tuple(tensor.shape)}", help=again)
    net.load_state_dict(tensors)
