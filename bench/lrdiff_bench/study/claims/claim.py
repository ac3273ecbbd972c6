"""A published claim: who says what, which scheme of which studies puts it to the test, and what that cannot show."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lrdiff_core.errors import ConfigError
from lrdiff_core.text import nearest

__all__ = ["Claim", "load_claim", "load_claims", "published_claims"]

Text = Annotated[str, Field(min_length=1)]


class Claim(BaseModel):
    """One file of claims.

    Attributes:
        name: of the file.
        title: the claim in a few words.
        source: authors, year, title, where it can be read.
        says: what the source says, in our words.
        scheme: of the studies, that does what the source says.
        expects: the verdict that the source would have one expect of that scheme.
        studies: workloads that put it to the test, the smallest first where size matters.
        scale: what these studies can say of the claim, and what they cannot.

    Example:
        >>> claim = next(one for one in published_claims() if one.name == "surgical")
        >>> claim.scheme, claim.studies
        ('surgical', ('control-pixels',))
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Text
    title: Text
    source: Text
    says: Text
    scheme: Text
    expects: Literal["HELPS", "NO DIFFERENCE"]
    studies: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
    scale: Text


def published_claims() -> list[Claim]:
    """The claims that come with the project, in the order of their names."""
    folder = resources.files(__package__)
    return [
        _read(file.read_text(encoding="utf-8"), file.name)
        for file in sorted(folder.iterdir(), key=lambda one: one.name)
        if file.name.endswith(".toml")
    ]


def load_claims(names: list[str]) -> list[Claim]:
    """Claims by name, or from files of one's own; all that come with the project where no name is given.

    Raises:
        ConfigError: no such claim or file, or a file that is none.
    """
    published = {claim.name: claim for claim in published_claims()}
    found = []
    for name in names:
        if name.endswith(".toml"):
            found.append(load_claim(Path(name)))
        elif name in published:
            found.append(published[name])
        else:
            raise ConfigError(
                f'there is no claim and no file "{name}"', help=nearest(name, sorted(published), "claims", most=40)
            )
    return found or list(published.values())


def load_claim(path: Path) -> Claim:
    """Read a claim from a file.

    Raises:
        ConfigError: no such file, no TOML, an unknown key, one that is missing, or a wrong value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}", help="name a TOML file in UTF-8") from problem
    return _read(text, path.name)


def _read(text: str, where: str) -> Claim:
    try:
        return Claim(**{"name": where.removesuffix(".toml"), **tomllib.loads(text)})
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise ConfigError(f"{where} is not TOML: {problem}", help='lines look like: scheme = "head 10x"') from problem
    except ValidationError as problem:
        first = problem.errors()[0]
        key, keys = ".".join(map(str, first["loc"])), list(Claim.model_fields)
        if first["type"] == "extra_forbidden":
            raise ConfigError(f'unknown key "{key}" in {where}', help=nearest(key, keys, "keys", most=40)) from problem
        raise ConfigError(
            f"{key} in {where}: {first['msg'][0].lower() + first['msg'][1:]}", help=f"keys: {', '.join(keys)}"
        ) from problem
