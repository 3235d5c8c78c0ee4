"""Daily statistics, brought forward step by step on the device, in float32 and in the order of the steps.

A day's values are begun anew by its first step and whole after its last one. In between they are part of a restart
state: a forecast that goes on in the middle of a day makes the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aifs_ensemble.common.daily import DAY, MAX, MEAN, MIN, SUM, LeadField
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.stepper import TensorPlaces

_GROUPS = (MEAN, SUM, MAX, MIN)


class DailyFields:
    """The statistics of the running day.

    Parameters
    ----------
    fields : statistics of outputs of the model, in the order in which `gather` writes them
    model : whose steps a day is made of
    places : where the model's variables are in its output
    device : of `values`

    Attributes
    ----------
    values : float32 ``(statistic, value)`` of the day so far, means, amounts, largest and smallest values one kind
        after another; a mean is kept as the sum of its steps
    """

    def __init__(self, fields: Sequence[LeadField], model: Model, places: TensorPlaces, device: torch.device):
        self._steps = DAY // model.timestep_hours
        order = sorted(range(len(fields)), key=lambda number: _GROUPS.index(fields[number].statistic))
        columns = [places.output_index[model.outputs.index(fields[number].variable)] for number in order]
        self._columns = torch.tensor(columns, device=device, dtype=torch.int64)
        rows = [order.index(number) for number in range(len(fields))]
        self._rows = torch.tensor(rows, device=device, dtype=torch.int64)
        counts = [sum(field.statistic == group for field in fields) for group in _GROUPS]
        ends = [sum(counts[: number + 1]) for number in range(len(counts))]
        means, sums, maxima, minima = (slice(end - n, end) for end, n in zip(ends, counts, strict=True))
        self._means, self._sums, self._maxima, self._minima = means, sums, maxima, minima
        self._added = slice(0, sums.stop)
        self.values = torch.zeros((len(fields), places.points), device=device)

    def update(self, output: torch.Tensor, step: int) -> None:
        """Take in the output ``(value, variable)`` of a step, counted from 1; negative amounts count as none.

        A value that is missing (NaN) at one step of the day is missing in all of its statistics.
        """
        now = output.index_select(1, self._columns).t().contiguous()
        now[self._sums].clamp_min_(0)
        if (step - 1) % self._steps == 0:
            self.values.copy_(now)
            return
        values = self.values
        values[self._added].add_(now[self._added])
        values[self._maxima].copy_(torch.maximum(values[self._maxima], now[self._maxima]))
        values[self._minima].copy_(torch.minimum(values[self._minima], now[self._minima]))

    def gather(self, fields: torch.Tensor) -> None:
        """Write the statistics of the day that has just ended to `fields`, ``(statistic, value)``."""
        whole = self.values.clone()
        whole[self._means].div_(self._steps)
        torch.index_select(whole, 0, self._rows, out=fields)
