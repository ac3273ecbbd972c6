"""The generator behind the built-in table ``seed``: a noisy two-layer teacher on features of uneven scale."""

from __future__ import annotations

import numpy as np

__all__ = ["make_rows"]

GENERATOR_STREAM = 0x5EED  # keeps this stream apart from every other one that starts at the same seed
TEACHER_WIDTH = 5  # hidden units, the same as in the network of the preset
SHARPNESS = 4.8  # labels are drawn with probability sigmoid(SHARPNESS * score); more is easier
LARGEST_MEAN = 3.0  # feature means are uniform in -LARGEST_MEAN to LARGEST_MEAN
SPREADS = (0.5, 2.0)  # feature standard deviations run evenly on a log scale from the first to the second


def make_rows(seed: int, *, rows: int = 1000, features: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows and binary labels from a random two-layer teacher; the same seed gives the same bits.

    With z standard normal, the teacher scores s = w2 . tanh(W1 z), shifted and scaled to median 0 and
    variance 1, and a label is 1 with probability sigmoid(SHARPNESS * s). The features handed out are
    mean + spread * z, with another mean and spread for every column, so that preprocessing matters.

    Args:
        seed: a whole number from 0 up.
        rows: how many rows.
        features: how many columns.

    Returns:
        Features, float32 [rows, features], and labels 0 or 1, int64 [rows].

    Example:
        >>> features, labels = make_rows(0)
        >>> features.shape, labels.shape, sorted(set(labels.tolist()))
        ((1000, 10), (1000,), [0, 1])
    """
    random = np.random.default_rng([seed, GENERATOR_STREAM])
    first = random.standard_normal((TEACHER_WIDTH, features)) / np.sqrt(features)
    second = random.standard_normal(TEACHER_WIDTH)
    means = random.uniform(-LARGEST_MEAN, LARGEST_MEAN, features)
    spreads = random.permutation(np.geomspace(*SPREADS, features))

    z = random.standard_normal((rows, features))
    score = np.tanh(z @ first.T) @ second  # [rows]
    score = (score - np.median(score)) / score.std()
    labels = random.random(rows) < 1 / (1 + np.exp(-SHARPNESS * score))
    return (means + spreads * z).astype(np.float32), labels.astype(np.int64)
