"""asv's page without the network: its libraries beside it instead of on other people's servers.

The page loads jQuery, flot, Bootstrap and three more from content delivery networks and shows an error without them.
Where npm is present, the same versions are fetched from the npm registry once and the page points to them.
``python benchmarks/offline_page.py HTML`` does it, and prints why where it cannot.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from lrdiff_core.files import write_bytes, write_text

__all__ = ["make_offline"]

# Package of the npm registry -> files of it, in place of the addresses that end like the key.
PACKAGES = {
    "jquery@3.3.1": {"jquery-3.3.1.min.js": "dist/jquery.min.js"},
    "jquery-flot@0.8.3": {
        f"jquery.flot{part}.min.js": f"jquery.flot{part}.js" for part in ("", ".time", ".selection", ".categories")
    },
    "flot-orderbars@1.0.0": {"jquery.flot.orderBars.js": "js/jquery.flot.orderBars.js"},
    "stupid-table-plugin@1.1.3": {"stupidtable.min.js": "stupidtable.min.js"},
    "blueimp-md5@2.19.0": {"md5.min.js": "js/md5.min.js"},
    "bootstrap@3.1.1": {
        "bootstrap.min.js": "dist/js/bootstrap.min.js",
        "bootstrap.min.css": "dist/css/bootstrap.min.css",
    },
}
FOLDER = "vendor"
_TAG = re.compile(r'<(script|link)\b[^>]*?(src|href)="(https://[^"]+/([^"/]+))"[^>]*>')


def make_offline(page: Path) -> str | None:
    """Put the libraries beside the page and point it to them.

    Args:
        page: the published folder, with ``index.html``.

    Returns:
        None when the page needs no network any more, else why it still does.
    """
    index = page / "index.html"
    text = index.read_text(encoding="utf-8")
    wanted = {match[4] for match in _TAG.finditer(text)}
    unknown = wanted - {name for files in PACKAGES.values() for name in files}
    if unknown:
        return f"this asv's page also loads {', '.join(sorted(unknown))}"
    libraries = page.parent / FOLDER  # beside the page: asv publishes into an empty folder
    missing = [
        package for package, files in PACKAGES.items() if not all((libraries / name).is_file() for name in files)
    ]
    if missing:
        reason = _fetch(missing, libraries)
        if reason is not None:
            return reason
    shutil.copytree(libraries, page / FOLDER, dirs_exist_ok=True)
    write_text(index, _TAG.sub(_local, text))
    return None


def _local(match: re.Match[str]) -> str:
    file = f"{FOLDER}/{match[4]}"
    return f'<script src="{file}">' if match[1] == "script" else f'<link rel="stylesheet" href="{file}">'


def _fetch(packages: list[str], folder: Path) -> str | None:
    npm = shutil.which("npm")
    if npm is None:
        return "no npm here to fetch the page's libraries with"
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [npm, "pack", "--silent", *packages], cwd=scratch, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["it did not say why"]
            return f"npm could not fetch the page's libraries: {said[-1]}"
        folder.mkdir(parents=True, exist_ok=True)
        for package in packages:
            name, version = package.rsplit("@", 1)
            with tarfile.open(Path(scratch, f"{name}-{version}.tgz")) as archive:
                for target, inside in PACKAGES[package].items():
                    try:
                        file = archive.extractfile(f"package/{inside}")
                    except KeyError:
                        file = None
                    if file is None:
                        return f"{package} holds no {inside}"
                    write_bytes(folder / target, file.read())
    return None


if __name__ == "__main__":
    print(make_offline(Path(sys.argv[1])) or "", end="")
