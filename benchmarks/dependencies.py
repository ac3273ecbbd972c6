"""Licences of everything that an installation brings, and the known vulnerabilities in it.

::

    python -m benchmarks.dependencies           # make audit
    python -m benchmarks.dependencies --licences

pip-audit asks the package index for vulnerabilities; without it, or without a network, that is said and left out. The
status is 1 for a licence that is not on the list below, and for a vulnerability.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["brought", "licence_of", "main", "refused"]

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
TIMEOUT = 120  # seconds for pip-audit to be answered
# Those that let a BSD-licensed program depend on them as a library. Words as they stand in metadata.
ALLOWED = re.compile(
    r"0BSD|BSD|MIT|Apache|ISC|MPL|Mozilla|PSF|Python Software Foundation|Python-2|CNRI|HPND|Historical Permission|"
    r"Zlib|CC0|Unlicense|BSL-1|Boost|Matplotlib",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"(?<!L)GPL(?!.*(exception|AND))|proprietary|commercial", re.IGNORECASE)
# Read in their repositories: their metadata say nothing that can be told.
KNOWN: dict[str, str] = {}


def brought(requirements: list[str]) -> list[str]:
    """Names of the distributions that requirements bring, as far as they are installed, and those they bring.

    Example:
        >>> "numpy" in brought(["scipy>=1"])
        True
    """
    found: dict[str, None] = {}
    waiting = [Requirement(one) for one in requirements]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        extras = one.extras or {""}
        if one.marker is not None and not any(one.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # an extra that is not installed here
            continue
        found[name] = None
        waiting += [need for need in map(Requirement, needs) if _applies(need, extras)]
    return sorted(found)


def _applies(need: Requirement, extras: set[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in {"", *extras})


def licence_of(name: str) -> str:
    """What a distribution says of its licence: an expression, classifiers, or the first line of a text.

    Example:
        >>> licence_of("numpy").startswith("BSD-3-Clause")
        True
    """
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return str(expression)
    classified = [
        one.rpartition(" :: ")[2] for one in about.get_all("Classifier") or [] if one.startswith("License ::")
    ]
    if named := [one for one in classified if one != "OSI Approved"]:
        return ", ".join(named)
    return KNOWN.get(name) or next(iter((about.get("License") or "").strip().splitlines()), "")


def refused(licence: str) -> bool:
    """Whether a licence is not known to allow what this project does with a library.

    Example:
        >>> [refused(one) for one in ("MIT", "GPL-3.0-only", "", "LGPL-2.1 AND MIT", "Proprietary")]
        [False, True, True, False, True]
    """
    return not ALLOWED.search(licence) or _REFUSED.search(licence) is not None


def vulnerabilities() -> tuple[list[str], str]:
    """What pip-audit knows of the distributions here, a line each; and why it was not asked, empty where it was."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return [], f"the package index did not answer within {TIMEOUT} s"
    try:
        document = json.loads(done.stdout)
    except ValueError:
        said = [line for line in done.stderr.strip().splitlines() if line]
        missing = "No module named pip_audit" in done.stderr
        return (
            [],
            "pip-audit is not installed" if missing else f"the index was not reached: {(said or ['?'])[-1][:160]}",
        )
    found = [
        f"{one['name']} {one['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none yet'}"
        for one in document["dependencies"]
        for fault in one.get("vulns", ())
    ]
    skipped = sum("skip_reason" in one for one in document["dependencies"])
    if skipped == len(document["dependencies"]):
        return [], f"the index knows nothing of the {skipped} distributions here"
    return [*found, *([f"not looked for in {skipped} distributions"] if skipped else [])], ""


def main(arguments: list[str] | None = None) -> int:
    """Print what is wrong, and how much was looked at."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--licences", action="store_true", help="ask nobody for vulnerabilities")
    asked = parser.parse_args(arguments)
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    names = brought(
        [
            *project["dependencies"],
            *(one for extra in ("maps", "study") for one in project["optional-dependencies"][extra]),
        ]
    )
    bad = {name: licence for name in names if refused(licence := licence_of(name))}
    for name, licence in bad.items():
        print(f"{name}: licence {licence[:80] or 'not stated'}")
    print(f"licences: {len(names) - len(bad)} of {len(names)} distributions allow what is done with them")
    if asked.licences:
        return 1 if bad else 0
    found, reason = vulnerabilities()
    for line in found:
        print(line)
    count = sum("mended in" in line for line in found)
    print(f"vulnerabilities: not looked for, {reason}" if reason else f"vulnerabilities: {count}")
    return 1 if bad or count else 0


if __name__ == "__main__":
    sys.exit(main())
