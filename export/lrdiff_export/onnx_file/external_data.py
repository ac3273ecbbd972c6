"""Weights in a second file beside the model, for models past the 2 GiB that a protobuf message holds.

The second file is named after what it holds, ``model.onnx.<16 digits of its SHA-256>.data``, and the model says the
whole hash. So an older ``model.onnx`` never meets newer weights: of two files that are renamed one after the other the
weights go first, and a crash in between leaves the older pair whole, and weights that nobody refers to.

A file that nobody vouches for may name one plain file beside it, whose pieces are within it, do not overlap, have the
sizes of their shapes, and together the hash that the model says. All else is refused.

Source: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from lrdiff_core.errors import ModelFileError
from lrdiff_export.onnx_file.protobuf import messages

if TYPE_CHECKING:
    import onnx_ir

__all__ = [
    "DataFile",
    "ModelBytes",
    "check_weights",
    "is_elsewhere",
    "is_plain",
    "move_weights",
    "old_weights",
    "sha256_of",
    "without_weights",
]

ONE_FILE = 2**31 - 2**20  # protobuf's 2 GiB, less room for the graph around the weights
SMALLEST = 1024  # bytes; smaller tensors stay in the model, where shape inference can read them
ALIGNMENT = 4096  # a page, so that a runtime can map a tensor
HASH_KEY = "lrdiff.data_sha256"
_ELSEWHERE = onnx.TensorProto.EXTERNAL
_HELP = "get both files from one export, and keep them in one folder"
_PART = 2**24


class ModelBytes(bytes):
    """Bytes of a model, with the folder in which its weights are where they are not inside.

    Attributes:
        folder: where the second file lies; None for a model of one file.
        weights: bytes of the second file that are really on the disk.
    """

    folder: Path | None = None
    weights: int = 0

    @classmethod
    def of(cls, data: bytes, folder: Path | None, weights: int = 0) -> ModelBytes:
        """Return ``data`` with its folder.

        Example:
            >>> ModelBytes.of(b"x", None) == b"x"
            True
        """
        made = cls(data)
        made.folder, made.weights = folder, weights
        return made


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """The second file of a model.

    Attributes:
        name: of the file, without a folder.
        sha256: of all its bytes.
        size: in bytes.
    """

    name: str
    sha256: str
    size: int


def move_weights(model: onnx_ir.Model, folder: Path, name: str) -> DataFile | None:
    """Write the larger weights of a model into a file of their own, and have the model point there.

    Args:
        model: changed in place.
        folder: where to write.
        name: of the model's file, with which the second file's name begins.

    Returns:
        The file, whose bytes depend on the weights alone; None where there are only small ones.
    """
    import onnx_ir

    beside = folder / "weights"
    digest = hashlib.sha256()
    places: dict[str, int] = {}
    at = 0
    values = model.graph.initializers
    with open(beside, "wb") as file:
        for key, value in values.items():
            if value.const_value is None or value.const_value.nbytes < SMALLEST:
                continue
            places[key] = -(-at // ALIGNMENT) * ALIGNMENT
            for part in (bytes(places[key] - at), _plain_bytes(value.const_value)):
                file.write(part)
                digest.update(part)
            at = places[key] + value.const_value.nbytes
        file.flush()
        os.fsync(file.fileno())
    if not places:
        beside.unlink()
        return None
    made = DataFile(name=f"{name}.{digest.hexdigest()[:16]}.data", sha256=digest.hexdigest(), size=at)
    os.replace(beside, folder / made.name)
    for key, place in places.items():
        tensor = values[key].const_value
        assert tensor is not None
        values[key].const_value = onnx_ir.ExternalTensor(
            made.name,
            place,
            tensor.nbytes,
            tensor.dtype,
            shape=onnx_ir.Shape(tensor.shape.numpy()),
            name=key,
            base_dir=folder,
        )
    return made


def _plain_bytes(tensor: Any) -> Any:
    """A tensor's bytes, without a copy where NumPy has its dtype."""
    array = tensor.numpy()
    if array.dtype.kind not in "fiub" or array.dtype.byteorder == ">":
        return tensor.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def old_weights(model: Path, keep: str | None) -> list[Path]:
    """Return the second files beside a model that earlier exports of that name left, but for ``keep``."""
    ours = re.compile(re.escape(model.name) + r"\.[0-9a-f]{16}\.data")
    return [path for path in model.parent.iterdir() if ours.fullmatch(path.name) and path.name != keep]


def is_elsewhere(part: object) -> bool:
    """Whether a protobuf message is a tensor whose values lie in another file."""
    return isinstance(part, onnx.TensorProto) and part.data_location == _ELSEWHERE


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose weights in a second file are inputs, so that the rest can be checked without them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensors = [one for one in made.graph.initializer if is_elsewhere(one)]
    kept = [one for one in made.graph.initializer if not is_elsewhere(one)]
    listed = {value.name for value in made.graph.input}
    for one in tensors:
        if one.name not in listed:
            made.graph.input.append(onnx.helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)))
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    return made


def check_weights(model: onnx.ModelProto, folder: Path | None, *, name: str, hashed: bool) -> int | None:
    """Raise unless all weights of a model are inside, or in one proper file beside it.

    Args:
        model: parsed, not checked.
        folder: of the model's file; None where only its bytes are known.
        name: what error messages call it.
        hashed: also read the second file and compare its hash; else its size and place alone are looked at.

    Returns:
        The bytes of the second file that are really on the disk; None without one.

    Raises:
        ModelFileError: the second file is not one that may be read, or not the one that the model was written with.
    """
    tensors = [part for part in messages(model) if is_elsewhere(part)]
    if not tensors:
        return None
    if folder is None:
        raise ModelFileError(f"{name} keeps weights in another file", help="give its path, not its bytes")
    inside = sum(map(is_elsewhere, model.graph.initializer))
    if len(tensors) != inside:
        raise ModelFileError(f"{name} keeps something other than weights in another file", help=_HELP)
    said = {entry.key: entry.value for entry in model.metadata_props}.get(HASH_KEY)
    location = _location(tensors, name)
    if said is None:
        raise ModelFileError(
            f"{name} keeps weights in another file and does not record its hash",
            help="write it with lrdiff export, or as one file: torch.onnx.export(..., external_data=False)",
        )
    path = folder / location
    size, present = _look_at(path, name)
    _check_pieces(tensors, size, name=name, location=location)
    if hashed and sha256_of(path) != said:
        raise ModelFileError(f"{location} is not the file that {name} was written with", help=_HELP)
    return present


def is_plain(name: str) -> bool:
    """Whether a name is that of a file in the same folder, and of nothing else on any system.

    Example:
        >>> [is_plain(name) for name in ("a.data", "..", "b/a.data", "C:a", "")]
        [True, False, False, False, False]
    """
    return name.isprintable() and name not in ("", ".", "..") and not set(name) & set('/\\:*?"<>|')


def _location(tensors: Iterable[Any], name: str) -> str:
    locations = {_entries(tensor).get("location", "") for tensor in tensors}
    for location in sorted(locations):
        if not is_plain(location):
            raise ModelFileError(f"{name} keeps weights outside its folder: {ascii(location)[:80]}", help=_HELP)
    if len(locations) != 1:
        raise ModelFileError(
            f"{name} keeps weights in {len(locations)} other files", help="only one other file is supported"
        )
    return locations.pop()


def _entries(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _look_at(path: Path, name: str) -> tuple[int, int]:
    """Size of a regular file, and how much of it is on the disk: a file of holes would buy a hostile model memory."""
    try:
        found = os.lstat(path)
    except OSError as problem:
        raise ModelFileError(f"{name} needs {path.name} beside it: {problem.strerror}", help=_HELP) from problem
    if not stat.S_ISREG(found.st_mode):
        raise ModelFileError(f"{path.name}, which {name} needs, is not a regular file", help=_HELP)
    blocks = getattr(found, "st_blocks", None)  # of 512 bytes; Windows does not tell
    return found.st_size, found.st_size if blocks is None else min(found.st_size, 512 * blocks)


def _check_pieces(tensors: Iterable[Any], size: int, *, name: str, location: str) -> None:
    end = 0
    pieces = sorted((_piece(tensor, name) for tensor in tensors), key=lambda piece: piece[0])
    for first, length in pieces:
        if first + length > size:
            raise ModelFileError(f"{location} is shorter than {name} says: {size} bytes", help=_HELP)
        if first < end:
            raise ModelFileError(f"weights of {name} overlap in {location}", help=_HELP)
        end = first + length


def _piece(tensor: Any, name: str) -> tuple[int, int]:
    """Offset and length of a tensor in the second file; the length must be that of its shape."""
    entries = _entries(tensor)
    numbers = [entries.get(key, "0" if key == "offset" else "") for key in ("offset", "length")]
    if not all(text.isascii() and text.isdigit() and len(text) < 19 for text in numbers):
        raise ModelFileError(f"{name} does not say where its weights are in the other file", help=_HELP)
    count = 1
    for dim in tensor.dims:
        count *= dim
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        width = 0
    first, length = map(int, numbers)
    if min(tensor.dims, default=1) < 0 or not width or length != count * width:
        raise ModelFileError(f"{name} declares weights of another size than the other file has", help=_HELP)
    return first, length


def sha256_of(path: Path, *, through_links: bool = False) -> str:
    """Return the SHA-256 of a file, read piece by piece.

    Raises:
        ModelFileError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        # Not through a link that came since it was looked at, and without waiting for a pipe's other end.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(path, flags if through_links else flags | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "rb") as file:
            while part := file.read(_PART):
                digest.update(part)
    except OSError as problem:
        raise ModelFileError(f"cannot read {path}: {problem.strerror}", help=_HELP) from problem
    return digest.hexdigest()
