"""State files: what was damaged after it was written is never read as if it were whole."""

from __future__ import annotations

import json
import os
import random
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.fields.state import State, read_state, state_digest, write_state

STATE = State(
    fields=np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    times=(datetime(2025, 8, 18, 18, tzinfo=UTC), datetime(2025, 8, 19, tzinfo=UTC)),
    variables=("2t", "msl", "sp"),
    units=("K", "Pa", "Pa"),
    grid="N32",
    cycle="20250819_0000",
    member=1,
    provenance={"source": "test"},
    extra={"accumulated": np.ones((3, 4), np.float32)},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_state(tmp_path / "member001.safetensors", STATE)
    return tmp_path / "member001.safetensors"


def rewritten(path: Path, content: bytes) -> None:
    """Change a file's content and leave its size and time of change as they were."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_every_flipped_bit_is_found(path: Path) -> None:
    whole = path.read_bytes()
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    end = 8 + int.from_bytes(whole[:8], "little")
    places = [
        *(draw.randrange(end * 8) for _ in range(150)),
        *(draw.randrange(end * 8, len(whole) * 8) for _ in range(150)),
    ]
    padding = range(len(whole[:end].rstrip(b" ")), end)
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        rewritten(path, bytes(content))
        if place // 8 in padding and bytes(content[place // 8 : place // 8 + 1]) in b"\t\r\n":
            continue  # JSON cannot tell
        with pytest.raises(InputError, match=str(path)):
            read_state(path)
            pytest.fail(f"seed {seed}: bit {place} was not found")


@pytest.mark.parametrize("tail", [1, 16, 100])
def test_zeroed_and_cut_tails_are_found(path: Path, tail: int) -> None:
    whole = path.read_bytes()
    rewritten(path, whole[:-tail] + bytes(tail))
    with pytest.raises(InputError, match=r"crc32c .* damaged; delete it"):
        read_state(path)
    path.write_bytes(whole[:-tail])
    with pytest.raises(InputError, match="not a readable state"):
        read_state(path)


def test_a_state_without_checksum_is_read_and_has_the_same_digest(path: Path) -> None:
    """States of earlier versions have none; what decides a member's settings is their content alone."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    digest = state_digest(path)
    del header["__metadata__"]["crc32c"]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    np.testing.assert_array_equal(read_state(path).fields, STATE.fields)
    assert state_digest(path) == digest
    header["__metadata__"]["crc32b"] = "AAAAAA=="
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    with pytest.raises(InputError, match="header with 'crc32b'"):
        read_state(path)


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "s.safetensors", []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_state(path, STATE)
    assert synced == []  # restart states are not worth the wait: a torn one is found and removed
    path.unlink()
    write_state(path, STATE, durable=True)
    assert synced == [(False, False), (True, True)]
