"""The plane of a map: axes, rates of cells, single rates, groups of parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from torch import nn

from lrdiff_bench.maps.grid import Grid, group_columns, marked_pair, parse_axis, parse_zoom
from lrdiff_core.errors import ConfigError, RateError

NET = nn.Sequential()
NET.add_module("body", nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)))
NET.add_module("head", nn.Linear(3, 1))


def grid(x: str = "body:0.01:1", y: str = "head:0.01:1", size: int = 5) -> Grid:
    return Grid(x=parse_axis(x, size), y=parse_axis(y, size))


@settings(deadline=None, max_examples=50)
@given(
    low=st.floats(1e-9, 1e3), factor=st.floats(1.01, 1e9), size=st.integers(2, 40), kind=st.sampled_from(["", "x", "y"])
)
def test_a_cell_stands_where_its_rates_say(low: float, factor: float, size: int, kind: str) -> None:
    x = f"{'a/b' if kind == 'x' else 'a'}:{low!r}:{low * factor!r}"
    y = f"{'b/a' if kind == 'y' else 'b'}:0.1:20"
    plane = grid(x, y, size)
    assert parse_axis(str(plane.x), size) == plane.x
    assert (plane.x.values[0], plane.x.values[-1]) == (plane.x.low, plane.x.high)
    for cell in (0, size - 1, size * size - 1):
        row, column = divmod(cell, size)
        rates = plane.rates([cell])[0]
        place = plane.place(*rates)
        assert place == pytest.approx((plane.x.values[column], plane.y.values[row]))
        assert plane.x.index(place[0]) == pytest.approx(column, abs=1e-6)
        assert plane.holds(*place)


def test_single_rates_are_the_diagonal_where_both_axes_are_alike() -> None:
    plane = grid()
    assert np.array_equal(plane.single, plane.x.values)
    diagonal = plane.rates([i * 5 + i for i in range(5)])
    assert np.array_equal(diagonal, np.stack([plane.single] * 2, axis=1))


@pytest.mark.parametrize(
    ("x", "y", "ends"),
    [
        ("body:0.001:0.1", "head:0.01:1", (0.01, 0.1)),
        ("body:0.001:0.01", "head:0.1:1", None),
        ("body:0.001:0.1", "head/body:0.01:100", (0.001, 0.1)),
        ("body/head:0.5:2", "head:0.01:1", (0.01, 1)),
        ("body:0.001:0.1", "head/body:2:100", None),
    ],
)
def test_single_rates_that_a_plane_holds(x: str, y: str, ends: tuple[float, float] | None) -> None:
    single = grid(x, y).single
    if ends is None:
        assert len(single) == 0
    else:
        assert (single[0], single[-1], len(single)) == (*ends, 5)
        for rate in single:
            assert grid(x, y).holds(*grid(x, y).place(rate, rate))


def test_a_zoom_goes_as_far_to_both_sides() -> None:
    zoomed = grid().zoomed(*parse_zoom("0.05:0.02:4"))
    assert (zoomed.x.low, zoomed.x.high, zoomed.y.low, zoomed.y.high) == (0.0125, 0.2, 0.005, 0.08)
    assert zoomed.x.size == 5


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        ("body", "head:0.1:1", 'axis is "body"'),
        ("body:a:1", "head:0.1:1", 'axis is "body:a:1"'),
        (":0.1:1", "head:0.1:1", 'axis is ":0.1:1"'),
        ("body/:0.1:1", "head:0.1:1", 'axis is "body/:0.1:1"'),
        ("body:1:0.1", "head:0.1:1", "axis body goes from 1 to 0.1"),
        ("body:0:1", "head:0.1:1", "axis body goes from 0 to 1"),
        ("body:nan:1", "head:0.1:1", "axis body goes from nan to 1"),
        ("body:0.1:inf", "head:0.1:1", "axis body goes from 0.1 to inf"),
        ("body:0.1:1", "body:0.1:1", "both axes are body"),
        ("body/head:0.1:1", "head/body:0.1:1", "both axes are ratios"),
        ("body/tail:0.1:1", "head:0.1:1", "axis body/tail is a ratio to tail, and the other axis is head"),
    ],
)
def test_axes_that_cannot_be(x: str, y: str, error: str) -> None:
    with pytest.raises(RateError) as caught:
        grid(x, y)
    assert caught.value.message == error
    assert caught.value.help


@pytest.mark.parametrize("size", [1, 0, -3, True, 20_000])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ConfigError, match="size is"):
        parse_axis("body:0.1:1", size)


@pytest.mark.parametrize("text", ["", "1", "1:2:3:4", "a:b", "0:1", "1:1:1", "1:inf", "1:1:nan"])
def test_zooms_that_cannot_be(text: str) -> None:
    with pytest.raises(RateError, match="zoom is"):
        parse_zoom(text)


def test_groups_are_modules_parameters_globs_and_the_rest() -> None:
    whole = group_columns(NET, grid())
    assert [whole[name] for name in ("body.0.weight", "body.1.bias", "head.weight")] == [0, 0, 1]
    assert group_columns(NET, grid("rest:0.1:1")) == whole
    assert group_columns(NET, grid("body.0,body.1:0.1:1")) == whole
    biases = group_columns(NET, grid("*.bias:0.1:1", "rest:0.1:1"))
    assert [name for name, column in biases.items() if column == 0] == ["body.0.bias", "body.1.bias", "head.bias"]


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        ("bdy:0.1:1", "head:0.1:1", 'axis group "bdy" matches no parameter that learns'),
        ("body.0:0.1:1", "head:0.1:1", 'parameter "body.1.weight" is on no axis'),
        ("body,head.bias:0.1:1", "head:0.1:1", 'parameter "head.bias" is on both axes'),
        ("body,head:0.1:1", "rest:0.1:1", "axis group rest holds no parameter"),
    ],
)
def test_groups_that_do_not_fit(x: str, y: str, error: str) -> None:
    with pytest.raises(RateError) as caught:
        group_columns(NET, grid(x, y))
    assert caught.value.message == error


def test_frozen_parameters_need_no_axis() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    net[1].requires_grad_(False)
    columns = group_columns(net, grid("0:0.1:1", "2:0.1:1"))
    assert list(columns) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_marked_rates_need_one_rate_an_axis() -> None:
    columns = group_columns(NET, grid())
    assert marked_pair({"body": 0.1, "head": 0.2}, columns) == (0.1, 0.2)
    assert marked_pair({"body.0": 0.1, "body.1": 0.3, "head": 0.2}, columns) is None
    assert marked_pair({"head": 0.2}, columns) is None
    assert marked_pair({}, columns) is None
