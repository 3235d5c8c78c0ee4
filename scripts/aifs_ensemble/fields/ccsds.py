"""CCSDS packing (GRIB2 data representation template 5.42) straight from float32.

ecCodes packs from float64 only and spends about half of its time around libaec, the library that
does the compression. Here the values go to the same libaec directly, with the scale factors chosen
as ecCodes chooses them (grib_scaling.cc, DataCcsdsPacking.cc of ecCodes 2.50), so that the message
is the same to the byte; tests/fields compares them.
"""

from __future__ import annotations

import ctypes
import logging
import math
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

import eccodes
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import EncodingError

LOG = logging.getLogger(__name__)

# What ecCodes takes and gives for a missing value: no field has it. Its own 9999 may be a true one.
MISSING = 1e36
_FLOAT64_ONLY = frozenset({"grid_jpeg", "grid_png", "grid_ieee"})
_END = b"7777"
_LIBRARIES = ("libaec.0.dylib", "libaec.dylib") if sys.platform == "darwin" else ("libaec.so.0", "libaec.so")
AEC_DATA_SIGNED, AEC_DATA_3BYTE, AEC_DATA_MSB = 1, 2, 4
# Below these the reference value or the binary scale leave the range of GRIB's numbers, and ecCodes has its ways.
_SMALLEST_NORMAL = 2.0**-126
_SMALLEST_SPAN = 2.0**-100
_CHUNK = 1 << 15  # values: float64 scratch of 256 KiB stays in the second-level cache


class Stream(ctypes.Structure):
    """struct aec_stream of libaec.h."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_size_t),
        ("total_in", ctypes.c_size_t),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_size_t),
        ("total_out", ctypes.c_size_t),
        ("bits_per_sample", ctypes.c_uint),
        ("block_size", ctypes.c_uint),
        ("rsi", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("state", ctypes.c_void_p),
    )


def read_values(handle: int, kind: type[np.floating] = np.float64) -> npt.NDArray:
    """Return the values of a message, ``(value,)``, as numbers of a `kind`; NaN where they are missing."""
    has_bitmap = eccodes.codes_get(handle, "bitmapPresent")
    if has_bitmap:
        eccodes.codes_set(handle, "missingValue", MISSING)
    # ecCodes unpacks some packings to float64 alone
    unpacked = np.float64 if eccodes.codes_get(handle, "packingType") in _FLOAT64_ONLY else kind
    values = eccodes.codes_get_array(handle, "values", ktype=unpacked)
    if has_bitmap:
        values[values == unpacked(MISSING)] = np.nan
    return values if unpacked is kind else values.astype(kind)


def load_libaec() -> ctypes.CDLL | None:
    """Return the libaec that ecCodes uses, None where it cannot be loaded."""
    eccodes.codes_get_api_version()  # loads ecCodes, and with it the libaec that it is linked to
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    LOG.warning("libaec cannot be loaded: ecCodes packs and unpacks the fields, at about half the speed")
    return None


def sections(message: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield number, offset and length of the sections of a GRIB2 message, without sections 0 and 8."""
    offset = 16
    while message[offset : offset + 4] != _END:
        length = int.from_bytes(message[offset : offset + 4], "big")
        yield message[offset + 4], offset, length
        offset += length


def binary_scale(low: float, high: float, bits: int) -> int:
    """Return E of GRIB's ``value = reference + 2**E * integer``: the finest that `bits` can span."""
    span = high - low
    scale = math.ceil(math.log2(span)) - bits
    largest = 2**bits - 1
    if math.floor(math.ldexp(span, -scale) + 0.5) > largest:
        scale += 1
    elif math.floor(math.ldexp(span, 1 - scale) + 0.5) <= largest:
        scale -= 1
    return max(scale, -127)


def pack_with_eccodes(header: bytes, values: npt.NDArray[np.float32], bits: int) -> bytes:
    """Return the message `header` with `values`, packed by ecCodes; NaN becomes a missing value, with a bitmap."""
    handle = eccodes.codes_new_from_message(header)
    doubles = values.astype(np.float64)
    missing = np.isnan(doubles)
    try:
        if missing.any():
            eccodes.codes_set(handle, "missingValue", MISSING)
            eccodes.codes_set(handle, "bitmapPresent", 1)
            doubles[missing] = MISSING
        eccodes.codes_set(handle, "bitsPerValue", bits)
        eccodes.codes_set_values(handle, doubles)
        return eccodes.codes_get_message(handle)
    finally:
        eccodes.codes_release(handle)


class _Scaling(NamedTuple):
    """GRIB's ``value * 10**decimal = reference + 2**binary * integer``, of integers of `bits`; none of a constant."""

    reference: float
    binary: int
    decimal: int
    bits: int

    @classmethod
    def of(cls, low: float, high: float, bits: int) -> _Scaling:
        """Return that of a field by its extremes, as ecCodes chooses it where it has no need of ways of its own."""
        return cls(low, binary_scale(low, high, bits), 0, bits) if high > low else cls(low, 0, 0, 0)

    @classmethod
    def of_eccodes(cls, header: bytes, points: int, low: float, high: float, bits: int) -> _Scaling:
        """Return that of any field by its extremes: ecCodes packs a field of `points` values that has the same."""
        field = np.full(points, low, np.float32)
        field[-1] = high
        message = pack_with_eccodes(header, field, bits)
        at = next(offset for number, offset, _ in sections(message) if number == 5)
        reference, binary, decimal, width = struct.unpack_from(">fHHB", message, at + 11)
        return cls(reference, _signed(binary), _signed(decimal), width)


def _signed(octets: int) -> int:
    """Return a number of two octets of GRIB, whose first bit is its sign."""
    return -(octets & 0x7FFF) if octets & 0x8000 else octets


def _octets(number: int) -> int:
    """Return a number as two octets of GRIB hold it."""
    return abs(number) | (0x8000 if number < 0 else 0)


class CcsdsPacker:
    """Packs fields of `points` values into messages. Keeps its scratch memory from field to field."""

    def __init__(self, library: ctypes.CDLL, points: int):
        self._library = library
        self._integers = np.empty(points, np.uint32)
        self._scratch = np.empty(min(points, _CHUNK), np.float64)
        # libaec may need a little more than its input (the bound is ecCodes')
        self._out = np.empty(8192 + 4 * points * 67 // 64 + 256, np.uint8)

    @classmethod
    def create(cls, points: int) -> CcsdsPacker | None:
        """Return a packer, or None where libaec cannot be loaded."""
        library = load_libaec()
        return None if library is None else cls(library, points)

    def pack(
        self,
        header: bytes,
        values: npt.NDArray[np.float32],
        low: float,
        high: float,
        bits: int,
        present: npt.NDArray[np.bool_] | None = None,
    ) -> memoryview:
        """Return the message `header` with `values`, valid until the next call.

        `header` is a whole message with any constant field in CCSDS packing, without a bitmap; `low` and `high` are the
        smallest and largest of `values`, float32 ``(value,)``, all finite, or of a field that they are part of and that
        they are packed as. `present`, ``(point,)``, says which points of the grid they are, None for all.
        """
        if high > low and (high - low < _SMALLEST_SPAN or 0 < abs(low) < _SMALLEST_NORMAL):
            if present is None:
                return memoryview(pack_with_eccodes(header, values, bits))
            # left to itself ecCodes would take the extremes of the values that are kept
            scaling = _Scaling.of_eccodes(header, present.size, low, high, bits)
        else:
            scaling = _Scaling.of(low, high, bits)
        at = {number: (offset, length) for number, offset, length in sections(header)}
        start = at[7][0]
        self._out[:start] = np.frombuffer(header, np.uint8, start)
        if present is not None:
            start = self._write_bitmap(at[6][0], present)
            struct.pack_into(">I", self._out.data, at[5][0] + 5, values.size)
        size = 0
        if scaling.bits:
            options = struct.unpack_from(">BBH", header, at[5][0] + 21)
            size = self._compress(self._quantise(values, scaling), scaling.bits, start + 5, options)
        view = self._out.data
        struct.pack_into(">IB", view, start, size + 5, 7)
        end = start + 5 + size
        view[end : end + 4] = _END
        struct.pack_into(">Q", view, 8, end + 4)
        binary, decimal = _octets(scaling.binary), _octets(scaling.decimal)
        struct.pack_into(">fHHB", view, at[5][0] + 11, scaling.reference, binary, decimal, scaling.bits)
        return view[: end + 4]

    def _write_bitmap(self, offset: int, present: npt.NDArray[np.bool_]) -> int:
        """Write section 6 at `offset` and return where it ends."""
        bitmap = np.packbits(present)
        struct.pack_into(">IBB", self._out.data, offset, 6 + bitmap.size, 6, 0)
        self._out[offset + 6 : offset + 6 + bitmap.size] = bitmap
        return offset + 6 + bitmap.size

    def _quantise(self, values: npt.NDArray[np.float32], scaling: _Scaling) -> npt.NDArray:
        """Return the integers of the packing, in float64 arithmetic and rounded as ecCodes does."""
        bits = scaling.bits
        kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
        integers = self._integers.view(kind)[: values.size]
        tens, factor = 10.0**scaling.decimal, math.ldexp(1.0, -scaling.binary)
        for first in range(0, values.size, _CHUNK):
            part = values[first : first + _CHUNK]
            scratch = self._scratch[: part.size]
            if scaling.decimal:
                np.multiply(part, tens, out=scratch, dtype=np.float64)
                scratch -= scaling.reference
            else:
                np.subtract(part, scaling.reference, out=scratch, dtype=np.float64)
            scratch *= factor
            scratch += 0.5
            np.copyto(integers[first : first + _CHUNK], scratch, casting="unsafe")
        return integers

    def _compress(self, integers: npt.NDArray, bits: int, start: int, options: tuple[int, int, int]) -> int:
        """Compress `integers` into the output from `start` on; return the number of bytes.

        `options` are flags, block size and reference sample interval as in section 5.
        """
        flags, block, rsi = options
        native = flags & ~AEC_DATA_3BYTE & ~AEC_DATA_MSB
        if sys.byteorder == "big":
            native |= AEC_DATA_MSB
        stream = Stream(
            next_in=integers.ctypes.data,
            avail_in=integers.nbytes,
            next_out=self._out.ctypes.data + start,
            avail_out=self._out.nbytes - start,
            bits_per_sample=bits,
            block_size=block,
            rsi=rsi,
            flags=native,
        )
        error = self._library.aec_buffer_encode(ctypes.byref(stream))
        if error:
            raise EncodingError(f"libaec: error {error} on {integers.size} values of {bits} bits")
        return int(stream.total_out)
