"""ONNX Runtime's JavaScript packages: where they are, how they are installed, and workers that run models in them.

A worker is one process, node or headless Chromium, that holds models and answers jobs until it is closed: starting
either takes a second, running a small model a millisecond. Both run ``onnx_worker.mjs``; node is spoken to over its
pipes, the browser asks a server on the loopback for its next job.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lrdiff_core.errors import InputError, UnavailableError
from lrdiff_core.files import user_cache_folder
from lrdiff_export.records import first_line

__all__ = [
    "NODE_MODULES",
    "PACKAGES",
    "cache_folder",
    "find_chromium",
    "find_package",
    "install_javascript",
    "package_version",
]

NODE_MODULES = "LRDIFF_NODE_MODULES"  # names the folder that holds node_modules/onnxruntime-web
# What `lrdiff doctor --install-javascript` installs; the newest that the table of targets was read off.
PACKAGES = {"onnxruntime-web": "1.30.0", "onnxruntime-node": "1.30.0"}
INSTALL = "lrdiff doctor --install-javascript"
INSTALL_SECONDS = 600
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def cache_folder() -> Path:
    """Return where the packages are installed for this user."""
    return user_cache_folder("javascript")


def find_package(name: str) -> Path:
    """Return the folder ``node_modules`` that holds a package.

    Looked for in the folder that ``LRDIFF_NODE_MODULES`` names, then in this one, then in the user's cache.

    Raises:
        UnavailableError: it is in none of them.
    """
    for start in (os.environ.get(NODE_MODULES, ""), os.getcwd(), str(cache_folder())):
        folder = Path(start) / "node_modules"
        if start and (folder / name / "package.json").is_file():
            return folder
    raise UnavailableError(
        f"{name} is not installed here",
        help=f"run `{INSTALL}`, or name the folder where npm installed it in {NODE_MODULES}",
    )


def package_version(name: str) -> str:
    """Return the version of an installed package.

    Raises:
        UnavailableError: it is not installed.
    """
    return str(json.loads((find_package(name) / name / "package.json").read_text("utf-8"))["version"])


def find_node() -> str:
    """Return node's path.

    Raises:
        UnavailableError: it is not on the path.
    """
    found = shutil.which("node")
    if found is None:
        raise UnavailableError(
            "node is not installed", help="install node 18 or newer (Debian: apt-get install nodejs)"
        )
    return found


def find_chromium() -> str:
    """Return the path of a Chromium, the one that ``LRDIFF_CHROMIUM`` names or one on the path.

    Raises:
        UnavailableError: there is none.
    """
    for name in (os.environ.get("LRDIFF_CHROMIUM", ""), *_CHROMIUMS):
        if name and (found := shutil.which(name)):
            return found
    raise UnavailableError(
        "no Chromium on the path", help="install it (Debian: apt-get install chromium), or name it in LRDIFF_CHROMIUM"
    )


def install_javascript(folder: Path | None = None) -> dict[str, str]:
    """Install the packages by npm in exactly the versions of :data:`PACKAGES`, all or nothing, and return these.

    Their install scripts are not run: one of them would fetch GPU libraries from elsewhere.

    Args:
        folder: where to, :func:`cache_folder` by default; a complete installation there is left alone.

    Raises:
        UnavailableError: there is no npm, or it cannot install them.
        InputError: the folder cannot be written, or holds something else.
    """
    final = cache_folder() if folder is None else Path(folder)
    if _complete(final):
        return dict(PACKAGES)
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError("npm is not installed", help="install node 18 or newer with npm")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    except OSError as problem:
        raise InputError(
            f"cannot write into {final.parent}: {problem.strerror}", help="name another folder in XDG_CACHE_HOME"
        ) from problem
    try:
        (beside / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--save-exact"]
        wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
        try:
            ran = subprocess.run(
                [*command, *wanted], cwd=beside, capture_output=True, text=True, timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired as problem:
            raise UnavailableError(
                f"npm did not finish in {INSTALL_SECONDS} s", help="see whether its registry can be reached"
            ) from problem
        if ran.returncode != 0:
            last = first_line("\n".join(reversed(ran.stderr.strip().splitlines())))
            raise UnavailableError(
                f"npm cannot install {', '.join(wanted)}: {last}", help="see whether its registry can be reached"
            )
        _put_in_place(beside, final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return dict(PACKAGES)


def _put_in_place(beside: Path, final: Path) -> None:
    """Rename; an older installation of ours goes, and another process may have been first."""
    if final.exists() and not _complete(final):
        if not (final / "node_modules").is_dir():
            raise InputError(
                f"{final} exists and is not an installation of these packages",
                help="remove it, or name another folder in XDG_CACHE_HOME",
            )
        shutil.rmtree(final)
    try:
        beside.rename(final)
    except OSError:
        if not _complete(final):
            raise


def _complete(folder: Path) -> bool:
    for name, version in PACKAGES.items():
        described = folder / "node_modules" / name / "package.json"
        if not described.is_file() or json.loads(described.read_text("utf-8")).get("version") != version:
            return False
    return True
