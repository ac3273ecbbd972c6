"""Arrays on their way between processes: numbers as NumPy keeps them, words as UTF-8 beside their lengths."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

__all__ = ["load_arrays", "save_arrays"]


def save_arrays(path: str | os.PathLike[str], arrays: Sequence[np.ndarray]) -> None:
    """Write arrays of numbers and strings into an npz file.

    NumPy's own strings are all as long as the longest, and lose zeros at their end.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "in.npz"
        >>> save_arrays(file, [np.float32([[1]]), np.array([["réd", ""]], object)])
        >>> [one.tolist() for one in load_arrays(file)]
        [[[1.0]], [['réd', '']]]
    """
    members: dict[str, np.ndarray] = {}
    for index, one in enumerate(map(np.asarray, arrays)):
        if one.dtype.kind not in "OU":
            members[f"array{index}"] = one
            continue
        # None and NaN in a table mean that there is no word, as ONNX Runtime takes them.
        words = [word.encode() if isinstance(word, str) else b"" for word in one.ravel().tolist()]
        members[f"words{index}"] = np.frombuffer(b"".join(words), np.uint8)
        members[f"lengths{index}"] = np.array([len(word) for word in words], np.int64).reshape(one.shape)
    np.savez(path, **members)  # type: ignore[arg-type]


def load_arrays(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """Read what :func:`save_arrays` wrote; strings are an array of objects.

    Raises:
        ValueError: another file.
    """
    found: list[np.ndarray] = []
    with np.load(path, allow_pickle=False) as members:
        count = sum(not name.startswith("lengths") for name in members.files)
        for index in range(count):
            if f"array{index}" in members:
                found.append(members[f"array{index}"])
                continue
            lengths, data = members[f"lengths{index}"], members[f"words{index}"].tobytes()
            ends = np.cumsum(lengths.ravel())
            words = np.empty(lengths.size, object)
            words[:] = [data[end - size : end].decode() for end, size in zip(ends, lengths.ravel(), strict=True)]
            found.append(words.reshape(lengths.shape))
    return found
