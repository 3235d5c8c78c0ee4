"""Which fields of a step are sound: numbers everywhere, or missing where the model misses them.

A model that knows of missing values, such as of waves over land, leaves them missing where they were missing in its
input. So a value that goes missing later is as wrong as one that is not finite.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from aifs_ensemble.common.models import Model
from aifs_ensemble.fields.state import State
from aifs_ensemble.model.stepper import TensorPlaces


class SoundFields:
    """Tells which fields of a step are sound, without waiting for the device.

    Parameters
    ----------
    rows : outputs of the model that the fields are, or are statistics of, in order
    places : of the variables in the model's input
    """

    def __init__(self, model: Model, rows: Sequence[str], places: TensorPlaces, device: torch.device):
        def index(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, device=device, dtype=torch.int64)

        read = dict(zip(model.prognostic, places.prognostic_in, strict=True))
        may_miss = [(row, name) for row, name in enumerate(rows) if name in model.missing]
        kept = [(row, read[name]) for row, name in may_miss if name in read]
        self._kept, self._read = index([row for row, _ in kept]), index([place for _, place in kept])
        self._made = index([row for row, name in may_miss if name not in read])

    def __call__(self, fields: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
        """Return whether each field is sound, ``(row,)``.

        Parameters
        ----------
        fields : ``(row, value)``
        newest : the newest time of the input of the step, ``(value, variable)``
        """
        sound = torch.isfinite(fields).all(dim=1)
        if len(self._kept):
            missing = torch.isnan(newest.index_select(1, self._read)).t()
            found = fields.index_select(0, self._kept)
            sound[self._kept] = (torch.isfinite(found) | (torch.isnan(found) & missing)).all(dim=1)
        if len(self._made):
            sound[self._made] = ~torch.isinf(fields.index_select(0, self._made)).any(dim=1)
        return sound


def missing_for_good(state: State, filled_in: Collection[str]) -> list[str]:
    """Return the variables of a state with missing values that nothing fills in."""
    return [name for name in state.variables if name not in filled_in and np.isnan(state.variable(name)).any()]
