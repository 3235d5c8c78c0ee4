"""One variable of all members at one lead: what statistics are made of."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.periods import weights_of_leads
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.common.wind_speed import sources
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.regular_fields import RegularFields, fields_of_members
from aifs_ensemble.products.statistics.choice import INSTANT
from aifs_ensemble.products.statistics.formulas import speed

Field = npt.NDArray[np.float32]


class MembersFields:
    """Reads a variable of all members, never more than one variable at one lead. Use it as a context.

    Attributes
    ----------
    members : their numbers
    digests : content digests of their manifests, in that order
    grid : of the fields

    Raises InputError unless every member is delivered as the configuration asks for.
    """

    def __init__(self, config: Config, members: Sequence[int], storage: Storage | None = None) -> None:
        wanted = dict.fromkeys(source for name in config.products.statistics.variables for source in sources(name))
        self._config, self.members = config, tuple(members)
        self._fields = fields_of_members(config, members, tuple(wanted), storage)
        self._pool = ThreadPoolExecutor(readers(config))
        self.digests = tuple(fields.digest for fields in self._fields)
        self.grid = self._fields[0].grid

    def __enter__(self) -> MembersFields:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def read(self, name: str, lead: int, windows: Sequence[int]) -> dict[int, Field]:
        """Return a variable of all members at a lead by window, float32 ``(member, row, column)`` in GRIB's units.

        `INSTANT` is the field itself, of a wind speed made of its components; a window the amount that it ends with.
        """
        found = {window: np.empty((len(self.members), *self.grid.shape), np.float32) for window in windows}

        def one(place: int) -> None:
            fields = self._fields[place]
            if INSTANT in found:
                found[INSTANT][place] = _instant(fields, name, lead)
            for window, amount in self._amounts(fields, name, lead, [w for w in windows if w != INSTANT]).items():
                found[window][place] = amount

        list(self._pool.map(one, range(len(self.members))))
        return found

    def _amounts(self, fields: RegularFields, name: str, lead: int, windows: Sequence[int]) -> dict[int, Field]:
        """Return the amounts of one member that end at a lead, by window; each lead is read once."""
        weights = {
            window: weights_of_leads(
                "sum",
                lead - window,
                window,
                step=self._config.model.timestep_hours,
                from_start=self._config.forecast.accumulate == "from_start",
            )
            for window in windows
        }
        totals = {window: np.zeros(self.grid.shape, np.float64) for window in windows}
        for needed in sorted(
            {lead for chosen in weights.values() for lead in chosen if lead}
        ):  # nothing has fallen at 0
            field = fields.read(needed, [name])[name]
            for window, chosen in weights.items():
                if needed in chosen:
                    totals[window] += chosen[needed] * field.astype(np.float64)
        return {window: total.astype(np.float32) for window, total in totals.items()}


def _instant(fields: RegularFields, name: str, lead: int) -> Field:
    parts = sources(name)
    read = fields.read(lead, parts)
    return read[name] if parts == (name,) else speed(*(read[part] for part in parts))
