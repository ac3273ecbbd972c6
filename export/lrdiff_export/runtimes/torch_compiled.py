"""PyTorch compiled for the CPU: ``torch.compile``, and AOTInductor's package, which runs without Python."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_export.runtimes.protocol import Facts, Predict, RanElsewhereError, register_backend
from lrdiff_export.runtimes.torch_eager import TorchBackend, check_device, torch_facts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["CompiledBackend", "PackageBackend", "compiler_path"]


@register_backend("compiled")
class CompiledBackend(TorchBackend):
    """``torch.compile`` with inductor, the whole graph or nothing; subclasses say which device and mode.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    mode: str | None = None
    builds_each_shape = True  # so that no buffer is made for fewer rows than are run, and every shape takes seconds

    def availability(self) -> str | None:
        """Return why inductor cannot build for the CPU here."""
        return _no_compiler()

    def prepare(self, model: nn.Module) -> Predict:
        """Return a function that runs compiled code; eager fall-backs are refused."""
        import torch

        from lrdiff_export.model.float64 import evaluation_copy, run_module, to_numpy

        graphs = 0
        placed = self.place(evaluation_copy(model))

        def counted(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
            nonlocal graphs
            graphs += 1
            compiled: Callable[..., Any] = torch._inductor.compile(graph, list(examples), options=self.options())
            return compiled

        # fullgraph: a graph break would run its part eagerly without a word.
        compiled = torch.compile(placed, backend=counted, fullgraph=True, dynamic=False)

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # inductor warns of its own deprecated calls
                outputs = run_module(compiled, *(self.place(torch.tensor(one)) for one in rows))
            if not graphs:
                raise RanElsewhereError(
                    "asked for compiled code, torch.compile ran eagerly", help="see TORCH_COMPILE_DISABLE, set_stance()"
                )
            self.ran_on = check_device([*placed.parameters(), *placed.buffers(), *outputs], self.device)
            return [to_numpy(output) for output in outputs]

        return predict

    def options(self) -> dict[str, Any]:
        """Return inductor's options for the mode."""
        import torch

        return dict(torch._inductor.list_mode_options(self.mode)) if self.mode else {}

    def facts(self) -> Facts:
        """Return PyTorch's facts and the mode."""
        return {**super().facts(), "mode": self.mode or "default"}

    def release(self) -> None:
        """Drop compiled code; it is kept by the process, not by the module."""
        import torch

        torch.compiler.reset()


@register_backend("aotinductor")
class PackageBackend:
    """A package that AOTInductor builds ahead of time and loads again, with a free batch dimension.

    Source: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
    """

    name = "aotinductor"
    device = "cpu"
    dtype = "float32"
    needs_onnx = False
    heavy = True
    keeps_denormals = True

    def __init__(self) -> None:
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self._ran_on = "nowhere"

    def availability(self) -> str | None:
        """Return why inductor cannot build for the CPU here."""
        return _no_compiler()

    def prepare(self, model: nn.Module) -> Predict:
        """Return a function that runs the package, built when the first rows show the inputs' shapes."""
        import torch

        from lrdiff_export.model.float64 import run_module, to_numpy

        loaded: Any = None

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            nonlocal loaded
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # inductor warns of its own deprecated calls
                if loaded is None:
                    loaded = self._build(model, rows)
                outputs = run_module(loaded, *map(torch.tensor, rows))
            self._ran_on = check_device(outputs, self.device)
            return [to_numpy(output) for output in outputs]

        return predict

    def _build(self, module: nn.Module, rows: tuple[np.ndarray, ...]) -> Any:
        import torch

        from lrdiff_export.model.float64 import evaluation_copy, free_batch, two_rows

        folder = tempfile.TemporaryDirectory(prefix="lrdiff-aoti-")
        self._folders.append(folder)
        examples = tuple(two_rows(torch.tensor(one)) for one in rows)
        batch = torch.export.Dim("batch", min=1)
        copied = evaluation_copy(module)
        program = torch.export.export(copied, examples, dynamic_shapes=free_batch(copied, batch, len(rows)))
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(Path(folder.name, "model.pt2")),
            # The wrapper around the kernels: a few calls, and half of the time to build when it is optimised.
            inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
        )
        return torch._inductor.aoti_load_package(package)

    def facts(self) -> Facts:
        """Return where the last run's outputs were, and PyTorch's switches."""
        return {"ran_on": self._ran_on, **torch_facts()}

    def release(self) -> None:
        """Delete the packages."""
        while self._folders:
            self._folders.pop().cleanup()


def compiler_path() -> str | None:
    """Return the C++ compiler that inductor would call, or None.

    Source: ``torch._inductor.config.cpp.cxx``
    """
    return shutil.which(_compiler_name())


def _no_compiler() -> str | None:
    return None if compiler_path() else f"no C++ compiler ({_compiler_name()}) on the path"


def _compiler_name() -> str:
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return os.environ.get("CXX") or default
