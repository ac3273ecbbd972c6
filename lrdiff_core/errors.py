"""The one exception tree of lrdiff.

::

    LrdiffError                what went wrong, and a line of help          exit status
    ├── InputError             what was given is wrong                                2
    │   ├── ConfigError        a setting or a file of settings
    │   ├── DataError          rows, columns, labels
    │   ├── RateError          a learning rate, or a plan of them
    │   ├── OptimizerError     an option or a state an optimizer does not take
    │   ├── EstimatorError     what a scikit-learn estimator got; a ValueError, too
    │   ├── CheckpointError    a run folder or a checkpoint
    │   └── ModelFileError     an ONNX file
    ├── UnavailableError       a device, runtime or compiler that is not here         3
    └── CheckFailed            done, and a check did not hold                         1

    LrdiffWarning              done, and perhaps not what was meant
    ├── MemoryWarning          memory ran out, and the same was done in smaller parts
    ├── OptimizerWarning       what an optimizer holds is no longer what a plan said
    └── RateWarning            something that a rate plan lets pass

The command line prints ``error: <message>`` and ``help: <help>`` and ends with the exit status; a library
user catches :class:`LrdiffError` or any branch of it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

__all__ = [
    "LrdiffError",
    "InputError",
    "ConfigError",
    "DataError",
    "RateError",
    "OptimizerError",
    "EstimatorError",
    "CheckpointError",
    "ModelFileError",
    "UnavailableError",
    "CheckFailed",
    "LrdiffWarning",
    "MemoryWarning",
    "OptimizerWarning",
    "RateWarning",
    "warn",
]

_HERE = str(Path(__file__).parent)


class LrdiffError(Exception):
    """Root of everything lrdiff raises on purpose.

    Args:
        message: one line that names what is wrong and where.
        help: one line that says what to do about it.

    Example:
        >>> error = LrdiffError("learning rate is -1.0", help="write a positive finite number")
        >>> print(error)
        learning rate is -1.0
        help: write a positive finite number
    """

    exit_status = 1

    def __init__(self, message: str, *, help: str) -> None:
        # What was given may stand in them, with line ends of its own.
        self.message, self.help = (" ".join(text.splitlines()) for text in (message, help))
        super().__init__(self.message, self.help)

    def __str__(self) -> str:
        return f"{self.message}\nhelp: {self.help}"

    def __reduce__(self) -> tuple[object, ...]:
        # The keyword-only argument would be lost between processes otherwise.
        return (_rebuild, (type(self), self.message, self.help))


def _rebuild(kind: type[LrdiffError], message: str, help: str) -> LrdiffError:
    return kind(message, help=help)


class InputError(LrdiffError):
    """What was given is wrong: a value, a file, an option."""

    exit_status = 2


class ConfigError(InputError):
    """A setting, or a file of settings, cannot be used."""


class DataError(InputError):
    """Rows, columns or labels cannot be used."""


class RateError(InputError):
    """A learning rate, or a plan of them, has a fault."""


class OptimizerError(InputError, ValueError):
    """An optimizer was given an option or a state that it does not take."""


class EstimatorError(InputError, ValueError):
    """What a scikit-learn estimator got cannot be used."""


class CheckpointError(InputError):
    """A run folder or checkpoint is missing, damaged or not ours."""


class ModelFileError(InputError):
    """A file is not an ONNX model that can be used."""


class UnavailableError(LrdiffError):
    """A device, runtime or compiler that was asked for is not here."""

    exit_status = 3


class CheckFailed(LrdiffError):  # noqa: N818 - what failed is the thing that was checked
    """The work was done and a check on its result did not hold."""

    exit_status = 1


class LrdiffWarning(UserWarning):
    """Root of everything lrdiff warns of: something was done that may not be what was meant."""


class MemoryWarning(LrdiffWarning):
    """Memory ran out, and the same was done in smaller parts."""


class OptimizerWarning(LrdiffWarning):
    """What an optimizer holds is no longer what a plan said."""


class RateWarning(LrdiffWarning):
    """Something that a rate plan lets pass, and that may not be what was meant."""


def warn(message: str, kind: type[LrdiffWarning], *, help: str) -> None:
    """Warn at the line that called into this package.

    Args:
        message: what happened, and where.
        kind: the class of the warning.
        help: what to do about it.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{message}\nhelp: {help}", kind, stacklevel=level)
