"""A checkpoint or an initial state that a disk changed: no forecast made from it vouches for the sound one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aifs_ensemble.common.errors import CheckpointError, InputError
from aifs_ensemble.common.manifest import read_member_manifest
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.model.checkpoint.digest import record_path


def flip(path: Path) -> None:
    """Flip one bit in the last tenth, with size and time as before."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[int(len(content) * 0.6)] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def request_of_copies(
    request_for: Callable[..., ForecastRequest], checkpoint: Path, initial: Path, tmp_path: Path
) -> ForecastRequest:
    """A request whose inputs the test may damage; its first lead is made."""
    for original in (checkpoint, record_path(checkpoint), initial):
        shutil.copy2(original, tmp_path / original.name)
    request = request_for(trust=False, leads=(6,))
    request = replace(request, checkpoint=tmp_path / checkpoint.name, initial=tmp_path / initial.name)
    run_forecast(request)
    return request


def test_a_flipped_bit_of_the_initial_state(request_of_copies: ForecastRequest) -> None:
    flip(request_of_copies.initial)
    with pytest.raises(InputError, match=r"crc32c .* damaged; delete it where it is kept"):
        run_forecast(replace(request_of_copies, leads=(6, 12)))


def test_a_flipped_bit_of_the_checkpoint(request_of_copies: ForecastRequest) -> None:
    flip(request_of_copies.checkpoint)
    with pytest.raises(CheckpointError, match=r"sha256 .*, expected .*; build it anew"):
        run_forecast(replace(request_of_copies, leads=(6, 12)))
    assert read_member_manifest(request_of_copies.manifest).leads[0].lead == 6  # what was sound stays


def test_a_damaged_checkpoint_is_refused_on_the_users_word_too(request_of_copies: ForecastRequest) -> None:
    flip(request_of_copies.checkpoint)
    with pytest.raises(CheckpointError, match=r"damaged: record .* has CRC-32"):
        run_forecast(replace(request_of_copies, leads=(6, 12), trust=True))
