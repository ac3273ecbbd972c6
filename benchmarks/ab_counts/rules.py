"""The rules of asv and of pytest-benchmark, on the samples that our own verdict was made of.

Both tools measure one commit to its end and then the other. Here their rules get blocks that were taken in turn, which
is kinder to them than they are to themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FACTOR = 1.1  # of `asv continuous`, unless --factor says otherwise
FAIL_AT = 0.05  # of `--benchmark-compare-fail=min:5%` and `median:5%`


def asv_rule(a: Sequence[float], b: Sequence[float], factor: float = FACTOR) -> str:
    """What `asv continuous` says of two lists of samples: by its own statistics, and by its factor.

    Example:
        >>> asv_rule([1.0, 1.01, 0.99, 1.0] * 5, [1.3, 1.31, 1.29, 1.3] * 5)
        'slower'
    """
    from asv._stats import is_different  # what its command takes; it has no public name
    from asv_runner.statistics import compute_stats

    (before, of_a), (after, of_b) = (compute_stats(list(samples), 1) for samples in (a, b))
    if not is_different(list(a), list(b), of_a, of_b):
        return "same"
    return "slower" if after > before * factor else "faster" if after < before / factor else "same"


def compare_fail(a: Sequence[float], b: Sequence[float], field: str, fail_at: float = FAIL_AT) -> bool:
    """Whether `--benchmark-compare-fail=FIELD:5%` fails.

    Example:
        >>> compare_fail([1.0, 2.0], [1.1, 2.0], "min"), compare_fail([1.0, 2.0], [1.0, 2.0], "median")
        (True, False)
    """
    of = {"min": np.min, "median": np.median, "mean": np.mean}[field]
    return float(of(b)) > float(of(a)) * (1 + fail_at)
