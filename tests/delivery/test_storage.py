"""The storage interface, the same for a folder and a bucket."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from aifs_ensemble.common.errors import ConfigError, DiskFullError, StorageError, VerificationError
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.storage import ConflictError, Storage, TransferSettings, open_storage

SMALL, LARGE = b"small" * 100, bytes(range(256)) * 4096  # one request; a session of four chunks
SETTINGS = TransferSettings(resumable_above=256 << 10, chunk=256 << 10, deadline=5, backoff=0.01, backoff_most=0.05)


@pytest.fixture
def storage(destination: str) -> Storage:
    return open_storage(destination, SETTINGS)


@pytest.fixture(params=[SMALL, LARGE], ids=["one request", "session"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(request.param)
    return path


def test_what_is_stored_is_found_and_fetched(storage: Storage, file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    put = storage.put_file(file, "a/b.grib2", crc32c=crc32c_bytes(data))
    info = storage.stat("a/b.grib2")
    assert info is not None
    assert (info.size, info.crc32c, info.generation) == (len(data), crc32c_bytes(data), put.generation)
    assert storage.get_bytes("a/b.grib2") == data
    assert storage.get_range("a/b.grib2", 7, 5) == data[7:12]
    storage.get_file("a/b.grib2", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == data
    assert [found.key for found in storage.list("a/")] == ["a/b.grib2"]
    assert [storage.with_crc32c(found).crc32c for found in storage.list("a/b")] == [info.crc32c]
    assert storage.stat("a") is None
    assert list(storage.list("b")) == []


def test_the_same_content_again_is_stored_already(storage: Storage, file: Path) -> None:
    first = storage.put_file(file, "a")
    again = storage.put_file(file, "a")
    assert again.generation == first.generation
    assert (storage.counts.objects, storage.counts.settled) == (1, 1)


def test_other_content_is_never_overwritten_unasked(storage: Storage, file: Path) -> None:
    storage.put_bytes(b"first", "a")
    with pytest.raises(ConflictError, match="exists with other content"):
        storage.put_file(file, "a")
    with pytest.raises(ConflictError):
        storage.put_bytes(b"second", "a")
    assert storage.get_bytes("a") == b"first"


def test_only_the_object_that_was_looked_at_is_replaced(storage: Storage, file: Path) -> None:
    storage.put_bytes(b"first", "a")
    seen = storage.stat("a")
    storage.put_bytes(b"second", "a", overwrite=True)
    with pytest.raises(ConflictError):
        storage.put_file(file, "a", replacing=seen)
    storage.put_file(file, "a", replacing=storage.stat("a"))
    assert storage.get_bytes("a") == file.read_bytes()


def test_a_file_that_is_not_what_was_promised_is_refused(storage: Storage, file: Path) -> None:
    with pytest.raises(VerificationError, match=r"file: crc32c .*, expected AAAAAA=="):
        storage.put_file(file, "a", crc32c="AAAAAA==")
    assert list(storage.list("")) == []
    with pytest.raises(VerificationError, match="none: missing"):
        storage.put_file(file.with_name("none"), "a")


def test_compose_concatenates_and_checks(storage: Storage) -> None:
    storage.put_bytes(b"one", "1")
    storage.put_bytes(b"two", "2")
    info = storage.compose(["1", "2"], "12", crc32c=crc32c_bytes(b"onetwo"))
    assert storage.get_bytes("12") == b"onetwo"
    assert storage.compose(["1", "2"], "12", crc32c=crc32c_bytes(b"onetwo")).generation == info.generation
    with pytest.raises(VerificationError):
        storage.compose(["2", "1"], "21", crc32c=crc32c_bytes(b"onetwo"))
    assert storage.stat("21") is None
    with pytest.raises(StorageError):
        storage.compose(["1", "3"], "13", crc32c="AAAAAA==")
    assert [info.key for info in storage.list("")] == ["1", "12", "2"]


def test_removing(storage: Storage) -> None:
    info = storage.put_bytes(b"one", "a")
    assert not storage.delete("a", generation=info.generation + 1)
    assert storage.stat("a") is not None
    assert storage.delete("a", generation=info.generation)
    assert not storage.delete("a")


@pytest.mark.parametrize("call", ["get_bytes", "get_file"])
def test_what_is_not_there_is_one_line(storage: Storage, call: str, tmp_path: Path) -> None:
    arguments = ("none",) if call == "get_bytes" else ("none", tmp_path / "got")
    with pytest.raises(StorageError, match="none: no such object") as caught:
        getattr(storage, call)(*arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://", "http://x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        open_storage(url)


def test_without_credentials_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StorageError, match="no application default credentials") as caught:
        open_storage("gs://bucket")
    assert "\n" not in str(caught.value)


def test_importing_storage_imports_no_google_client(root: Path) -> None:
    code = (
        "import sys, aifs_ensemble.planning.regions;"
        "from aifs_ensemble.delivery import ensemble, member, verify;"
        "print([name for name in ('google.cloud.storage', 'google.auth', 'torch') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root / "scripts", capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    storage = open_storage(str(tmp_path / "destination"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="no space left"):
        storage.put_bytes(b"one", "a")
    assert list((tmp_path / "destination").iterdir()) == []


def test_what_a_killed_copy_left_is_tidied_but_not_one_under_way(tmp_path: Path) -> None:
    import fcntl

    storage = open_storage(str(tmp_path))
    left, busy = tmp_path / ".a_h006.1-1.part", tmp_path / ".a_h012.2-2.part"
    left.write_bytes(b"x")
    with open(busy, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        storage.tidy("a_")
        assert [path.name for path in tmp_path.iterdir()] == [busy.name]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/x: Not a directory, expected a folder") as caught:
        open_storage(str(tmp_path / "file" / "x")).put_bytes(b"one", "a")
    assert "\n" not in str(caught.value)


def test_without_hard_links_nothing_is_overwritten_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage = open_storage(str(tmp_path / "destination"))
    (tmp_path / "file").write_bytes(SMALL)
    first = storage.put_file(tmp_path / "file", "a")
    assert storage.put_file(tmp_path / "file", "a").generation == first.generation
    (tmp_path / "file").write_bytes(LARGE)
    with pytest.raises(ConflictError, match="exists with other content"):
        storage.put_file(tmp_path / "file", "a")
    assert storage.get_bytes("a") == SMALL
    storage.put_file(tmp_path / "file", "a", replacing=first)
    assert storage.get_bytes("a") == LARGE
