"""GRIB messages to float32: CCSDS packing straight through libaec, everything else through ecCodes.

A packed value is ``reference + 2**E * integer`` (GRIB2 data representation template 5.42). libaec gives the integers
and one pass over them the values, with the bits of ecCodes' own float32. ctypes lets go of Python's lock while libaec
works, so threads decode side by side.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import threading

import eccodes
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.fields.ccsds import AEC_DATA_3BYTE, AEC_DATA_MSB, AEC_DATA_SIGNED, Stream, load_libaec, read_values

Field = npt.NDArray[np.float32]
_CCSDS = 42
_NO_BITMAP = 255
_EXACT_BITS = 24  # integers of so many bits are exact in float32
_LARGEST_EXPONENT = 127  # of float32
_END = b"7777"
_LOCAL = threading.local()


class FieldDecoder:
    """Decodes messages of `points` values; keeps its scratch memory, so each thread needs one of its own."""

    def __init__(self, points: int):
        self.points = points
        self._library = load_libaec()
        self._integers = np.empty(points, np.uint32)

    def decode(self, message: bytes, where: str, out: Field | None = None) -> Field:
        """Return the values of one message, float32 ``(value,)``, NaN where they are missing; into `out` if given.

        Raises InputError, naming `where`, for bytes that are no GRIB2 message of `points` values.
        """
        at = _sections(message, where)
        # before ecCodes makes room for as many as the message says
        grid, packed = (int.from_bytes(message[start : start + 4], "big") for start in (at[3] + 6, at[5] + 5))
        if grid != self.points or packed > grid:
            raise InputError(f"{where}: {max(grid, packed)} values, expected {self.points}")
        if out is None:
            out = np.empty(self.points, np.float32)
        if not self._unpack(message, at, out, where):
            values = _through_eccodes(message, where)
            if values.size != self.points:
                raise InputError(f"{where}: {values.size} values, expected {self.points}")
            out[:] = values
        return out

    def _unpack(self, message: bytes, at: dict[int, int], out: Field, where: str) -> bool:
        """Fill `out` from a message in plain CCSDS packing; False, untouched, for any other."""
        packed, template = struct.unpack_from(">IH", message, at[5] + 5)
        if self._library is None or template != _CCSDS or message[at[6] + 5] != _NO_BITMAP or packed != self.points:
            return False
        reference, scale, decimal, bits = struct.unpack_from(">fHHB", message, at[5] + 11)
        flags, block, interval = struct.unpack_from(">BBH", message, at[5] + 21)
        if decimal or bits > _EXACT_BITS or flags & AEC_DATA_SIGNED:
            return False
        if (exponent := _signed(scale)) > _LARGEST_EXPONENT:
            raise InputError(f"{where}: scaled by 2**{exponent}, expected at most 2**{_LARGEST_EXPONENT}")
        if not bits:
            out[:] = reference
            return True
        integers = self._integers.view(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)[: self.points]
        length = int.from_bytes(message[at[7] : at[7] + 4], "big") - 5
        data = np.frombuffer(message, np.uint8, length, at[7] + 5)
        flags &= ~AEC_DATA_3BYTE & ~AEC_DATA_MSB
        stream = Stream(
            next_in=data.ctypes.data,
            avail_in=data.nbytes,
            next_out=integers.ctypes.data,
            avail_out=integers.nbytes,
            bits_per_sample=bits,
            block_size=block,
            rsi=interval,
            flags=flags | (AEC_DATA_MSB if sys.byteorder == "big" else 0),
        )
        error = self._library.aec_buffer_decode(ctypes.byref(stream))
        if error or stream.total_out != integers.nbytes:
            raise InputError(f"{where}: does not decode (libaec: error {error}, {stream.total_out} bytes)")
        # the scale is a power of two: only the sum rounds
        np.multiply(integers, np.float32(2.0**exponent), out=out, casting="unsafe")
        out += np.float32(reference)
        return True


def thread_decoder(points: int) -> FieldDecoder:
    """Return this thread's decoder of `points` values: one a thread, however many members it reads."""
    kept: FieldDecoder | None = getattr(_LOCAL, "decoder", None)
    if kept is None or kept.points != points:
        kept = _LOCAL.decoder = FieldDecoder(points)
    return kept


def _signed(value: int) -> int:
    """Return a number of GRIB's sign and magnitude, 16 bits."""
    return -(value & 0x7FFF) if value & 0x8000 else value


def _sections(message: bytes, where: str) -> dict[int, int]:
    """Return where each section of a GRIB2 message begins; InputError unless the message is whole."""
    whole = len(message) > 16 and message[:4] == b"GRIB" and message[-4:] == _END
    if not whole or message[7] != 2 or int.from_bytes(message[8:16], "big") != len(message):
        raise InputError(f"{where}: {len(message)} bytes that are no whole GRIB2 message")
    at: dict[int, int] = {}
    offset, end = 16, len(message) - 4
    while offset < end:
        length = int.from_bytes(message[offset : offset + 4], "big")
        if length < 5 or offset + length > end:
            raise InputError(f"{where}: a section of {length} bytes at byte {offset}, expected it within {end}")
        at[message[offset + 4]] = offset
        offset += length
    # template 5.42 has 25 bytes; shorter ones are ecCodes' matter, padded by the sections after them
    if not {3, 5, 6, 7} <= at.keys() or len(message) < at[5] + 25:
        raise InputError(f"{where}: sections {sorted(at)}, expected a field's")
    return at


def _through_eccodes(message: bytes, where: str) -> Field:
    try:
        handle = eccodes.codes_new_from_message(message)
    except eccodes.CodesInternalError as error:
        raise InputError(f"{where}: not a GRIB message ({error})") from None
    try:
        return np.asarray(read_values(handle, np.float32), np.float32)
    except eccodes.CodesInternalError as error:
        raise InputError(f"{where}: does not decode ({error})") from None
    finally:
        eccodes.codes_release(handle)
