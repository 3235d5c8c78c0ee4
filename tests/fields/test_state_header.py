"""The header of a state is text that anybody may have written: what is odd in it is one short line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.fields.state import State, read_state, state_digest, write_state

TIMES = (datetime(2025, 8, 18, 18, tzinfo=UTC), datetime(2025, 8, 19, tzinfo=UTC))
ODD = ["", "null", "[]", "{}", "5", "[5]", "[[", '"x"', "9" * 9000, "[" * 5000, "\x1b[2J\n", "é" * 300]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound state of one variable."""
    target = tmp_path / "member001.safetensors"
    write_state(target, State(np.zeros((2, 1, 4), np.float32), TIMES, ("t",), ("K",), "N32", "20250819_0000", 1))
    return target


def with_header(path: Path, key: str, value: str) -> None:
    """Replace one text of the header."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"][key] = value
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("key", ["schema", "variables", "units", "times", "grid", "cycle", "member", "provenance"])
def test_an_odd_header_is_one_short_line(key: str, odd: str, path: Path) -> None:
    with_header(path, key, odd)
    try:
        read_state(path, variables=("t",), grid="N32")
    except InputError as error:
        assert str(error).isprintable()
        assert len(str(error)) < len(str(path)) + 300
    else:
        assert key in ("cycle", "provenance", "member") or (key, odd) == ("units", "[]"), "nobody compares these here"


def test_a_flipped_length_is_one_short_line(path: Path) -> None:
    """It once quoted eleven million characters of the file."""
    data = path.read_bytes()
    for bit in range(64):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(InputError) as caught:
            state_digest(path)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < len(str(path)) + 300
