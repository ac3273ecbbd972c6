"""The examples in the docstrings of rates, schedules and the range test run."""

import doctest
import importlib
import pkgutil

import pytest

import lrdiff_core.rates

MODULES = [item.name for item in pkgutil.walk_packages(lrdiff_core.rates.__path__, "lrdiff_core.rates.")]
MODULES += ["lrdiff_core.schedules", "lrdiff_core.lr_find"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
