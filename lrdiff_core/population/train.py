"""Training a population: checks, tiles, and the choice of a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrdiff_core.devices import choose_device, repeatable
from lrdiff_core.errors import ConfigError, RateError
from lrdiff_core.machine.memory import Halving
from lrdiff_core.population import general_path, kernel_path
from lrdiff_core.population.choice import kernel_layers
from lrdiff_core.population.members import ModelFactory, build, hyperparameters, parameter_groups, seed_list
from lrdiff_core.population.result import Collected, Population
from lrdiff_core.population.rows import PopulationData, by_seed
from lrdiff_core.population.settings import PopulationOptions, Settings
from lrdiff_core.population.tiles import cut, make_tile
from lrdiff_core.population.work import Seeded
from lrdiff_core.rates import RatePlan

__all__ = ["train_population"]


def train_population(
    model_factory: ModelFactory,
    data: PopulationData | Mapping[int, PopulationData],
    rates: Any,
    seeds: int | Sequence[int] | Tensor,
    options: PopulationOptions,
    *,
    groups: Mapping[str, int] | RatePlan | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> Population:
    r"""Train many models side by side, each with its own rates and seed.

    Every member ends where :func:`lrdiff_core.fit` would have taken it alone: initial weights and the order of its
    rows follow from its seed, each epoch takes all rows and its last step what is left, and the step is

    .. math:: \theta^{(i)} \leftarrow \mathrm{step}(\theta^{(i)}, \nabla L^{(i)}(\theta^{(i)});\;
              \gamma^{(i)}_{g}\, s_t, \lambda^{(i)}, \beta^{(i)})

    for member :math:`i`, group :math:`g` and the schedule's factor :math:`s_t`. Sums are taken in another order than
    alone, so results agree to rounding, which training may amplify.

    Args:
        model_factory: gives the model of a seed; weights drawn from torch's global generator are fixed by the seed too.
        data: rows for all members, or rows for each seed. A :class:`TabularNet` is trained on standardized rows,
            as the loop does.
        rates: [members, groups], 0 or more.
        seeds: one for all, or [members]. Members of one seed share initial weights, rows and order.
        options: how they are trained, for how long, and what is written down.
        groups: which parameters each column of ``rates`` serves: column by parameter name, or a rate plan (its
            ``groups()`` in order), or None: a column for each layer in order, or one column for all. Parameters
            without ``requires_grad`` stay as they are.
        on_tile: called with members done and members in all, after every tile.

    Returns:
        Losses, scores and what was asked for, in the order of ``rates``. A member whose loss is not finite is frozen
        and marked; others do not notice.

    Raises:
        ConfigError: an option outside its interval; a module that torch.func cannot stack.
        RateError: rates that do not fit the model.
        DataError: rows that do not fit the task, the model or each other.
        UnavailableError: a device or compiler that was asked for is not here.

    Where memory runs out, tiles are halved and training goes on, with a :class:`~lrdiff_core.errors.MemoryWarning`.

    Example:
        >>> from torch import nn
        >>> rows = torch.arange(8.0)[:, None]
        >>> data = PopulationData(inputs=rows, targets=(rows > 3.5).float(), task="binary")
        >>> rates = [[0.1, 0.1], [0.1, 0.01], [1e30, 1e30]]
        >>> options = PopulationOptions(optimizer="sgd", epochs=3, batch_size=4)
        >>> def model(seed): return nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> population = train_population(model, data, rates, 0, options)
        >>> population.train_loss.shape, len(population)
        (torch.Size([3, 3]), 3)
    """
    table = _rate_table(rates)
    seeds = seed_list(seeds, len(table))
    rows = by_seed(data, sorted(set(seeds)))
    first = min(seeds)
    first_rows = rows[first]
    settings = Settings.of(options, first_rows.rows)
    own = hyperparameters(table, settings)
    where = _device(settings)
    before = torch.get_num_threads()
    # The kernel brings its own threads, and torch's would cost a scheduler slice for every small copy around it.
    with repeatable(where, threads=1):
        model = build(model_factory, first)
        names = parameter_groups(model, groups, table.shape[1])
        group_of = {name: len(names) for name, _ in model.named_parameters()}  # frozen, until a column claims it
        group_of |= {name: column for column, serves in enumerate(names) for name in serves}
        layers = kernel_layers(model, first_rows, settings, where)
        seeded = Seeded(model_factory, (first, model), settings)
        results = Collected(len(seeds), settings)
        threads = settings.threads or (before if layers else 1)
        different = {id(part): part for part in rows.values()}  # seeds may share one set of rows
        placed = {key: part.to(where, settings.dtype) for key, part in different.items()}

        def train(members: Tensor, begin: int, end: int) -> None:
            members = members[begin:end]
            tile = make_tile([seeds[i] for i in members.tolist()], own.take(members), rows, placed, seeded, settings)
            if layers is not None:
                result = kernel_path.train_tile(tile, layers, group_of, threads=threads)
            else:
                with repeatable(where, threads=threads):
                    result = general_path.train_tile(tile, model, group_of, where)
            results.put(members, result, tile)

        halving = Halving("members", help="set tile to fewer members, or free memory; results are the same")
        for members in cut(seeds, settings, model, seeded, where, first_rows, kernel=layers is not None):
            for _ in halving.parts(len(members), partial(train, members)):
                if on_tile is not None:
                    on_tile(results.done, len(seeds))
    return results.population(table, seeds, names, data=first_rows, path="kernel" if layers else "general")


def _device(settings: Settings) -> torch.device:
    where = choose_device(settings.device)
    if where.type == "mps" and settings.dtype == torch.float64:
        raise ConfigError(
            "dtype is torch.float64, which mps does not support", help="write torch.float32, or device='cpu'"
        )
    return where


def _rate_table(rates: Any) -> Tensor:
    try:
        table = torch.as_tensor(rates, dtype=torch.float64).detach().cpu().contiguous()
    except (TypeError, ValueError, RuntimeError) as problem:
        raise RateError("rates are not a table of numbers", help="give [members, groups]") from problem
    if table.ndim != 2 or 0 in table.shape:
        raise RateError(f"rates have the shape {list(table.shape)}", help="give [members, groups], none of them 0")
    return table
