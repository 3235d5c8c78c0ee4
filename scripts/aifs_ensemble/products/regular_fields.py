"""Fields of a delivered member on the grid of the products: what every product on that grid reads.

They come from the coarse leads that the forecast made, or from the leads by regridding. Both are the same product of
the same weights. A coarse field was packed once, after it; a regridded one before it: the two differ by no more than
the packing errors of both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.manifest import CoarseRecord
from aifs_ensemble.common.storage import MissingError, Storage, open_destination
from aifs_ensemble.delivery.removed import COARSE
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import weights_name
from aifs_ensemble.products.delivered_fields import DeliveredFields, Field
from aifs_ensemble.products.indexed_fields import IndexedFields
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.regular_grid import RegularGrid

LOG = logging.getLogger(__name__)


class RegularFields:
    """Reads fields of one member on ``products.grid``. May be used from several threads.

    Attributes
    ----------
    member, digest, untrained : as of `DeliveredFields`
    native : reads the same member on the model's grid
    grid : the grid, with the interpolation of each variable
    native : the member's fields on the model's grid

    Raises InputError unless the member is delivered as the configuration asks for.
    """

    def __init__(self, config: Config, member: int, variables: Sequence[str], storage: Storage | None = None) -> None:
        self.native = DeliveredFields(config, member, storage)
        self.member, self.digest, self.untrained = member, self.native.digest, self.native.untrained
        self.grid, self._area = RegularGrid(config), config.area
        for variable in variables:
            self.grid.weights(variable)  # made before threads want them
        points = grid_coordinates(self.grid.name).points
        self._coarse = IndexedFields(self.native.storage, points, self.native.known_index)
        self._published = config.objects.published
        standing = self.native.standing
        self._spoilt = set(self.native.leads if COARSE in standing.removed else standing.coarse)

    def read(self, lead: int, variables: Sequence[str]) -> dict[str, Field]:
        """Return fields of one lead by variable, float32 ``(row, column)`` in GRIB's units, NaN where missing."""
        coarse = [variable for variable in variables if self.has_coarse(lead, variable)]
        found = self._read_coarse(lead, coarse) if coarse else {}
        rest = [variable for variable in variables if variable not in found]
        if rest and self._area:
            where = f"member {self.member} at {lead} h"
            raise InputError(f"{where}: no {rest[0]} of the globe, expected it in a coarse lead (forecast.output.area)")
        native = self.native.read(lead, rest) if rest else {}
        found |= {variable: self.grid.regrid(variable, field) for variable, field in native.items()}
        return {variable: found[variable] for variable in variables}

    def has_coarse(self, lead: int, variable: str) -> bool:
        """Tell whether a coarse lead holds a variable as it is wanted: grid, interpolation and weights are the same."""
        record = self._record(lead)
        if record is None or lead in self._spoilt or record.grid != self.grid.name:
            return False
        method = self.grid.method(variable)
        as_wanted = record.holds(variable) and record.method(variable) == method
        return as_wanted and record.weights.get(weights_name(method, variable)) == self.grid.weights(variable).digest

    def _record(self, lead: int) -> CoarseRecord | None:
        record = self.native.leads.get(lead)
        return record.coarse if record else None

    def _read_coarse(self, lead: int, variables: Sequence[str]) -> dict[str, Field]:
        """Return fields of a coarse lead, none where it is lost or damaged: the lead itself is read then."""
        record = self._record(lead)
        assert record is not None
        try:
            fields = self._coarse.read(self._published(record.grib.name), lead, variables, record.index)
        except (InputError, MissingError) as error:
            self._spoilt.add(lead)
            LOG.warning("%s; the lead itself is read", " ".join(str(error).split()))
            return {}
        return {variable: field.reshape(self.grid.shape) for variable, field in fields.items()}


def fields_of_members(
    config: Config, members: Sequence[int], variables: Sequence[str], storage: Storage | None = None
) -> tuple[RegularFields, ...]:
    """Return what reads each of several members, in their order; InputError for one that is not delivered."""
    storage = storage or open_destination(config)
    first = RegularFields(config, members[0], variables, storage)  # makes the weights that all share
    with ThreadPoolExecutor(readers(config)) as pool:
        return first, *pool.map(lambda member: RegularFields(config, member, variables, storage), members[1:])
