"""The examples in the docstrings of rates, schedules and the range test run."""

import doctest
import importlib
import pkgutil

import pytest

import lrdiff_core.rates

MODULES = [f"lrdiff_core.rates.{item.name}" for item in pkgutil.iter_modules(lrdiff_core.rates.__path__)]
MODULES += ["lrdiff_core.schedules", "lrdiff_core.lr_find"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
