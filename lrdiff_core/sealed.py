"""Documents that carry a checksum of their own content, so that damage and edits are seen where they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["SEAL", "digest_of_document", "is_whole", "sealed", "unsealed"]

SEAL = "sha256"


def digest_of_document(document: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON document, its seal left out; order of keys and white space do not matter.

    Example:
        >>> digest_of_document({"a": 1, "b": [2.0]}) == digest_of_document({"b": (2.0,), "a": 1})
        True
    """
    plain = {key: value for key, value in document.items() if key != SEAL}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its checksum under the key ``sha256``, at its end.

    Example:
        >>> is_whole(sealed({"loss": 0.5}))
        True
    """
    return {**unsealed(document), SEAL: digest_of_document(document)}


def unsealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without its checksum."""
    return {key: value for key, value in document.items() if key != SEAL}


def is_whole(document: Mapping[str, Any]) -> bool | None:
    """Whether a document is as it was sealed; None where it has no seal, as those of earlier versions.

    Example:
        >>> is_whole({**sealed({"loss": 0.5}), "loss": 0.4}), is_whole({"loss": 0.5})
        (False, None)
    """
    return None if SEAL not in document else document[SEAL] == digest_of_document(document)
