"""SHA-256 of checkpoints, computed once a file.

The result is kept beside the file, keyed by size and modification time, so that fifty members do not read a gigabyte
each to find what the first one found. It guards against mix-ups and damage; whoever can write into the folder can
write both files.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from aifs_ensemble.common.errors import CheckpointError, InputError
from aifs_ensemble.common.files import read_json, write_json
from aifs_ensemble.common.models import Model


@dataclass(frozen=True)
class DigestRecord:
    """What is remembered of a checkpoint file.

    `built_from` is the digest of the recipe of an untrained one, `source` where another was fetched from.
    """

    sha256: str
    size: int
    mtime_ns: int
    built_from: str | None = None
    source: str | None = None


def record_path(path: Path) -> Path:
    """Return where the digest of a checkpoint is kept."""
    return path.with_name(f"{path.name}.sha256.json")


def existing(path: Path) -> Path:
    """Return `path` when it is a file; CheckpointError otherwise."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {what}, expected a checkpoint")
    return path


def compute_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: Path) -> DigestRecord | None:
    """Return the record kept beside a checkpoint when it speaks of this very file, else None.

    A file of another time but the same content, such as one that was copied or touched, is known again.
    """
    status = existing(path).stat()
    try:
        record = DigestRecord(**read_json(record_path(path)))
    except (InputError, OSError, TypeError):
        return None
    if record.size != status.st_size:
        return None
    if record.mtime_ns == status.st_mtime_ns:
        return record
    if compute_digest(path) != record.sha256:
        return None
    return write_record(path, sha256=record.sha256, built_from=record.built_from, source=record.source)


def check_size(path: Path, model: Model, name: str | None = None) -> None:
    """Raise CheckpointError unless a file is as large as the catalogue says, where that has no digest to compare.

    Errors call the file by its `name`, by default its path.
    """
    expected, found = model.checkpoint.get("size"), existing(path).stat().st_size
    if expected and found != expected and not model.checkpoint.get("sha256"):
        raise CheckpointError(
            f"{name or path}: {found} bytes, expected {expected} ({model.name} in models.yaml); "
            "for a file of another size that you trust, set checkpoint.size there to null"
        )


def write_record(
    path: Path, *, sha256: str | None = None, built_from: str | None = None, source: str | None = None
) -> DigestRecord:
    """Keep the digest of a checkpoint beside it, where the folder can be written, and return it."""
    status = existing(path).stat()
    record = DigestRecord(sha256 or compute_digest(path), status.st_size, status.st_mtime_ns, built_from, source)
    with contextlib.suppress(OSError):
        write_json(record_path(path), asdict(record))
    return record


def checkpoint_digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint in hexadecimal, from the record beside it where that still holds.

    No record is left beside a file that is no whole zip archive, and so no checkpoint. Raises CheckpointError when
    there is no such file.
    """
    record = read_record(path)
    if record is not None:
        return record.sha256
    return write_record(path).sha256 if zipfile.is_zipfile(path) else compute_digest(path)
