"""Checkpoints: weights and what is needed to build the model again, in safetensors (no pickle)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from lrdiff_core.errors import CheckpointError
from lrdiff_core.files import write_bytes
from lrdiff_core.model import ModelSpec, TabularNet

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = "lrdiff.checkpoint"
VERSION = 1


def save_checkpoint(path: str | os.PathLike[str], net: TabularNet, *, info: dict[str, Any] | None = None) -> None:
    """Write the model's weights and its spec to ``path``, whole or not at all.

    Args:
        path: the file's name.
        net: any device; the tensors are saved from the CPU.
        info: more JSON to keep in the header, such as the rates.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    header = {"version": VERSION, "model": net.spec.to_dict(), "info": info or {}}
    # One key only: safetensors writes several in random order, and the same model must give the same bytes.
    write_bytes(path, safetensors.torch.save(tensors, metadata={FORMAT: json.dumps(header)}))


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
    again = "train again with `lrdiff run` or `lrdiff train`"
    if not file.is_file():
        raise CheckpointError(
            f"no checkpoint at {file}", help="name a run folder made by `lrdiff run` or `lrdiff train`"
        )
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as problem:
        raise CheckpointError(f"{file} is damaged or not a safetensors file: {problem}", help=again) from problem
    if FORMAT not in metadata:
        raise CheckpointError(f"{file} is a safetensors file, but not a checkpoint of lrdiff", help=again)
    try:
        header = json.loads(metadata[FORMAT])
        version = header["version"]
        if version != VERSION:
            raise CheckpointError(
                f"{file} has checkpoint version {version}, this program reads {VERSION}",
                help="use the lrdiff that wrote it, or train again",
            )
        spec = ModelSpec.from_dict(header["model"])
        net = TabularNet(spec)
    except (KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(f"{file} has a damaged header: {problem}", help=again) from problem
    _load(net, tensors, file, again)
    return net.eval(), header.get("info", {})


def _load(net: TabularNet, tensors: dict[str, torch.Tensor], file: Path, again: str) -> None:
    expected = net.state_dict()
    if odd := sorted(expected.keys() ^ tensors.keys()):
        raise CheckpointError(f"{file} does not fit its own model: {', '.join(odd[:3])}", help=again)
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise CheckpointError(f"{file} does not fit its own model: {name} is {tuple(tensor.shape)}", help=again)
    net.load_state_dict(tensors)
