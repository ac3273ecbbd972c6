"""Arrays of a ``.npy`` or ``.npz`` file, where a command takes tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lrdiff_core.errors import DataError
from lrdiff_export.records import first_line

__all__ = ["read_arrays"]


def read_arrays(path: Path) -> Any:
    """The array of a ``.npy`` file, or those of a ``.npz`` by name, in the file's order; never a pickle.

    Raises:
        DataError: another kind of file, none, or a damaged one.
    """
    hint = "name a .npy file, or .npz with one array an input"
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"{path} is no file of arrays: this model takes tensors", help=hint)
    if not path.is_file():
        raise DataError(f"{path} does not exist", help=hint)
    try:
        with open(path, "rb") as file:  # which NumPy leaves open where it fails
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            arrays = {name: loaded[name] for name in loaded.files}
        for name, one in arrays.items():
            if not isinstance(one, np.ndarray):  # NumPy hands on the bytes of another kind of file
                raise ValueError(f"{name} in it is no array")
        return arrays
    except Exception as problem:  # a damaged archive fails in many ways
        raise DataError(f"{path} cannot be read: {first_line(problem)}", help=hint) from problem
