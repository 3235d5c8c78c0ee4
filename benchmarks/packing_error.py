"""What packing costs in accuracy: read from the headers of a GRIB file, or measured on a field.

python benchmarks/packing_error.py FILE     bits, largest possible error and compressed size of each parameter
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import eccodes
import numpy as np
import numpy.typing as npt
from aifs_ensemble.fields.ccsds import read_values
from aifs_ensemble.fields.grib_encoder import FieldEncoder, grib_parameter


@dataclass(frozen=True)
class PackingSummary:
    """What packing did to the fields of one parameter in a file.

    Attributes
    ----------
    bits : bits per value asked for (0 where all fields are constant)
    error : largest possible error in `units`, half a step of the coarsest packing
    stored_bits : bits per value that the compressed data take, on average over the fields
    """

    parameter: str
    units: str
    fields: int
    bits: int
    error: float
    stored_bits: float
    bytes: int


def packing_summary(grib: Path) -> dict[str, PackingSummary]:
    """Return what packing did to each parameter of a GRIB file, from its headers alone."""
    found: dict[str, list[tuple[str, int, float, int, int]]] = {}
    with open(grib, "rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            try:
                name, units, bits, scale, decimal, data, points, size = (
                    eccodes.codes_get(handle, key)
                    for key in (
                        "shortName",
                        "units",
                        "bitsPerValue",
                        "binaryScaleFactor",
                        "decimalScaleFactor",
                        "section7Length",
                        "numberOfValues",
                        "totalLength",
                    )
                )
            finally:
                eccodes.codes_release(handle)
            error = math.ldexp(0.5, scale) / 10**decimal if bits else 0.0
            found.setdefault(name, []).append((units, bits, error, 8 * (data - 5) / points, size))
    return {
        name: PackingSummary(
            parameter=name,
            units=rows[0][0],
            fields=len(rows),
            bits=max(row[1] for row in rows),
            error=max(row[2] for row in rows),
            stored_bits=sum(row[3] for row in rows) / len(rows),
            bytes=sum(row[4] for row in rows),
        )
        for name, rows in found.items()
    }


@dataclass(frozen=True)
class MeasuredError:
    """Difference between a field and what is read back, in GRIB units, and the size of its message."""

    largest: float
    rms: float
    deviation: float
    bytes: int


def measure_error(encoder: FieldEncoder, variable: str, lead: int, values: npt.NDArray[np.float32]) -> MeasuredError:
    """Return the error that packing makes in one field, float32 ``(value,)`` in the model's units.

    `deviation` is the field's own standard deviation, to compare with.
    """
    message = bytes(encoder.encode(variable, lead, values))
    handle = eccodes.codes_new_from_message(message)
    try:
        decoded = read_values(handle)
    finally:
        eccodes.codes_release(handle)
    meant = values.astype(np.float64) * grib_parameter(variable).factor
    difference = decoded - meant
    rms = float(np.sqrt(np.mean(difference**2)))
    return MeasuredError(float(np.abs(difference).max()), rms, float(meant.std()), len(message))


def main() -> None:
    """Print the summary of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a lead's GRIB file")
    print("| parameter | fields | bits | stored | largest error | units |\n|---|---:|---:|---:|---:|---|")
    for name, row in sorted(packing_summary(parser.parse_args().file).items()):
        print(f"| {name} | {row.fields} | {row.bits} | {row.stored_bits:.1f} | {row.error:.2g} | {row.units} |")


if __name__ == "__main__":
    main()
