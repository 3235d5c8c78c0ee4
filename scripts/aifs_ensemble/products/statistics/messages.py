"""GRIB2 messages of statistics over the members, with the keys of ECMWF's own.

Means and spreads have product definition templates 2 and 12 (of an instant, of a period), ``derivedForecast`` 0 and 4,
and types ``em`` and ``es``. Probabilities have templates 5 and 9, type ``ep``, and a parameter of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import eccodes
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.parameters import FieldName, bits_for, field_name
from aifs_ensemble.common.wind_speed import sources, wind_speed
from aifs_ensemble.fields.ccsds import CcsdsPacker, pack_with_eccodes
from aifs_ensemble.fields.grib_encoder import UNKNOWN_PROCESS, UNTRAINED_EXPVER, grib_parameter, origin_keys
from aifs_ensemble.fields.grid_templates import grid_template, set_keys
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.statistics.choice import MEAN, PROBABILITY, SPREAD
from aifs_ensemble.products.statistics.named_thresholds import NamedThreshold

Field = npt.NDArray[np.float32]
_TEMPLATES = {MEAN: (2, 12), SPREAD: (2, 12), PROBABILITY: (5, 9)}
_DERIVED = {MEAN: 0, SPREAD: 4}
_PER_CENT_BITS = 10  # an error of at most 0.07 %


class MessageMaker:
    """Makes the messages of statistics over `members` members on the grid of the products."""

    def __init__(self, config: Config, grid: RegularGrid, members: int) -> None:
        self._config, self._members = config, members
        self._base = _base(config, grid)
        self._packer = CcsdsPacker.create(grid.shape[0] * grid.shape[1])
        self._bits = bits_for(config.model.delivered, config.forecast.packing)

    def statistic(self, kind: str, name: str, lead: int, window: int, values: Field) -> tuple[bytes, dict[str, Any]]:
        """Return the message of a mean or spread, ``(row, column)``, and what an index says of it."""
        field, keys = _parameter(name)
        keys |= {"derivedForecast": _DERIVED[kind], "numberOfForecastsInEnsemble": self._members}
        bits = max(self._bits[source] for source in sources(name))
        return self._message(kind, lead, window, keys, values, bits), self._entry(kind, lead, window, field)

    def probability(
        self, name: str, threshold: NamedThreshold, lead: int, window: int, values: Field
    ) -> tuple[bytes, dict[str, Any]]:
        """Return the message of a probability in per cent, ``(row, column)``, and what an index says of it."""
        field = FieldName(threshold.short_name, _parameter(name)[0].levtype)
        keys = {"paramId": threshold.param_id}
        message = self._message(PROBABILITY, lead, window, keys, values, _PER_CENT_BITS)
        return message, self._entry(PROBABILITY, lead, window, field)

    def close(self) -> None:
        """Release the handle."""
        eccodes.codes_release(self._base)

    def _message(self, kind: str, lead: int, window: int, keys: Mapping[str, Any], values: Field, bits: int) -> bytes:
        handle = eccodes.codes_clone(self._base)
        try:
            head = {
                "productDefinitionTemplateNumber": _TEMPLATES[kind][bool(window)],
                "class": "ai",
                "stream": "enfo",
                "type": kind,
                "experimentVersionNumber": UNTRAINED_EXPVER if self._config.model.untrained else "0001",
                "model": self._config.model.grib_model,
                "generatingProcessIdentifier": self._process(),
                "packingType": "grid_ccsds",
            }
            # a sum, of forecasts that begin together and end ever later
            time = {
                "typeOfStatisticalProcessing": 1,
                "typeOfTimeIncrement": 2,
                "startStep": lead - window,
                "endStep": lead,
            }
            set_keys(handle, {**head, **keys, **(time if window else {"step": lead})}, f"{kind} at {lead} h")
            header = eccodes.codes_get_message(handle)
        finally:
            eccodes.codes_release(handle)
        flat = np.ascontiguousarray(values.reshape(-1))
        low, high = flat.min(), flat.max()
        if self._packer is None or not (np.isfinite(low) and np.isfinite(high)):
            return pack_with_eccodes(header, flat, bits)
        return bytes(self._packer.pack(header, flat, float(low), float(high), bits))

    def _process(self) -> int:
        model = self._config.model
        return UNKNOWN_PROCESS if model.untrained else model.grib_process

    def _entry(self, kind: str, lead: int, window: int, field: FieldName) -> dict[str, Any]:
        time = self._config.cycle_time
        level = {"levelist": str(field.level)} if field.level else {}
        return {
            "domain": "g",
            "date": time.strftime("%Y%m%d"),
            "time": time.strftime("%H%M"),
            "expver": UNTRAINED_EXPVER if self._config.model.untrained else "0001",
            "class": "ai",
            "type": kind,
            "stream": "enfo",
            "step": f"{lead - window}-{lead}" if window else str(lead),
            **level,
            "levtype": field.levtype,
            "param": field.name,
            "model": self._config.model.grib_model,
        }


def _parameter(name: str) -> tuple[FieldName, dict[str, Any]]:
    """Return how GRIB names a variable of a product, and the keys that say so."""
    speed = wind_speed(name)
    if speed is None:
        parameter = grib_parameter(name)
        return field_name(name), {"paramId": parameter.param_id, **parameter.keys}
    level = {"typeOfLevel": "isobaricInhPa", "level": speed.field.level} if speed.field.level else {}
    return speed.field, {"paramId": speed.param_id, **level}


def _base(config: Config, grid: RegularGrid) -> int:
    """Return a handle on the grid, its values all zero, with the origin and date of the forecast."""
    handle = grid_template(grid.name)
    set_keys(handle, origin_keys(config.cycle_time), f"grid {grid.name}")
    return handle
