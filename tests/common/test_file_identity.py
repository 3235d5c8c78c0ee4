"""What tells that a file is the one whose content was read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from aifs_ensemble.common import file_identity
from aifs_ensemble.common.file_identity import file_identity as identity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"content")
    return tmp_path / "a"


def written(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"Content")


def copied_over(path: Path) -> None:
    shutil.copy2(path, path.with_name("b"))
    path.with_name("b").replace(path)


@pytest.mark.parametrize("change", [written, copied_over], ids=["written", "copied"])
def test_size_and_time_as_before_are_not_enough(path: Path, change) -> None:
    before, status = identity(path), path.stat()
    assert before == identity(path) != ""
    change(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert identity(path) != before


def test_another_start_of_the_machine(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = identity(path)
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(file_identity, "_BOOT_ID", tmp_path / "boot_id")
    file_identity.boot_id.cache_clear()
    assert identity(path).split()[1:] == before.split()[1:] and identity(path) != before
    monkeypatch.setattr(file_identity, "_BOOT_ID", tmp_path / "absent")
    file_identity.boot_id.cache_clear()
    assert identity(path) == ""
    file_identity.boot_id.cache_clear()
