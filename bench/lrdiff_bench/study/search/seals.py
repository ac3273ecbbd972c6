"""Checksums of what a study keeps in its storage: what it is about, and the numbers of every trial.

The database has a check of its own, which sees broken pages and not a number that became another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lrdiff_bench.system.manifest import say_once
from lrdiff_core.errors import CheckpointError, LrdiffError
from lrdiff_core.files import digest_of_document, is_whole, sealed

__all__ = ["FACTS_SEAL", "check_facts", "checked_row", "facts_seal", "sealed_row", "whole_or_damaged"]

FACTS_SEAL = "seal"
_FACTS = ("name", "plan", "spec", "training", "source", "versions")  # others grow with the study
_HELP = "get a whole copy of the storage; trials that can be read hold"


def facts_seal(facts: Mapping[str, Any]) -> str:
    """The checksum of what a study is about, which stays as it was begun."""
    return digest_of_document({key: facts[key] for key in _FACTS if key in facts})


def check_facts(kept: Mapping[str, Any], name: str) -> None:
    """Refuse a study whose facts are not those that it was begun with.

    Raises:
        CheckpointError: they were changed or damaged.
    """
    if FACTS_SEAL in kept and kept[FACTS_SEAL] != facts_seal(kept):
        raise CheckpointError(f'what study "{name}" says of itself was changed or damaged', help=_HELP)


def sealed_row(id: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a trial with the task that they are of, and a checksum."""
    return sealed({**row, "id": id})


def checked_row(id: str, row: Any, trial: int, study: str) -> Mapping[str, Any]:
    """The numbers of a trial, if they are what was written.

    Args:
        id: of the task that the trial says it is.
        row: as it was kept.
        trial: its number.
        study: for messages.

    Raises:
        CheckpointError: they were changed or damaged, or are those of another task.
    """
    if not isinstance(row, Mapping):
        raise CheckpointError(f'trial {trial} of study "{study}" is damaged', help=_HELP)
    whole = is_whole(row)
    if whole is None:
        say_once(f'study "{study}" has trials without checksums (an earlier lrdiff wrote them): read unchecked')
    elif not whole or row.get("id") != id:
        raise CheckpointError(
            f'trial {trial} of study "{study}" was changed or damaged after it was written', help=_HELP
        )
    return row


@contextmanager
def whole_or_damaged(what: str) -> Iterator[None]:
    """Tell in one line what a storage provokes whose cells are no longer what was written.

    Args:
        what: is read, for the message.

    Raises:
        CheckpointError: something in it cannot be read.
    """
    try:
        yield
    except LrdiffError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
        said = (str(problem).splitlines() or [""])[0][:120]
        raise CheckpointError(f"{what} is damaged: {type(problem).__name__}: {said}", help=_HELP) from problem
