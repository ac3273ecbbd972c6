"""The lesson as one HTML file: the scripts of ``assets/`` one after another, the data beside them, no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from lrdiff_bench.report.html import html_page
from lrdiff_export.runtimes.javascript.install import find_package

__all__ = ["MODULES", "WORKER", "joined", "lesson_page", "runtime_parts"]

# In the order of their imports; a name is used once, because they become one script.
MODULES = (
    "train.mjs", "problem.mjs", "judge.mjs", "onnx.mjs", "pool.mjs", "charts.mjs", "stages.mjs", "page.mjs",
)  # fmt: skip
WORKER = ("train.mjs", "problem.mjs", "worker.mjs")
RUNTIME = {"module": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}


def lesson_page(
    data: dict[str, Any], *, command: str, docs: str = "docs", runtime: dict[str, str] | None = None
) -> str:
    """Return the page.

    Args:
        data: from :func:`lrdiff_bench.lesson.data.lesson_data`.
        command: that made it.
        docs: where the project's documentation is, as seen from the page: a folder or an address.
        runtime: of :func:`runtime_parts`, for predicting in the page; it adds 19 MB.
    """
    return html_page(
        "lesson.html",
        package="lrdiff_bench.lesson",
        styles=[_asset("lesson.css")],
        scripts=[joined(MODULES)],
        wasm=runtime is not None,
        data={**data, "worker": joined(WORKER)},
        runtime=runtime,
        docs=docs.rstrip("/"),
        page=data["studies"]["page"].removeprefix("docs/"),
        made_by=f"Made by `{command}`, lrdiff {data['lrdiff']}, torch {data['torch']}.",
    )


def joined(modules: Sequence[str]) -> str:
    """The modules as one script: without what they say about each other.

    Example:
        >>> "import" in joined(WORKER)
        False
    """
    text = "\n".join(_asset(name) for name in modules)
    text = re.sub(r"^import .*? from \"\./.*?\";\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^export (?=(?:async )?(?:function|const|class) )", "", text, flags=re.MULTILINE)


def runtime_parts() -> dict[str, str]:
    """ONNX Runtime Web as base64: its module, and its WebAssembly.

    Raises:
        UnavailableError: it is not installed; the error says how to install it.
    """
    folder = find_package("onnxruntime-web") / "onnxruntime-web" / "dist"
    return {part: base64.b64encode((folder / name).read_bytes()).decode() for part, name in RUNTIME.items()}


def _asset(name: str) -> str:
    return files("lrdiff_bench.lesson").joinpath("assets", name).read_text("utf-8")
