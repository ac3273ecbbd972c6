"""A model of one's own between a table's preprocessing and its answers."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from lrdiff_core.model import TabularNet

__all__ = ["OnTable"]


class OnTable(nn.Module):
    """A model of one's own between a table's preprocessing and its answers: raw rows in, answers out.

    Args:
        net: the project's network for the table, fitted; its layers are taken away.
        module: standardized rows [batch, inputs] to logits [batch, outputs].
    """

    def __init__(self, net: TabularNet, module: nn.Module) -> None:
        super().__init__()
        self.spec = net.spec
        self.table = copy.deepcopy(net)
        for name in net.layer_names:
            delattr(self.table, name)
        self.module = module

    def predict(self, rows: Tensor) -> Tensor:
        """Return the answer for raw rows [batch, features]: probabilities, or values in the target's own units."""
        return self.table.answer(self.module(self.table.preprocess(rows)))

    def forward(self, rows: Tensor) -> Tensor:
        """See :meth:`predict`."""
        return self.predict(rows)
