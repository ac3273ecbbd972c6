"""The asv suite: a thin front over ``lrdiff_bench.cases``.

The suite comes from the working tree, the code it measures from the commit that asv has checked out. A benchmark that
by mistake measured an installed ``lrdiff`` would show the same flat line for every commit, so that is an error here.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def check_commit_is_measured() -> None:
    """Raise ImportError unless the packages come from the checkout of the commit that asv says it measures."""
    if os.environ.get("ASV_ENV_TYPE") in (None, "existing"):
        return  # imported by hand, or `asv run --python=same`: what is installed is what is meant
    checkout = Path(os.environ["ASV_ENV_DIR"], "project").resolve()
    for package in ("lrdiff_core", "lrdiff_export", "lrdiff_bench"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None or not Path(spec.origin).resolve().is_relative_to(checkout):
            found = "nowhere" if spec is None else spec.origin
            raise ImportError(f"{package} must come from {checkout}, but comes from {found}")
    head = (checkout / ".git" / "HEAD").read_text().strip()  # detached, so this is the commit itself
    if head != os.environ.get("ASV_COMMIT", head):
        raise ImportError(f"asv measures {os.environ['ASV_COMMIT']}, but {head} is checked out")


check_commit_is_measured()
