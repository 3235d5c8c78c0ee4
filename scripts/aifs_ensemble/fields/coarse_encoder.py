"""The coarse lead: fields interpolated to a regular grid before they are packed, as a second, small file of a lead.

GRIB2 has no key for an interpolation in the templates of ensemble members (4.1, 4.11). Section 3 says the grid; each
line of the index says method and weights, and so does the member's manifest. A line also holds its message's checksum:
whoever reads one field by range knows that it is the one that was made.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.files import encode_crc32c
from aifs_ensemble.common.parameters import is_wind
from aifs_ensemble.fields.grib_encoder import CoarseSpec, FieldEncoder, OutputSpec
from aifs_ensemble.fields.interpolation import Weights, interpolation_weights, weights_name

# keys of an index line, in the manner of _offset and _length
INTERPOLATION, WEIGHTS, CHECKSUM = "_interpolation", "_weights", "_crc32c"


def coarse_weights(spec: CoarseSpec, source: str) -> dict[str, Weights]:
    """Return the weights of a coarse lead by `weights_name`, from the cache or made there by MIR.

    Raises ConfigError for an unknown grid and InputError when MIR makes no weights.
    """
    found: dict[str, Weights] = {}
    for variable in spec.variables:
        method = spec.method(variable)
        name = weights_name(method, variable)
        if name not in found:
            wind = is_wind(variable)
            found[name] = interpolation_weights(source, spec.grid, Path(spec.cache), method, wind=wind)
    return found


def coarse_output(spec: OutputSpec) -> OutputSpec:
    """Return what the messages of the coarse file are made with: as the lead's, but for grid and variables."""
    assert spec.coarse is not None
    return replace(spec, grid=spec.coarse.grid, variables=spec.coarse.variables, coarse=None)


class CoarseEncoder:
    """Makes the GRIB messages of a member's coarse leads: one sparse product a field, then packed as the lead's."""

    def __init__(self, spec: OutputSpec):
        assert spec.coarse is not None
        self.spec, self._coarse = coarse_output(spec), spec.coarse
        self._weights = coarse_weights(spec.coarse, spec.grid)
        self._fields = FieldEncoder(self.spec)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights by `weights_name`."""
        return {name: weights.digest for name, weights in self._weights.items()}

    def _of(self, variable: str) -> Weights:
        return self._weights[weights_name(self._coarse.method(variable), variable)]

    def encode(self, variable: str, lead: int, values: npt.NDArray[np.float32]) -> bytes | memoryview:
        """Return the message of one field of the model's grid, float32 ``(value,)``; valid until the next call.

        Missing values (NaN) are missing wherever one of them counts.
        """
        matrix = self._of(variable).matrix
        assert matrix is not None
        return self._fields.encode(variable, lead, matrix @ values)

    def index_keys(self, variable: str, message: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """Return what the index says of a message beside the usual."""
        checksum = encode_crc32c(google_crc32c.extend(0, message))
        return {INTERPOLATION: self._coarse.method(variable), WEIGHTS: self._of(variable).digest, CHECKSUM: checksum}
