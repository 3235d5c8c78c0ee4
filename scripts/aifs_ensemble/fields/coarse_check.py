"""A coarse lead compared with what the member's manifest says of it: messages, values, index, checksums, weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.manifest import CoarseRecord
from aifs_ensemble.fields.coarse_encoder import CHECKSUM, INTERPOLATION, WEIGHTS
from aifs_ensemble.fields.grib_check import check_lead, messages
from aifs_ensemble.fields.grib_encoder import OutputSpec
from aifs_ensemble.fields.grib_index import parse_index
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import weights_name


def check_coarse_lead(record: CoarseRecord, spec: OutputSpec, lead: int, data: bytes, index: bytes) -> list[str]:
    """Return what is wrong with a coarse lead: all that `check_lead` looks at, and what only its index says.

    `spec` is that of the member's leads.
    """
    path = Path(record.grib.name)
    variables = spec.variables if record.variables == "all" else tuple(record.variables)
    made = replace(spec, grid=record.grid, variables=variables, coarse=None, daily=(), area=None)
    wrong = check_lead(path, made, lead, data=data, index=index)
    return wrong or list(_untrue(path, record, variables, data, index))


def _untrue(path: Path, record: CoarseRecord, variables: tuple[str, ...], data: bytes, index: bytes) -> Iterator[str]:
    """Yield where grid, interpolation, weights or checksum of a message are not as recorded."""
    points = grid_coordinates(record.grid).points
    found = messages(path, data=data)
    for variable, message, entry in zip(variables, found, parse_index(index, path), strict=True):
        method = record.method(variable)
        content = data[message.offset : message.offset + message.length]
        expected = {
            INTERPOLATION: method,
            WEIGHTS: record.weights.get(weights_name(method, variable)),
            CHECKSUM: crc32c_bytes(content),
        }
        if (count := message.keys["numberOfDataPoints"]) != points:
            yield f"{path}: {variable}: {count} points, expected the {points} of {record.grid}"
        for key, value in expected.items():
            if entry.get(key) != value:
                yield f"{path}: {variable}: {key} of the index is {entry.get(key)!r}, expected {value!r}"
