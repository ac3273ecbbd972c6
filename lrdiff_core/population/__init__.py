"""Populations: thousands of small models trained side by side, each with its own rates and seed.

::

    rows, settings, network  <-  members  <-  work  <-  native (kernel.cpp)  <-  kernel_path  <-  train
                                                    <-  rules                <-  general_path  <-
                                                    <-  choice, tiles, result                  <-
"""

from lrdiff_core.population.network import Gain
from lrdiff_core.population.result import Population
from lrdiff_core.population.rows import PopulationData
from lrdiff_core.population.settings import PopulationOptions
from lrdiff_core.population.task import PopulationTask, population_task
from lrdiff_core.population.train import train_population

__all__ = [
    "Population",
    "PopulationData",
    "PopulationOptions",
    "PopulationTask",
    "Gain",
    "population_task",
    "train_population",
]
