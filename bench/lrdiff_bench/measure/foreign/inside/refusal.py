"""What ends a benchmark before it is measured."""

from __future__ import annotations

__all__ = ["Refused", "Skipped"]


class Skipped(Exception):  # noqa: N818 - an error it is not
    """The suite itself leaves this benchmark out, for the reason given."""


class Refused(Exception):  # noqa: N818 - it is told as an error of lrdiff
    """It cannot be measured here.

    Args:
        message: what is wrong.
        help: what to do about it.
        status: exit status, as in lrdiff_core.errors.
    """

    def __init__(self, message: str, help: str, status: int = 2) -> None:
        super().__init__(message)
        self.message, self.help, self.status = message, help, status
