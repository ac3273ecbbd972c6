"""The asv suite: classes with plain parameters over the cases of ``lrdiff_bench.measure.engine.registry``.

The suite and ``lrdiff_bench`` come from one checkout, the code they measure from the commit that asv has checked out.
A benchmark that by mistake measured an installed ``lrdiff`` would show the same flat line for every commit, so that
is an error here.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

MEASURING = Path(__file__).resolve().parents[2] / "bench"


def check_commit_is_measured() -> None:
    """Raise ImportError unless the measured packages come from the commit that asv says it measures."""
    if os.environ.get("ASV_ENV_TYPE") in (None, "existing"):
        return  # imported by hand, or `asv run --python=same`: what is installed is what is meant
    checkout = Path(os.environ["ASV_ENV_DIR"], "project").resolve()
    for package, home in (("lrdiff_core", checkout), ("lrdiff_export", checkout), ("lrdiff_bench", MEASURING)):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None or not Path(spec.origin).resolve().is_relative_to(home):
            found = "nowhere" if spec is None else spec.origin
            raise ImportError(f"{package} must come from {home}, but comes from {found}")
    head = (checkout / ".git" / "HEAD").read_text().strip()  # detached, so this is the commit itself
    if head != os.environ.get("ASV_COMMIT", head):
        raise ImportError(f"asv measures {os.environ['ASV_COMMIT']}, but {head} is checked out")


check_commit_is_measured()
