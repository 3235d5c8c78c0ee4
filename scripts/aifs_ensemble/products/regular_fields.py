"""Fields of a delivered member on the grid of the products: what every product on that grid reads."""

from __future__ import annotations

from collections.abc import Sequence

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.products.delivered_fields import DeliveredFields, Field
from aifs_ensemble.products.regular_grid import RegularGrid


class RegularFields:
    """Reads fields of one member on ``products.grid``. May be used from several threads.

    Attributes
    ----------
    member, digest, untrained : as of `DeliveredFields`
    native : reads the same member on the model's grid
    grid : the grid, with the interpolation of each variable

    Raises InputError unless the member is delivered as the configuration asks for.
    """

    def __init__(self, config: Config, member: int, variables: Sequence[str], storage: Storage | None = None) -> None:
        self.native = DeliveredFields(config, member, storage)
        self.member, self.digest, self.untrained = member, self.native.digest, self.native.untrained
        self.grid = RegularGrid(config)
        for variable in variables:
            self.grid.weights(variable)  # made before threads want them

    def read(self, lead: int, variables: Sequence[str]) -> dict[str, Field]:
        """Return fields of one lead by variable, float32 ``(row, column)`` in GRIB's units, NaN where missing."""
        return {
            variable: self.grid.regrid(variable, field) for variable, field in self.native.read(lead, variables).items()
        }
