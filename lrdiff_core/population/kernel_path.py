"""The fast path: chains of linear layers on a CPU, in a kernel generated for the network.

Members lie innermost, one in each lane of a vector register, so a small network needs no matrix product at all: every
multiplication of a layer is one instruction for 16 members (AVX-512, float32). The kernel holds 16 members, their
gradients and moments in the first-level cache (20 KB for the 10-5-1 network) and goes through the whole training
before it takes the next 16; a weight that is loaded serves four rows.

Why this and not something else: SGD, 10-5-1, 1000 rows, batch 50, 10 epochs, 4096 members, seconds on **one** core of
the 2-core AMD EPYC (Zen 5) machine of the project, torch 2.13::

    generated kernel (this)                                       0.08
    members innermost, torch.compile, blocks of 64 / 256 / 1024   0.69 / 0.47 / 0.47
    batched matrix products by hand, torch.compile                1.2     (best block, 1024)
    batched matrix products by hand                               2.0     (best block, 256)
    vmap of grad, members outermost (the general path)            2.9     (best block, 1024)

Matrix products of 50 x 10 x 5 are too small for a BLAS call each, and torch.compile writes each layer's result to
memory and reads it again; its time also goes up with every call, where the kernel takes one for the whole training.
With two cores the members are split over threads (0.04 s).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lrdiff_core.population.native import Job, Library, library
from lrdiff_core.population.network import LinearLayer
from lrdiff_core.population.rows import PopulationData
from lrdiff_core.population.work import Tile, TileResult

__all__ = ["train_tile"]

CODES = ("sgd", "adam", "adamw", "rmsprop")  # in the order of kernel.cpp
_SHARES = 16  # pieces a thread: an uneven machine then loses at most one piece


def train_tile(tile: Tile, layers: tuple[LinearLayer, ...], group_of: dict[str, int], *, threads: int) -> TileResult:
    """Train the members of a tile.

    Args:
        tile: with rows on the CPU.
        layers: of the network.
        group_of: column of each parameter.
        threads: how many work side by side; they change no bit of the result.
    """
    settings, members = tile.settings, len(tile)
    first = tile.data[tile.seeds[0]]
    kernel = library(layers, first.task, settings.dtype, weighted=first.class_weight is not None)
    names = [name for layer in layers for name in (layer.weight, layer.bias) if name is not None]
    weights = torch.cat([tile.stacked(name).flatten(1) for name in names], dim=1)  # [members, parameters]
    evaluated_after = torch.tensor(settings.evaluated_after(), dtype=torch.int64)
    shape = (members, len(evaluated_after))
    loss, score, held_loss, held_score, second_loss, second_score = (
        torch.full(shape, torch.nan, dtype=torch.float64) for _ in range(6)
    )
    step_loss = torch.empty(members, settings.total_steps, dtype=settings.dtype) if settings.step_losses else None
    diverged = torch.empty(members, dtype=torch.int64)
    names_of_layers = [(layer.weight, layer.bias) for layer in layers]
    group = torch.tensor([group_of[name] if name else 0 for pair in names_of_layers for name in pair])
    factor = settings.factors()
    different = list({id(data): data for data in tile.data.values()}.values())  # most seeds share their rows
    place = {id(data): i for i, data in enumerate(different)}
    rows_of = torch.tensor([place[id(tile.data[seed])] for seed in tile.seeds])[tile.seed_of]
    rows = [_numeric(data, settings.dtype) for data in different]

    def pointers(of: list[Tensor], which: Tensor) -> Tensor:  # one of each member
        return torch.tensor([tensor.data_ptr() for tensor in of])[which].contiguous()

    parts = [pointers([one[part] for one in rows], rows_of) for part in range(6)]
    order = pointers([tile.seeded.order(seed) for seed in tile.seeds], tile.seed_of)
    columns = tile.columns
    class_weight = None if first.class_weight is None else first.class_weight.to(settings.dtype).contiguous()
    job = Job(
        rows=first.rows,
        held_rows=first.held_rows,
        second_rows=first.second_rows,
        steps=settings.total_steps,
        batch=settings.batch_size,
        evaluations=len(evaluated_after),
        optimizer=CODES.index(settings.optimizer),
        nesterov=settings.nesterov,
        groups=columns.rate.shape[1],
        evaluate_after=evaluated_after.data_ptr(),
        group=group.data_ptr(),
        factor=factor.data_ptr(),
        rate=columns.rate.data_ptr(),
        decay=columns.weight_decay.data_ptr(),
        beta1=columns.beta1.data_ptr(),
        beta2=columns.beta2.data_ptr(),
        eps=columns.eps.data_ptr(),
        inputs=parts[0].data_ptr(),
        targets=parts[1].data_ptr(),
        held_inputs=parts[2].data_ptr(),
        held_targets=parts[3].data_ptr(),
        second_inputs=parts[4].data_ptr(),
        second_targets=parts[5].data_ptr(),
        order=order.data_ptr(),
        class_weight=class_weight.data_ptr() if class_weight is not None else None,
        weights=weights.data_ptr(),
        step_loss=step_loss.data_ptr() if step_loss is not None else None,
        loss=loss.data_ptr(),
        score=score.data_ptr(),
        held_loss=held_loss.data_ptr(),
        held_score=held_score.data_ptr(),
        second_loss=second_loss.data_ptr(),
        second_score=second_score.data_ptr(),
        diverged=diverged.data_ptr(),
    )
    _run(kernel, job, members, threads)
    regression = first.task == "regression"
    return TileResult(
        train_loss=loss,
        train_score=loss if regression else score,
        held_loss=held_loss,
        held_score=held_loss if regression else held_score,
        second_loss=second_loss,
        second_score=second_loss if regression else second_score,
        step_loss=step_loss,
        diverged_after=diverged,
        weights=_named(weights, tile, names) if settings.keep_weights else None,
    )


def _run(kernel: Library, job: Job, members: int, threads: int) -> None:
    """Split the members over threads in pieces of whole blocks."""
    blocks = -(-members // kernel.lanes)
    piece = kernel.lanes * max(1, blocks // (threads * _SHARES))
    spans = [(begin, min(begin + piece, members)) for begin in range(0, members, piece)]
    if threads == 1 or len(spans) == 1:
        for begin, end in spans:
            kernel.train(job, begin, end)
        return
    with ThreadPoolExecutor(min(threads, len(spans))) as pool:
        work = [pool.submit(kernel.train, job, begin, end) for begin, end in spans]
        try:
            for one in work:
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _numeric(data: PopulationData, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Rows and targets as plain numbers; training rows stand in for held-out rows that are not there, unread."""
    whole = (data.inputs, data.targets)
    held = whole if data.held_inputs is None else (data.held_inputs, data.held_targets)
    second = whole if data.second_inputs is None else (data.second_inputs, data.second_targets)
    return tuple(v.to(dtype).contiguous() for v in (*whole, *held, *second) if v is not None)


def _named(weights: Tensor, tile: Tile, names: list[str]) -> dict[str, Tensor]:
    state = tile.seeded.state(tile.seeds[0])
    named, at = {}, 0
    for name in names:
        shape, size = state[name].shape, state[name].numel()
        named[name] = weights[:, at : at + size].reshape(-1, *shape)
        at += size
    return named
