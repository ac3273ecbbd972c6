"""asv's install command: make the commit's own packages importable in asv's environment, by a .pth file.

Half a second a commit, where building and installing a wheel takes ten and may pull in its dependencies.
Run by asv as ``python link_commit.py CHECKOUT`` with the environment's Python.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

# Where the packages lie in a checkout: see [tool.hatch.build.targets.wheel] in pyproject.toml.
FOLDERS = (".", "export", "bench")


def link(checkout: Path, site_packages: Path) -> Path:
    """Write ``lrdiff_commit.pth`` into ``site_packages``; return its path."""
    if not (checkout / "lrdiff_core").is_dir():
        raise SystemExit(f"error: {checkout} holds no lrdiff_core\nhelp: give the root of a checkout of this project")
    path = site_packages / "lrdiff_commit.pth"
    path.write_text("".join(f"{(checkout / folder).resolve()}\n" for folder in FOLDERS), encoding="utf-8")
    return path


if __name__ == "__main__":
    link(Path(sys.argv[1]), Path(sysconfig.get_path("purelib")))
