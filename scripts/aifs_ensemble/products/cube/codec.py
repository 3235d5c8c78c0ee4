"""A Zarr codec whose chunks are GRIB messages: delivered leads read as arrays, without a copy of them.

It is an entry point of this package (``zarr.codecs`` in pyproject.toml), so that whoever has it installed opens such a
store without another import. It reads alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import prod

from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON
from zarr.registry import register_codec

from aifs_ensemble.fields.field_decoder import thread_decoder

NAME = "aifs_ensemble.grib"


@dataclass(frozen=True)
class GribCodec(ArrayBytesCodec):
    """Decodes one GRIB2 message to float32, NaN where values are missing; InputError for other bytes."""

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> GribCodec:
        """Return the codec; it has no settings."""
        return cls()

    def to_dict(self) -> dict[str, JSON]:
        """Return what a store says of its codec."""
        return {"name": NAME}

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        # decoding lets go of Python's lock: as many at once as there are threads
        return await asyncio.to_thread(_decode, chunk_data.to_bytes(), chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        raise NotImplementedError(f"{NAME} reads messages, it makes none")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Return nothing sensible: messages have any length."""
        raise NotImplementedError(f"{NAME}: messages have any length")


def _decode(message: bytes, spec: ArraySpec) -> NDBuffer:
    values = thread_decoder(prod(spec.shape)).decode(message, "a chunk of the data set")
    return spec.prototype.nd_buffer.from_numpy_array(values.reshape(spec.shape))


register_codec(NAME, GribCodec)
