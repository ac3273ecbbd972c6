"""Arithmetics that a training can run in: what weights are kept in, and what products are computed in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from lrdiff_export.runtimes.cuda import float32_products

__all__ = ["ARITHMETICS", "Arithmetic", "compute_in"]


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What weights are kept in, and what products are computed in.

    Attributes:
        name: as asked for.
        dtype: of weights and rows.
        product_eps: distance from 1 to the next number, of what goes into matrix products.
        devices: where there is such an arithmetic.
    """

    name: str
    dtype: torch.dtype
    product_eps: float
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")

    @property
    def eps(self) -> float:
        """The unit that errors are counted in: the coarser one of weights and products."""
        return max(float(torch.finfo(self.dtype).eps), self.product_eps)


ARITHMETICS: dict[str, Arithmetic] = {
    one.name: one
    for one in (
        Arithmetic(name="float32", dtype=torch.float32, product_eps=2.0**-23),
        Arithmetic(name="float64", dtype=torch.float64, product_eps=2.0**-52, devices=("cpu", "cuda")),
        Arithmetic(name="bfloat16", dtype=torch.bfloat16, product_eps=2.0**-7),
        Arithmetic(name="autocast", dtype=torch.float32, product_eps=2.0**-7),  # to bfloat16, weights in float32
        Arithmetic(name="tfloat32", dtype=torch.float32, product_eps=2.0**-10, devices=("cuda",)),
    )
}


@contextmanager
def compute_in(arithmetic: Arithmetic, device: str) -> Iterator[None]:
    """Compute so, and no other way: TF32 is on where it is asked for and off everywhere else; put back afterwards."""
    products = "tf32" if arithmetic.name == "tfloat32" else "ieee"
    cast = arithmetic.name == "autocast"  # made only where it is wanted: a GPU without bfloat16 refuses to make one
    with (
        float32_products(products),
        torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False) if cast else nullcontext(),
    ):
        yield
