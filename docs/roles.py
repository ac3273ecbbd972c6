"""Docstrings as Markdown: Sphinx's roles become plain code, and examples become blocks."""

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:py:)?\w+:`~?([^`<]+?)(?: <[^`>]+>)?`")


class Roles(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called for every object that is documented."""
        if obj.docstring is not None:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
