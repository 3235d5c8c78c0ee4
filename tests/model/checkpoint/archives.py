"""Checkpoints kept in other ways than torch keeps them, and damaged ones."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path


def as_anemoi_utils_0_4_22(original: Path, to: Path) -> Path:
    """Write a checkpoint anew as that version's ``replace_metadata`` does: unpacked, then walked and deflated.

    Versions from May 2024 to September 2025 do so; later ones store. Where the walk meets what, the file system says.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as target:
        with zipfile.ZipFile(original) as source:
            source.extractall(folder)
        for root, _, files in os.walk(folder):
            for name in files:
                full = Path(root, name)
                target.write(full, full.relative_to(folder))
    return to


def metadata_last(original: Path, to: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a checkpoint anew, its tensors before its metadata, so that more bytes follow the last of them."""
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(to, "w", method) as target:
        for name in sorted(source.namelist(), key=lambda name: ("anemoi-metadata" in name, "/data/" in name)):
            target.writestr(name, source.read(name))
    return to


def metadata_first(original: Path, to: Path) -> Path:
    """Write a checkpoint anew, deflated, its metadata before its tensors and these backwards."""
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as target:
        names = sorted(source.namelist(), key=lambda name: "anemoi-metadata" not in name)
        for name in [*names[:3], *reversed(names[3:])]:
            target.writestr(name, source.read(name))
    return to


def stored_anywhere(original: Path, to: Path) -> Path:
    """Write a checkpoint anew as today's anemoi-utils does: stored, wherever a record happens to start."""
    return metadata_last(original, to, zipfile.ZIP_STORED)


def largest_tensor(path: Path) -> zipfile.ZipInfo:
    """Return the largest record among the tensors."""
    with zipfile.ZipFile(path) as archive:
        return max((i for i in archive.infolist() if "/data/" in i.filename), key=lambda info: info.file_size)


def damaged(original: Path, to: Path, record: zipfile.ZipInfo, *, at: float) -> Path:
    """Copy a checkpoint with one bit of a record's bytes flipped, `at` a part of its way."""
    content = bytearray(original.read_bytes())
    header = record.header_offset
    start = header + 30 + sum(int.from_bytes(content[header + k : header + k + 2], "little") for k in (26, 28))
    content[start + int(at * record.compress_size)] ^= 1
    to.write_bytes(content)
    return to
