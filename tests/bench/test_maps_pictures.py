"""Pictures of a map: what they name, and that odd maps can be drawn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from map_helpers import computed, planted, small
from test_maps_findings import bowl

from lrdiff_bench.maps import Findings, find, pictures as map_pictures
from lrdiff_bench.maps.pictures import draw_cuts, draw_map, smoothed


def svg_words(path: Path) -> str:
    return " | ".join(re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text()))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    def loss(rates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        values = bowl((1e-3, 1e-2))(rates, seeds)
        values[rates.sum(axis=1) > 1] = np.inf
        return values

    with pytest.MonkeyPatch.context() as patch:
        return find(planted(tmp_path_factory.mktemp("map") / "map", patch, loss, seeds=40))


@pytest.mark.slow
def test_the_map_names_everything_without_colour(found: Findings, tmp_path: Path) -> None:
    draw_map(found, tmp_path / "map")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    words = svg_words(tmp_path / "map.svg")
    for wanted in (
        "seed: median over 40 seeds", "learning rate of layer1", "learning rate of layer2", "validation loss (nats)",
        "diverged (half the seeds or more)", "shown to be as good as the best pair", "one rate for both",
        "best single: ", "best pair: ", "as configured: 0.01 / 0.001",
    ):  # fmt: skip
        assert wanted in words, wanted
    markers = {shape for shape, _, _ in map_pictures.MARKS.values()}
    assert len(markers) == 3  # told apart without colour


def test_the_cuts_name_their_curves(found: Findings, tmp_path: Path) -> None:
    draw_cuts(found, tmp_path / "cuts")
    words = svg_words(tmp_path / "cuts.svg")
    for wanted in (
        "along the diagonal",
        "through the best pair",
        "one rate for both",
        "layer1, with layer2 at",
        "bands",
    ):
        assert wanted in words, wanted


@pytest.mark.slow
def test_the_same_map_draws_the_same_bytes(found: Findings, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_map(found, tmp_path / name)
        draw_cuts(found, tmp_path / f"{name}-cuts")
    for end in (".png", ".svg", "-cuts.png", "-cuts.svg"):
        assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"size": 2, "seeds": 1},
        {"size": 4, "seeds": 2, "x": "layer1/layer2:0.1:10"},
        {"size": 4, "seeds": 2, "x": "layer1:1e-4:1e-3", "y": "layer2:0.1:1"},
        {"size": 3, "seeds": 1, "workload": "trainability", "epochs": None, "steps": 25},
    ],
)
def test_odd_maps_can_be_drawn(tmp_path: Path, changes: dict[str, object]) -> None:
    _, dataset = computed(tmp_path / "map", small(**changes))
    drawn = find(dataset)
    draw_map(drawn, tmp_path / "map" / "map")
    draw_cuts(drawn, tmp_path / "map" / "cuts")
    assert (tmp_path / "map" / "cuts.svg").stat().st_size > 1000


def test_a_map_larger_than_the_picture_is_thinned(found: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_pictures, "MOST_CELLS", 10)
    plane = map_pictures.coarsened(found)
    assert plane.loss.shape == (9, 9)
    assert np.array_equal(plane.x, found.grid.x.values[::4])
    assert np.array_equal(plane.as_good, found.as_good[::4, ::4])


def test_smoothing_takes_the_mean_of_what_is_there() -> None:
    values = np.array([[1.0, 2.0, np.nan], [3.0, 4.0, 5.0]])
    smooth = smoothed(values, 1)
    assert smooth[0, 0] == pytest.approx(2.5)
    assert np.isnan(smooth[0, 2])
    assert smooth[1, 2] == pytest.approx((2 + 4 + 5) / 3)
