"""Whether a file answers no rows as its module does: tried in another process, because runtimes may crash on it."""

from __future__ import annotations

import atexit
import tempfile
from functools import lru_cache
from pathlib import Path

from lrdiff_core.errors import LrdiffError
from lrdiff_export.model.float64 import run_module
from lrdiff_export.model.prepared import Prepared
from lrdiff_export.runtimes.sandbox import Sandbox

__all__ = ["answers_no_rows"]


@lru_cache(maxsize=1)
def _sandbox() -> Sandbox:
    """One for all files of this process: it takes longer to start than to run them."""
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox


def answers_no_rows(data: bytes, prepared: Prepared) -> bool:
    """Run a file and its module on no rows.

    Args:
        data: bytes of the file; its weights, where they are not inside, lie in the folder that they name.
        prepared: the module.

    Example:
        >>> import torch
        >>> from lrdiff_export.model.prepared import prepare
        >>> from lrdiff_export.onnx_file.convert import convert
        >>> prepared = prepare(torch.nn.Linear(3, 2), torch.zeros(2, 3))
        >>> answers_no_rows(convert(prepared).data, prepared)
        True
    """
    none = [one[:0] for one in prepared.example]
    try:
        right = run_module(prepared.module, *(one.clone() for one in none))
    except Exception:  # noqa: BLE001 - a module may raise whatever it likes on nothing
        return False
    folder = getattr(data, "folder", None)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(folder or scratch, "no-rows.onnx")
        try:
            file.write_bytes(data)
            outputs = _sandbox().run(file, [one.numpy() for one in none])
        except (LrdiffError, OSError):  # it crashed, or raised, or there is no room to try it
            return False
        finally:
            file.unlink(missing_ok=True)
    return [(tuple(one.shape), str(one.dtype)) for one in outputs] == [
        (tuple(one.shape), str(one.dtype).removeprefix("torch.")) for one in right
    ]
