"""W8, fitting an image by 2-D Gaussians: parameters of different kinds, which 3-D Gaussian splatting gives rates apart.

Kerbl et al. 2023, "3D Gaussian splatting for real-time radiance field rendering", arXiv:2308.04079.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.parts.side_by_side import SideBySide, State
from lrdiff_bench.study.workloads.workload import FEWEST, Scheme, register_workload

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Splats", "render", "splats"]

SIDE = 20  # pixels
GAUSSIANS = 16
PARTS = (200, 100, 100)  # pixels of training, validation, test
SOFTNESS = 0.05  # of the edges of discs, in sides of the image
MOST_OPAQUE = 0.99  # as in the paper's renderer: what lies behind keeps a gradient


@dataclass(frozen=True, kw_only=True)
class Splats(SideBySide):
    """16 Gaussians, blended front to back, fitted to half of the pixels of an image that the seed draws."""

    gaussians: int = GAUSSIANS

    def start(self, seed: int) -> State:
        """Gaussians strewn over the image, grey and half opaque."""
        import torch

        from lrdiff_core.seeds import make_generator

        count = self.gaussians
        return {
            "position": torch.rand(count, 2, generator=make_generator(seed, "init")),  # in sides of the image
            "scale": torch.full((count, 2), 0.5 / count**0.5).log(),  # logarithm
            "colour": torch.full((count, 3), 0.5),
            "opacity": torch.zeros(count),  # logit
        }

    @override
    def columns(self) -> Mapping[str, int]:
        return {group: column for column, group in enumerate(self.groups)}

    def given(self, seed: int, judged_on: str) -> State:
        """Places [pixels, 2] and colours [pixels, 3]."""
        import torch

        random = np.random.default_rng([seed, 8])
        places, colours = picture(random)
        train, validation, test = np.split(random.permutation(SIDE * SIDE), np.cumsum(PARTS)[:-1])
        held = validation if judged_on == "validation" else test
        parts = {
            "places": places[train],
            "colours": colours[train],
            "held_places": places[held],
            "held_colours": colours[held],
        }
        return {name: torch.from_numpy(values.astype(np.float32)) for name, values in parts.items()}

    @override
    def gradients(self, parameters: State, given: State, step: Tensor) -> tuple[State, Tensor]:
        from torch.func import grad_and_value

        def loss(own: State) -> Tensor:
            return (render(own, given["places"]) - given["colours"]).square().mean()

        return grad_and_value(loss)(parameters)

    @override
    def judge(self, parameters: State, given: State) -> tuple[Tensor, Tensor]:
        held = (render(parameters, given["held_places"]) - given["held_colours"]).square().mean().sqrt()
        return held, (render(parameters, given["places"]) - given["colours"]).square().mean().sqrt()

    @override
    def tiny(self) -> Splats:
        return replace(self, gaussians=4, steps=6, evaluations=2)


def picture(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pixels' centres [pixels, 2] and their colours [pixels, 3], 0 to 1: a slope and four soft discs."""
    axis = (np.arange(SIDE) + 0.5) / SIDE
    places = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    direction = random.standard_normal(2)
    along = (places - 0.5) @ (direction / np.linalg.norm(direction)) / np.sqrt(2) + 0.5
    one, other = random.random((2, 3))
    colours = one + along[:, None] * (other - one)
    for _ in range(4):
        centre, radius, colour = random.random(2), random.uniform(0.1, 0.3), random.random(3)
        inside = 1 / (1 + np.exp((np.linalg.norm(places - centre, axis=1) - radius) / SOFTNESS))
        colours += inside[:, None] * (colour - colours)
    return places, colours


def render(parameters: State, places: Tensor) -> Tensor:
    """Colours [places, 3] of Gaussians blended front to back over black, the first in front."""
    import torch

    away = (places[:, None] - parameters["position"]) / parameters["scale"].exp()  # [places, gaussians, 2]
    alpha = torch.sigmoid(parameters["opacity"]) * torch.exp(-0.5 * away.square().sum(-1))
    alpha = alpha.clamp(max=MOST_OPAQUE)
    passing = torch.log1p(-alpha)
    in_front = torch.exp(passing.cumsum(-1) - passing)
    return (alpha * in_front) @ parameters["colour"]


@register_workload("splats")
def splats() -> Splats:
    """An image fitted by 2-D Gaussians."""
    return Splats(
        name="splats",
        title="image by 2-D Gaussians",
        question="Do positions, scales, colours and opacities want rates of their own?",
        groups=("position", "scale", "colour", "opacity"),
        schemes=(
            Scheme(name="single", ratios={"position": 1.0, "scale": 1.0, "colour": 1.0, "opacity": 1.0}),
            # Rates of the paper's code against that of colours (0.0025)
            Scheme(name="3DGS", ratios={"position": 0.064, "scale": 2.0, "colour": 1.0, "opacity": 20.0}),
            Scheme(
                name="free",
                ratios={"colour": 1.0},
                free={"position": (1e-3, 10.0), "scale": (0.01, 100.0), "opacity": (0.01, 100.0)},
            ),
        ),
        metric="loss",
        base_rates=(3e-4, 3.0),
        default_rate=0.001,
        smallest_difference=0.004,  # root mean square of colours from 0 to 1; one grey level of 8 bits
        steps=300,
        report_seeds=FEWEST,
    )
