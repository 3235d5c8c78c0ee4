"""Sparse projections of anemoi-models 0.11 in a fixed order of sums: of noise, and of a truncated skip connection.

``SparseProjector`` keeps a transposed matrix, which torch sorts anew at every call, and ``torch.sparse.mm`` promises no
order of its sums on a card. `truncation.multiply` computes the same with the entries of a row in order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aifs_ensemble.model.truncation import SparseRows, multiply

_PROJECTOR = "anemoi.models.layers.sparse_projector.SparseProjector"


class OrderedProjector(nn.Module):
    """Stands in for a ``SparseProjector`` of anemoi-models: the same products, the same bits each time."""

    def __init__(self, matrix: Tensor, device: torch.device, stands_for: type):
        super().__init__()
        self.stands_for = stands_for  # which `known_classes` asks for
        self.projection_matrix = matrix  # whose shape others ask for
        self._rows = SparseRows.of(matrix, device)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return ``(batch, rows, variables)`` of ``x (batch, columns, variables)``, float32."""
        columns = torch.arange(x.shape[-1], device=x.device)
        return torch.stack([multiply(self._rows, one.float(), columns) for one in x])


def with_ordered_sums(interface: Any, device: torch.device) -> int:
    """Put `OrderedProjector` in the place of each sparse projection of a model; return how many there were."""
    found = 0
    for module in list(interface.modules()):
        for name, part in list(module.named_children()):
            if f"{type(part).__module__}.{type(part).__qualname__}" == _PROJECTOR:
                setattr(module, name, OrderedProjector(part.projection_matrix, device, type(part)))
                found += 1
    return found
