"""The workloads that come with the project, one file each; importing this enters them into the registry.

::

    common (train_population)   <-  seed, distortion, width, rare_tokens, pretrained  <-  relearn, controls, adapters
    digits (rows, pretraining)  <-  width, pretrained
    side_by_side (own losses)   <-  ring, splats, characters
    encoder, minilm_* (fetched) <-  minilm
"""

from lrdiff_bench.study.workloads import (
    adapters,
    characters,
    controls,
    distortion,
    minilm,
    rare_tokens,
    relearn,
    ring,
    seed,
    splats,
    width,
)

__all__ = [
    "adapters",
    "characters",
    "controls",
    "distortion",
    "minilm",
    "rare_tokens",
    "relearn",
    "ring",
    "seed",
    "splats",
    "width",
]
