"""Backends: everything that can run a model, behind one small protocol and in one registry.

A backend never answers from somewhere else than it says: it tells where its outputs were computed, and
:func:`lrdiff_export.check_parity` refuses it otherwise. To add one, write one file with a class that has the members of
:class:`Backend`, decorate it with :func:`register_backend` and name the file below; parity checks, golden vectors
(where it runs ONNX files) and the contract tests then cover it. torch is imported inside functions: golden vectors are
checked without it.
"""

import importlib

from lrdiff_export.runtimes.protocol import BACKENDS, Backend, Predict, find_backends, register_backend

# Importing them fills the registry, in the order of the table of `lrdiff parity`.
for _module in (
    "torch_eager", "torch_compiled", "onnx_runtime", "onnx_reference", "openvino_cpu", "javascript.backend", "cuda",
    "mps",
):  # fmt: skip
    importlib.import_module(f"lrdiff_export.runtimes.{_module}")

from lrdiff_export.runtimes.torch_compiled import compiler_path  # noqa: E402
from lrdiff_export.runtimes.torch_eager import TorchBackend  # noqa: E402

__all__ = ["BACKENDS", "Backend", "Predict", "TorchBackend", "compiler_path", "find_backends", "register_backend"]
