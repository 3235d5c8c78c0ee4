"""One encoder process: takes fields from shared memory and makes GRIB of them.

Started by `aifs_ensemble.fields.encoder_pool.EncoderPool`, never by hand. All encoders of a pool read the same
pipe, whose records name a field; what each has made lies where the field lay, because a message is
smaller than its float32 values. Whoever finishes the last field of a lead writes its file. Imports no
torch, and ends when the pipe does: that is, also when the forecast is killed.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import DiskFullError, EncodingError, NotFiniteError, WorkflowError
from aifs_ensemble.common.files import atomic_writer, crc32c_bytes, encode_crc32c
from aifs_ensemble.common.manifest import CoarseRecord, FileRecord, LeadRecord, record_json
from aifs_ensemble.common.names import coarse_file, index_file, lead_file
from aifs_ensemble.common.parameters import parts_of
from aifs_ensemble.fields.coarse_encoder import CoarseEncoder
from aifs_ensemble.fields.directions import Field, whole
from aifs_ensemble.fields.grib_encoder import FieldEncoder, OutputSpec
from aifs_ensemble.fields.grib_index import index_bytes, index_entry
from aifs_ensemble.fields.grids import grid_coordinates

# Lead, slot, number of the field. Pipes are filled by pages, of which 16 bytes are a divisor: a read never gets half
# a record.
TASK = struct.Struct("<iii4x")
NO_LEAD = -1
_POLL_SECONDS = 1.0
_LARGEST_HEADER = 4096  # bytes of a message beside its values, generously


@dataclass(frozen=True)
class SharedMemory:
    """Where things are in the memory that forecast and encoders share.

    The slots come first, float32 ``(slot, row, value)``, and on the next page the control block,
    int64 ``(slot, 1 + field + coarse variable)``: the number of fields done and the length of each message. Its last
    row holds the flags that stop the encoders, and that leave coarse files out. Messages of coarse fields, which may be
    larger than the model's, have room of their own after that: bytes ``(slot, coarse variable, coarse_room)``.
    """

    slots: int
    rows: int
    fields: int
    points: int
    coarse_variables: int = 0
    coarse_room: int = 0

    @classmethod
    def of(cls, spec: OutputSpec, slots: int) -> SharedMemory:
        """Return the layout for a member."""
        points = grid_coordinates(spec.grid).points
        rows = len(spec.rows) + len(spec.daily)
        if spec.coarse is None:
            return cls(slots, rows, len(spec.fields), points)
        room = 4 * grid_coordinates(spec.coarse.grid).points + _LARGEST_HEADER
        return cls(slots, rows, len(spec.fields), points, len(spec.coarse.variables), room)

    @property
    def data_bytes(self) -> int:
        return 4 * self.slots * self.rows * self.points

    @property
    def control_offset(self) -> int:
        return -(-self.data_bytes // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def control_shape(self) -> tuple[int, int]:
        return self.slots + 1, 1 + self.fields + self.coarse_variables

    @property
    def coarse_offset(self) -> int:
        return self.control_offset + 8 * self.control_shape[0] * self.control_shape[1]

    @property
    def size(self) -> int:
        return self.coarse_offset + self.slots * self.coarse_variables * self.coarse_room

    def data(self, memory: mmap.mmap) -> npt.NDArray[np.float32]:
        """Return the slots."""
        shape = (self.slots, self.rows, self.points)
        return np.frombuffer(memory, np.float32, self.data_bytes // 4).reshape(shape)

    def control(self, memory: mmap.mmap) -> npt.NDArray[np.int64]:
        """Return the control block."""
        shape = self.control_shape
        return np.frombuffer(memory, np.int64, shape[0] * shape[1], self.control_offset).reshape(shape)

    def coarse(self, memory: mmap.mmap) -> npt.NDArray[np.uint8]:
        """Return the room of the coarse messages."""
        shape = (self.slots, self.coarse_variables, self.coarse_room)
        return np.frombuffer(memory, np.uint8, shape[0] * shape[1] * shape[2], self.coarse_offset).reshape(shape)


Messages = list[npt.NDArray[np.uint8]]


def publish(
    folder: Path,
    spec: OutputSpec,
    lead: int,
    messages: Messages,
    coarse: Callable[[], CoarseRecord] | None = None,
) -> LeadRecord:
    """Write one lead's GRIB and index under their final names, the index first; return their record.

    The checksum is computed on the way. What `coarse` writes has its names before the lead has its own. Raises
    DiskFullError or EncodingError naming the file.
    """
    name = lead_file(spec.cycle, spec.member, lead)
    try:
        # A GRIB under its final name always has its own index beside it, also where an old one is replaced.
        (folder / name).unlink(missing_ok=True)
        beside = coarse() if coarse else None
        grib, index = _write(folder / name, spec, lead, messages)
    except OSError as error:
        place = error.filename or folder / name
        raise EncodingError(f"{place}: {error.strerror}, expected to write a lead") from error
    return LeadRecord(lead, grib, index, len(messages), beside)


def _write(
    path: Path,
    spec: OutputSpec,
    lead: int,
    messages: Messages,
    more: Callable[[str, npt.NDArray[np.uint8]], dict[str, Any]] = lambda variable, message: {},
) -> tuple[FileRecord, FileRecord]:
    """Write a GRIB file and, before it has its name, its index, whose lines also have the keys that `more` gives."""
    index_path = path.with_name(index_file(path.name))
    checksum, entries, offset = 0, [], 0
    with atomic_writer(path) as file:
        for field, message in zip(spec.fields_at(lead), messages, strict=True):
            file.write(message.data)
            checksum = google_crc32c.extend(checksum, message)
            entry = index_entry(spec, field.variable, lead, offset, message.size, field.statistic)
            entries.append(entry | more(field.variable, message))
            offset += message.size
        file.flush()
        index = index_bytes(entries)
        with atomic_writer(index_path) as index_out:
            index_out.write(index)
    return (
        FileRecord(path.name, offset, encode_crc32c(checksum)),
        FileRecord(index_path.name, len(index), crc32c_bytes(index)),
    )


class Encoder:
    """The work of one process on the shared memory."""

    def __init__(self, spec: OutputSpec, folder: Path, shared: SharedMemory, memory_fd: int):
        self._spec, self._folder, self._memory_fd = spec, folder, memory_fd
        memory = mmap.mmap(memory_fd, shared.size)
        self._data, self._control = shared.data(memory), shared.control(memory)
        self._coarse_room = shared.coarse(memory)
        self._coarse_rows = {name: row for row, name in enumerate(spec.coarse.variables)} if spec.coarse else {}
        self._fields = FieldEncoder(spec)
        places = {name: row for row, name in enumerate(spec.rows)}
        # of each variable; what is made of it lies in the first
        self._rows = [[places[part] for part in parts_of(variable)] for variable in spec.variables]
        self._rows += [[len(places) + number] for number in range(len(spec.daily))]

    @property
    def stopped(self) -> bool:
        return bool(self._control[-1, 0])

    @property
    def _wants_coarse(self) -> bool:
        return self._spec.coarse is not None and not self._control[-1, 1]

    @cached_property
    def _coarse(self) -> CoarseEncoder:
        """The encoder of coarse fields, made when the first one comes: until then the weights may not be there."""
        return CoarseEncoder(self._spec)

    def handle(self, lead: int, slot: int, number: int) -> LeadRecord | None:
        """Encode one field in place; publish the lead if it was the last of it, and return its record."""
        field = self._spec.fields[number]
        rows = [self._data[slot, row] for row in self._rows[number]]
        message = self._fields.encode(field.variable, lead, whole(rows), statistic=field.statistic)
        row = rows[0]
        length = len(message)
        if length > row.nbytes:
            raise EncodingError(
                f"{field} at lead {lead} h: message of {length} bytes, expected at most "
                f"{row.nbytes}, which is what float32 takes on grid {self._spec.grid}"
            )
        if not field.statistic:
            self._handle_coarse(lead, slot, field.variable, rows, message)  # before the message takes the field's place
        row.view(np.uint8)[:length] = np.frombuffer(message, np.uint8)
        count = len(self._spec.fields_at(lead))
        if not self._last_of_lead(slot, number, length, count):
            return None
        lengths = self._control[slot, 1 : 1 + count].tolist()
        places = self._data[slot].view(np.uint8)
        messages = [places[rows[0], :length] for rows, length in zip(self._rows[:count], lengths, strict=True)]
        coarse = partial(self._publish_coarse, lead, slot) if self._wants_coarse else None
        return publish(self._folder, self._spec, lead, messages, coarse)

    def _handle_coarse(
        self, lead: int, slot: int, name: str, parts: Sequence[Field], beside: bytes | memoryview
    ) -> None:
        row = self._coarse_rows.get(name)
        if row is None or not self._wants_coarse:
            return
        message = self._coarse.encode(name, lead, parts, beside)
        room = self._coarse_room[slot, row]
        if len(message) > room.nbytes:
            raise EncodingError(f"{name} at lead {lead} h: coarse message of {len(message)} bytes, expected at most "
                                f"{room.nbytes} on grid {self._coarse.spec.grid}")  # fmt: skip
        room[: len(message)] = np.frombuffer(message, np.uint8)
        self._control[slot, 1 + len(self._spec.fields) + row] = len(message)

    def _publish_coarse(self, lead: int, slot: int) -> CoarseRecord:
        coarse, wanted = self._coarse, self._spec.coarse
        assert wanted is not None
        lengths = self._control[slot, 1 + len(self._spec.fields) :].tolist()
        messages = [self._coarse_room[slot, row, :length] for row, length in enumerate(lengths)]
        path = self._folder / coarse_file(self._spec.cycle, self._spec.member, lead, wanted.grid)
        grib, index = _write(path, coarse.spec, lead, messages, coarse.index_keys)
        everything = wanted.variables == self._spec.variables and not self._spec.selected
        variables: Any = "all" if everything else wanted.variables
        return CoarseRecord(wanted.grid, variables, wanted.methods, coarse.digests, grib, index, len(messages))

    def _last_of_lead(self, slot: int, number: int, length: int, count: int) -> bool:
        with self._locked():
            self._control[slot, 1 + number] = length
            self._control[slot, 0] += 1
            return int(self._control[slot, 0]) == count

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A record lock belongs to its process, and the kernel takes it back from one that dies.
        fcntl.lockf(self._memory_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._memory_fd, fcntl.LOCK_UN)


def _tasks(fd: int, encoder: Encoder) -> Iterator[tuple[int, int, int]]:
    """Yield tasks until the pipe ends, the pool stops or the forecast is gone.

    The forecast's death ends the pipe, unless a process that it forked has inherited the other end:
    hence the look at the parent.
    """
    parent = os.getppid()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while os.getppid() == parent and not encoder.stopped:
        if not poll.poll(_POLL_SECONDS * 1000):
            continue
        try:
            record = os.read(fd, TASK.size)
        except BlockingIOError:  # another encoder was quicker
            continue
        if not record:
            return
        if not encoder.stopped:
            yield TASK.unpack(record)


def _failure(error: BaseException, lead: int) -> dict[str, Any]:
    known = isinstance(error, (NotFiniteError, DiskFullError, EncodingError))
    text = str(error) if isinstance(error, WorkflowError) else f"{type(error).__name__}: {error}"
    return {"lead": lead, "error": type(error).__name__ if known else "EncodingError", "text": text}


def run(setup: dict[str, Any]) -> None:
    """Encode until told to stop."""
    answers = setup["answers"]

    def tell(content: dict[str, Any]) -> None:
        os.write(answers, (json.dumps(content) + "\n").encode())

    try:
        spec, shared = OutputSpec.from_json(setup["spec"]), SharedMemory(**setup["shared"])
        encoder = Encoder(spec, Path(setup["folder"]), shared, setup["memory"])
    except WorkflowError as error:
        tell(_failure(error, NO_LEAD))
        return
    for lead, slot, number in _tasks(setup["tasks"], encoder):
        try:
            record = encoder.handle(lead, slot, number)
        except (WorkflowError, OSError, ValueError, MemoryError) as error:
            tell(_failure(error, lead))
            continue
        if record is not None:
            tell({"slot": slot, "record": record_json(record)})


# Ctrl-C, and what batch systems send: they reach the whole group, and the forecast decides
STOPS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run one encoder, as the JSON in the first argument says."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    setup = json.loads(sys.argv[1])
    os.nice(setup["nice"])
    try:
        run(setup)
    except BrokenPipeError:
        return


if __name__ == "__main__":
    main()
