"""asv's install command: make a commit's code importable in asv's environment, by a .pth file.

Half a second a commit, where building and installing a wheel takes ten and may pull in its dependencies.
Run by asv as ``python link_commit.py CHECKOUT`` with the environment's Python.

What is measured, ``lrdiff_core`` and ``lrdiff_export``, comes from the commit. What measures, ``lrdiff_bench``, comes
from the checkout that this file is part of, as the suite does: every commit is measured by one ruler, and old commits
can be measured by cases that they do not know yet.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

# Where the packages lie in a checkout: see [tool.hatch.build.targets.wheel] in pyproject.toml.
MEASURED = (".", "export")
MEASURING = Path(__file__).resolve().parents[1] / "bench"


def link(checkout: Path, site_packages: Path) -> Path:
    """Write ``lrdiff_commit.pth`` into ``site_packages``; return its path."""
    if not (checkout / "lrdiff_core").is_dir():
        raise SystemExit(f"error: {checkout} holds no lrdiff_core\nhelp: give the root of a checkout of this project")
    path = site_packages / "lrdiff_commit.pth"
    folders = [*((checkout / folder).resolve() for folder in MEASURED), MEASURING]
    path.write_text("".join(f"{folder}\n" for folder in folders), encoding="utf-8")
    return path


if __name__ == "__main__":
    link(Path(sys.argv[1]), Path(sysconfig.get_path("purelib")))
