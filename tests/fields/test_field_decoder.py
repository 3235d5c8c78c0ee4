"""Decoding messages: the bits of ecCodes, and one line for what is no message."""

from __future__ import annotations

import dataclasses
import random
import struct

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.fields.ccsds import pack_with_eccodes, read_values
from aifs_ensemble.fields.field_decoder import FieldDecoder, _sections
from aifs_ensemble.fields.grib_encoder import FieldEncoder

from fields.members import make_spec

POINTS = 6114


@pytest.fixture(scope="module")
def decoder() -> FieldDecoder:
    return FieldDecoder(POINTS)


def encoded(field: np.ndarray, bits: int = 16, variable: str = "2t") -> bytes:
    spec = make_spec([variable])
    with_bits = dataclasses.replace(spec, bits={variable: bits})
    encoder = FieldEncoder(with_bits)
    try:
        return bytes(encoder.encode(variable, 6, field.astype(np.float32)))
    finally:
        encoder.close()


def by_eccodes(message: bytes) -> np.ndarray:
    handle = eccodes.codes_new_from_message(message)
    try:
        return read_values(handle, np.float32)
    finally:
        eccodes.codes_release(handle)


def changed(message: bytes, **keys: object) -> bytes:
    """Return the message with keys of ecCodes set; its values are packed anew."""
    handle = eccodes.codes_new_from_message(message)
    values = eccodes.codes_get_values(handle)
    for key, value in keys.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, values)
    result = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return result


FIELDS = {
    "smooth": 250 + 40 * np.sin(np.arange(POINTS) / 300),
    "noise": np.random.default_rng(1).normal(0, 3, POINTS),
    "small": 1e-9 * np.random.default_rng(2).random(POINTS),
    "large": -1e6 + np.random.default_rng(3).random(POINTS) * 1e5,
    "constant": np.full(POINTS, 271.5),
}


@pytest.mark.parametrize("bits", [8, 12, 14, 16, 20, 24])
@pytest.mark.parametrize("name", FIELDS)
def test_the_bits_are_those_of_eccodes(decoder: FieldDecoder, name: str, bits: int) -> None:
    message = encoded(FIELDS[name], bits)
    values = decoder.decode(message, "here")
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.view(np.uint32), by_eccodes(message).view(np.uint32))


@pytest.mark.parametrize(
    "keys",
    [{"packingType": "grid_simple"}, {"decimalScaleFactor": 2}, {"bitsPerValue": 25}],
    ids=lambda keys: next(iter(keys)),
)
def test_what_another_program_wrote_is_read_too(decoder: FieldDecoder, keys: dict[str, object]) -> None:
    message = changed(encoded(FIELDS["smooth"]), **keys)
    np.testing.assert_array_equal(decoder.decode(message, "here"), by_eccodes(message))


def test_missing_values_are_nan(decoder: FieldDecoder) -> None:
    field = FIELDS["smooth"].copy()
    field[::7] = np.nan
    values = decoder.decode(pack_with_eccodes(encoded(FIELDS["smooth"]), field.astype(np.float32), 16), "here")
    np.testing.assert_array_equal(np.isnan(values), np.isnan(field))


def test_a_field_goes_where_it_is_asked_for(decoder: FieldDecoder) -> None:
    message = encoded(FIELDS["noise"])
    place = np.empty(POINTS, np.float32)
    assert decoder.decode(message, "here", place) is place
    np.testing.assert_array_equal(place, by_eccodes(message))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: m[:-1], "no whole GRIB2 message"),
        (lambda m: b"GRIP" + m[4:], "no whole GRIB2 message"),
        (lambda m: m[:7] + b"\1" + m[8:], "no whole GRIB2 message"),
        (lambda m: m + m, "no whole GRIB2 message"),
        (lambda m: m[:16] + struct.pack(">I", 0) + m[20:], "a section of 0 bytes"),
        (lambda m: m[:16] + struct.pack(">I", 1 << 30) + m[20:], "a section of 1073741824 bytes"),
        (lambda m: b"", "0 bytes that are no whole"),
    ],
)
def test_what_is_no_message_is_one_line(decoder: FieldDecoder, spoil, says: str) -> None:
    with pytest.raises(InputError, match=f"^there: .*{says}"):
        decoder.decode(spoil(encoded(FIELDS["noise"])), "there")


HUGE = struct.pack(">I", 0xFFFFFFF0)


def edited(message: bytes, *edits: tuple[int, bytes]) -> bytes:
    """Return the message with bytes of it replaced."""
    out = bytearray(message)
    for place, content in edits:
        out[place : place + len(content)] = content
    return bytes(out)


@pytest.mark.parametrize(
    ("template", "bits"), [(42, 16), (42, 0), (0, 16), (0, 0)], ids=["ccsds", "constant", "simple", "simple constant"]
)
def test_no_memory_is_made_for_as_many_values_as_a_message_claims(template: int, bits: int) -> None:
    """A message of 6 kB that says it has 4294967280 values had 16 GiB asked for."""
    message = encoded(FIELDS["noise"])
    at = _sections(message, "here")
    packing = (at[5] + 9, struct.pack(">H", template)), (at[5] + 19, bytes([bits]))
    for places in [(at[3] + 6, at[5] + 5), (at[3] + 6,), (at[5] + 5,)]:
        spoiled = edited(message, *packing, *((place, HUGE) for place in places))
        with pytest.raises(InputError, match=f"there: 4294967280 values, expected {POINTS}"):
            FieldDecoder(POINTS).decode(spoiled, "there")


@pytest.mark.parametrize("scale", [128, 1024, 0x7FFF])
def test_a_scale_beyond_all_numbers_is_one_line(decoder: FieldDecoder, scale: int) -> None:
    message = encoded(FIELDS["noise"])
    place = _sections(message, "here")[5] + 15
    with pytest.raises(InputError, match=rf"there: scaled by 2\*\*{scale}, expected at most"):
        decoder.decode(edited(message, (place, struct.pack(">H", scale))), "there")
    smallest = decoder.decode(edited(message, (place, b"\xff\xff")), "there")
    assert (smallest == smallest[0]).all()


def test_another_grid_is_refused() -> None:
    with pytest.raises(InputError, match="there: 6114 values, expected 100"):
        FieldDecoder(100).decode(encoded(FIELDS["noise"]), "there")


def test_flipped_bits_give_numbers_or_one_line(decoder: FieldDecoder) -> None:
    """No crash, no hang, no other error, whatever bit of header or data is wrong."""
    message = encoded(FIELDS["noise"])
    rng = random.Random(20251128)
    refused = 0
    for _ in range(400):
        spoiled = bytearray(message)
        place = rng.randrange(min(220, len(message))) if rng.random() < 0.7 else rng.randrange(len(message))
        spoiled[place] ^= 1 << rng.randrange(8)
        try:
            assert decoder.decode(bytes(spoiled), "there").shape == (POINTS,)
        except InputError as error:
            refused += 1
            assert str(error).startswith("there: ") and "\n" not in str(error)
    assert refused > 20
