"""What a refusal says, for tests of wrong input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lrdiff_core.errors import LrdiffError


def refusal(
    call: Callable[..., Any], *given: Any, kind: type[LrdiffError] = LrdiffError, **options: Any
) -> tuple[str, str]:
    """Message and help of the error that a call ends in; each is one line, as the command line shows them."""
    with pytest.raises(kind) as caught:
        call(*given, **options)
    message, help = caught.value.message, caught.value.help
    assert "\n" not in message + help
    return message, help
