"""The coarse lead: fields interpolated to a regular grid before they are packed, as a second, small file of a lead.

GRIB2 has no key for an interpolation in the templates of ensemble members (4.1, 4.11). Section 3 says the grid; each
line of the index says method and weights, and so does the member's manifest. A line also holds its message's checksum:
whoever reads one field by range knows that it is the one that was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.files import encode_crc32c
from aifs_ensemble.common.parameters import is_wind
from aifs_ensemble.fields.ccsds import sections
from aifs_ensemble.fields.directions import Field, whole
from aifs_ensemble.fields.grib_encoder import CoarseSpec, FieldEncoder, OutputSpec
from aifs_ensemble.fields.interpolation import Weights, interpolation_weights, product, weights_name

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
    return replace(spec, grid=spec.coarse.grid, variables=spec.coarse.variables, coarse=None, daily=(), area=None)


def _product(message: bytes | memoryview) -> npt.NDArray[np.uint8]:
    """Return the section of a message that says what the field is, and of which period."""
    offset, length = next((offset, length) for number, offset, length in sections(message) if number == 4)
    return np.frombuffer(message, np.uint8, length, offset)


class _Header:
    """The header of a variable's coarse message, and `beside`, the product's section of the lead's, at one lead."""

    def __init__(self, header: bytes, beside: npt.NDArray[np.uint8]):
        self._header, self._beside = bytearray(header), beside.copy()
        self._product = _product(memoryview(self._header))

    def move_to(self, beside: npt.NDArray[np.uint8]) -> bytes:
        """Return the header at the lead of another section: octets that the period changes there change here."""
        np.copyto(self._product, beside, where=beside != self._beside)
        self._beside[:] = beside
        return bytes(self._header)


class CoarseEncoder:
    """Makes the GRIB messages of a member's coarse leads: one sparse product a field, then packed as the lead's."""

    def __init__(self, spec: OutputSpec):
        assert spec.coarse is not None
        self.spec, self._coarse = coarse_output(spec), spec.coarse
        self._weights = coarse_weights(spec.coarse, spec.grid)
        self._fields = FieldEncoder(self.spec)
        self._headers: dict[str, _Header] = {}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights by `weights_name`."""
        return {name: weights.digest for name, weights in self._weights.items()}

    def _of(self, variable: str) -> Weights:
        return self._weights[weights_name(self._coarse.method(variable), variable)]

    def encode(
        self, variable: str, lead: int, parts: Sequence[Field], beside: bytes | memoryview
    ) -> bytes | memoryview:
        """Return the message of one field of the model's grid, float32 ``(value,)``; valid until the next call.

        `parts` are the field itself, or cosine and sine of a direction. Missing values (NaN) are treated as
        `Weights.apply` does. `beside` is the field's own message.
        """
        matrix = self._of(variable).matrix
        assert matrix is not None
        made = whole([product(matrix, part) for part in parts])
        return self._fields.encode(variable, lead, made, self._header(variable, lead, beside))

    def _header(self, variable: str, lead: int, beside: bytes | memoryview) -> bytes:
        """Return what `FieldEncoder.header` does, in a tenth of the time: from lead to lead only the period changes."""
        section = _product(beside)
        if variable not in self._headers:
            self._headers[variable] = _Header(self._fields.header(variable, lead), section)
        return self._headers[variable].move_to(section)

    def index_keys(self, variable: str, message: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """Return what the index says of a message beside the usual."""
        checksum = encode_crc32c(google_crc32c.extend(0, message))
        return {INTERPOLATION: self._coarse.method(variable), WEIGHTS: self._of(variable).digest, CHECKSUM: checksum}
