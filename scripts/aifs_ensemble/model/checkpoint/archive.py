"""The zip archive that a checkpoint is: how its records are kept, whether they are whole, and how torch may map them.

`torch.save` stores records as they are, at multiples of 64 bytes, so that a file can be mapped into memory.
anemoi-utils before 0.4.38 wrote a checkpoint anew, deflated, whenever its metadata was edited. `torch.load` maps a file
without looking at the compression, and compares no CRC: here nothing is mapped but what is stored, and every record
is compared with the CRC-32 that the archive lists. Layout of the headers: PKWARE, .ZIP File Format Specification 6.3.
"""

from __future__ import annotations

import io
import logging
import mmap
import os
import struct
import tempfile
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from aifs_ensemble.common.errors import CheckpointError

LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

ALIGNMENT = 64
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_PACKED_PIECE, _PIECE = 1 << 20, 16 << 20
# Extra field in which torch pads a local header.
_PADDING = 0x4246


@dataclass(frozen=True)
class Record:
    """One record: where its bytes start and how many there are, its size once inflated, and its CRC-32."""

    name: str
    start: int
    packed: int
    size: int
    crc: int
    deflated: bool


@dataclass(frozen=True)
class Archive:
    """The records of a checkpoint, in the order of the archive's directory."""

    path: Path
    records: tuple[Record, ...]

    @property
    def mappable(self) -> bool:
        """Whether every record lies in the file as it lies in memory."""
        tensors = (record for record in self.records if "/data/" in record.name)
        return not any(record.deflated or (record.size and record.start % ALIGNMENT) for record in tensors)

    @property
    def method(self) -> str:
        """How the records are kept, in words: ``stored`` or ``401 of 401 records deflated, 1,144 MB once inflated``."""
        kinds = Counter(record.deflated for record in self.records)
        if kinds[True]:
            size = sum(record.size for record in self.records) / 1e6
            return f"{kinds[True]} of {len(self.records)} records deflated, {size:,.1f} MB once inflated"
        return "stored" if self.mappable else f"stored, not at multiples of {ALIGNMENT} bytes"


def read_archive(path: Path) -> Archive:
    """Return the records of a checkpoint.

    Raises CheckpointError when it is no whole zip archive, or when a record is kept in another way than stored or
    deflated.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return Archive(path, tuple(_record(path, file, info) for info in archive.infolist()))
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error}), {path.stat().st_size} bytes") from None


def _record(path: Path, file: io.BufferedReader, info: zipfile.ZipInfo) -> Record:
    if info.compress_type not in _METHODS or info.flag_bits & 1:
        raise CheckpointError(
            f"{path}: record {info.filename} is encrypted or compressed by method {info.compress_type}, "
            "expected stored or deflated"
        )
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise CheckpointError(f"{path}: damaged: record {info.filename} does not start at byte {info.header_offset}")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    if start + info.compress_size > os.fstat(file.fileno()).st_size:
        raise CheckpointError(f"{path}: damaged: record {info.filename} ends behind the end of the file")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    return Record(info.filename, start, info.compress_size, info.file_size, info.CRC, deflated)


def _content(archive: Archive, whole: memoryview, record: Record) -> bytes | memoryview:
    """Return the content of a record, inflated where it is deflated; CheckpointError when it is not what it was."""
    pieces = list(_pieces(archive, whole, record))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _pieces(archive: Archive, whole: memoryview, record: Record) -> Iterator[bytes | memoryview]:
    """Yield the content of a record in pieces of at most `_PIECE` bytes; CheckpointError when it is not what it was."""
    size = crc = 0
    try:
        for piece in _inflated(whole, record):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            if size > record.size:
                break
            yield piece
    except zlib.error as error:
        raise CheckpointError(f"{archive.path}: damaged: record {record.name} cannot be inflated ({error})") from None
    if size != record.size:
        raise CheckpointError(f"{archive.path}: damaged: record {record.name} has {size} bytes, expected {record.size}")
    if crc != record.crc:
        raise CheckpointError(
            f"{archive.path}: damaged: record {record.name} has CRC-32 {crc:08x}, expected {record.crc:08x}"
        )


def _inflated(whole: memoryview, record: Record) -> Iterator[bytes | memoryview]:
    packed = whole[record.start : record.start + record.packed]
    if not record.deflated:
        yield packed
        return
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    for start in range(0, len(packed), _PACKED_PIECE):
        rest: bytes | memoryview = packed[start : start + _PACKED_PIECE]
        while rest:
            yield inflating.decompress(rest, _PIECE)
            rest = inflating.unconsumed_tail


def _in_order(work: Callable[[Record], _T], records: Iterable[Record]) -> Iterator[_T]:
    """Do `work` for all records in threads, a few ahead of the one whose result is taken: zlib lets others run."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[_T]] = deque()
        for record in records:
            ahead.append(pool.submit(work, record))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _whole(path: Path) -> memoryview:
    """Return a file's bytes, mapped for as long as a view of them is left."""
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def verify_records(archive: Archive) -> None:
    """Raise CheckpointError naming the first record whose content is not the one that the archive lists."""
    whole = _whole(archive.path)
    # piece by piece: a megabyte may hold a gigabyte of zeros
    for _ in _in_order(lambda record: sum(map(len, _pieces(archive, whole, record))), archive.records):
        pass


@contextmanager
def torch_may_map(archive: Archive) -> Iterator[Path]:
    """Yield a file with the archive's records, each compared with its CRC-32, that ``torch.load`` may map.

    A stored archive is that file. Of another one the records are inflated, in threads, into an archive in memory
    (where the system has none such, in a temporary file), which lives as long as something is mapped from it.

    Raises CheckpointError naming file and record when one is not what it was.
    """
    begun = perf_counter()
    if archive.mappable:
        verify_records(archive)
        LOG.info("%s: stored, mapped into memory; CRC compared in %.1f s", archive.path, perf_counter() - begun)
        yield archive.path
        return
    with _anonymous_file() as (file, path):
        whole = _whole(archive.path)
        with zipfile.ZipFile(file, "w") as target:
            contents = _in_order(lambda record: bytes(_content(archive, whole, record)), archive.records)
            for record, content in zip(archive.records, contents, strict=True):
                target.writestr(_aligned(record.name, file.tell()), content)
        file.flush()
        LOG.info("%s: %s, read into memory in %.1f s", archive.path, archive.method, perf_counter() - begun)
        yield path


def _aligned(name: str, position: int) -> zipfile.ZipInfo:
    """Return the header of a record whose content starts at a multiple of `ALIGNMENT`."""
    info = zipfile.ZipInfo(name)
    padding = -(position + 30 + len(name.encode()) + 4) % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING, padding) + b"Z" * padding
    return info


@contextmanager
def _anonymous_file() -> Iterator[tuple[io.BufferedRandom, Path]]:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("checkpoint")
        with open(descriptor, "w+b") as file:
            yield file, Path(f"/proc/self/fd/{descriptor}")
        return
    with tempfile.NamedTemporaryFile(suffix=".ckpt") as named:
        yield named, Path(named.name)  # type: ignore[misc]
