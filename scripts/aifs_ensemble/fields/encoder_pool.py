"""A pool of encoder processes on shared memory: fields in, one GRIB file per lead out.

The forecast copies a lead's fields into a slot and goes on; encoders share its fields between them,
and the one that finishes last writes the file. The forecast's process does nothing in between, and
nothing but names goes through pipes. A full pool makes `acquire` wait, which is the back-pressure.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import DiskFullError, EncodingError, NotFiniteError, WorkflowError
from aifs_ensemble.common.manifest import LeadRecord, lead_record
from aifs_ensemble.fields.encoder_process import NO_LEAD, STOPS, TASK, SharedMemory
from aifs_ensemble.fields.grib_encoder import OutputSpec, output_spec

__all__ = ["EncoderPool", "OutputSpec", "Slot", "output_spec"]

LOG = logging.getLogger(__name__)

_LIBRARY = Path(__file__).parents[2]
_ERRORS: dict[str, type[WorkflowError]] = {e.__name__: e for e in (EncodingError, DiskFullError, NotFiniteError)}
_NICENESS = 5  # the thread that feeds the GPU goes first
_STOP_SECONDS = 10.0
_PATIENCE_SECONDS = 60.0
# Longest silence of all encoders while leads are in flight: a lead takes seconds, and a machine that waits is paid for.
GIVE_UP_SECONDS = 600.0
_LOOK_UP_SECONDS = 1.0


class SilentEncodersError(EncodingError):
    """No encoder process answers any more."""


@dataclass(frozen=True, eq=False)
class Slot:
    """Room for one lead: `array` is float32 ``(row, value)`` in shared memory, in the model's units.

    The rows are those of `OutputSpec.rows`, and of a lead that ends a day its daily statistics.

    Once submitted, its content belongs to the encoders, which overwrite it.
    """

    number: int
    array: npt.NDArray[np.float32]


class _Process:
    """One encoder and the pipe on which it answers."""

    def __init__(self, setup: dict, inherited: tuple[int, ...]):
        self.answers, theirs = os.pipe()
        os.set_blocking(self.answers, False)
        self._rest = b""
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_LIBRARY), os.environ.get("PYTHONPATH")]))
        # held back until the encoder ignores them
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            self.process = subprocess.Popen(
                # -P: the working folder, which may hold anything, stays off the module path
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "aifs_ensemble.fields.encoder_process",
                    json.dumps({**setup, "answers": theirs}),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(*inherited, theirs),
                env=environment,
            )
        except OSError as error:
            os.close(self.answers)
            raise EncodingError(f"encoder process: {error}, expected {sys.executable} to start") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(theirs)

    def read(self) -> list[dict] | None:
        """Return the answers that have come, or None once the process has ended."""
        try:
            chunk = os.read(self.answers, 1 << 16)
        except BlockingIOError:
            return []
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self, deadline: float) -> None:
        """Wait until `deadline` for the process to end by itself, then kill it."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            LOG.warning("encoder process %d does not stop, killing it", self.process.pid)
            self.process.kill()
            self.process.wait()
        os.close(self.answers)


def _shared_memory(size: int) -> int:
    """Return the descriptor of new anonymous memory: it has no name, so nothing can leak."""
    if hasattr(os, "memfd_create"):  # also independent of the size of /dev/shm, 64 MB in containers
        fd = os.memfd_create("aifs-ensemble-leads")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


class EncoderPool:
    """Encoder processes of one member; a context manager.

    Parameters
    ----------
    spec : what to write; the interpolation weights of its coarse files are made before the first lead is submitted
    folder : where leads are published, each under its final name with its index, or not at all
    processes : number of encoder processes, started afresh: they share nothing with this one but memory
    slots : leads that may be in flight
    longest_silence : says, whenever it is asked, for how many seconds no encoder may answer while leads are in flight

    `buffer` is all slots as one contiguous array, float32 ``(slot, variable, value)``, page-aligned, so
    that CUDA can lock it (and must unlock it before `close`). Bytes do not depend on the number of
    processes. A field that is not finite, a full disk or an encoder that dies ends the pool: leads that
    were whole are still handed out by `completed`, then it, `acquire` and `drain` raise the error.
    """

    def __init__(
        self,
        spec: OutputSpec,
        folder: Path,
        processes: int,
        slots: int = 3,
        longest_silence: Callable[[], float] = lambda: GIVE_UP_SECONDS,
    ):
        if processes < 1 or slots < 1:
            raise EncodingError(f"encoders: {processes} processes and {slots} slots, expected at least one of each")
        folder.mkdir(parents=True, exist_ok=True)
        self.spec, self.folder = spec, folder
        shared = SharedMemory.of(spec, slots)
        self._workers: list[_Process] = []
        self._submitted: list[int] = []
        self._published: dict[int, LeadRecord] = {}
        self._error: WorkflowError | None = None
        self._failed_lead = NO_LEAD
        self._closed = False
        self._longest_silence = longest_silence
        self._heard = self._complained = time.monotonic()
        self._memory_fd = _shared_memory(shared.size)
        self._memory = mmap.mmap(self._memory_fd, shared.size)
        self.buffer = shared.data(self._memory)
        self._control = shared.control(self._memory)
        self._free = list(range(slots))
        reading, self._tasks = os.pipe()
        os.set_blocking(reading, False)
        setup = {
            "spec": spec.to_json(),
            "folder": str(folder.absolute()),
            "shared": asdict(shared),
            "memory": self._memory_fd,
            "tasks": reading,
            "nice": _NICENESS,
        }
        try:
            for _ in range(processes):
                self._workers.append(_Process(setup, (self._memory_fd, reading)))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(reading)

    def __enter__(self) -> EncoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def acquire(self, timeout: float | None = None) -> Slot:
        """Return a free slot, waiting for one; TimeoutError after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._listen(0)
        while not self._free:
            self._raise_error()
            left = _PATIENCE_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no slot free after {timeout} s: {len(self._submitted)} leads in flight")
            self._wait(left)
        self._raise_error()
        number = self._free.pop(0)
        return Slot(number, self.buffer[number])

    def release(self, slot: Slot) -> None:
        """Give back a slot that is not going to be submitted."""
        self._free.append(slot.number)

    def leave_out_coarse(self) -> None:
        """Have no coarse files made, before the first lead is submitted."""
        self._control[-1, 1] = 1

    def submit(self, slot: Slot, lead: int) -> None:
        """Hand a filled slot to the encoders as `lead` hours; returns at once."""
        self._raise_error()
        self._control[slot.number] = 0
        self._submitted.append(lead)
        self._heard = self._complained = time.monotonic()
        tasks = b"".join(TASK.pack(lead, slot.number, field) for field in range(len(self.spec.fields_at(lead))))
        try:
            os.write(self._tasks, tasks)
        except BrokenPipeError:
            self._listen(0)
            self._fail(EncodingError("all encoder processes have ended, expected them to wait for fields"))
            self._raise_error()

    def completed(self) -> list[LeadRecord]:
        """Return the leads published since the last call, in the order of submission, without waiting.

        Raises EncodingError, DiskFullError or NotFiniteError if the pool has failed and no more are whole.
        """
        self._listen(0)
        records = self._take()
        if not records:
            self._raise_error()
        return records

    def drain(self) -> list[LeadRecord]:
        """Wait for everything submitted and return what `completed` has not.

        Raises as `completed` does, after a field that is not finite once the leads before it are whole.
        """
        self._listen(0)
        while not isinstance(self._error, (EncodingError, DiskFullError)) and self._pending():
            self._wait(_PATIENCE_SECONDS)
        self._raise_error()
        return self._take()

    def _pending(self) -> bool:
        """True while a lead that can still become whole, and before any that cannot, is not published."""
        ahead = self._submitted
        if self._failed_lead in ahead:
            ahead = ahead[: ahead.index(self._failed_lead)]
        return any(lead not in self._published for lead in ahead)

    def close(self) -> None:
        """End the processes and let go of the memory, also after errors. Fields in flight are dropped."""
        if self._closed:
            return
        self._closed = True
        self._control[-1, 0] = 1
        os.close(self._tasks)
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            worker.close(deadline)
            for part in self.folder.glob(f".*.{worker.process.pid}.part"):
                part.unlink(missing_ok=True)
        os.close(self._memory_fd)
        del self.buffer, self._control, self._memory  # unmapped once nobody holds a slot

    def _take(self) -> list[LeadRecord]:
        records = []
        while self._submitted and self._submitted[0] in self._published:
            records.append(self._published.pop(self._submitted.pop(0)))
        return records

    def _wait(self, seconds: float) -> None:
        """Listen for up to `seconds` or a moment; complain of a long silence in the log, give up after a longer one.

        A signal does not end the listening by itself: whoever asks for less patience is heard after the moment.
        """
        if self._listen(min(seconds, _LOOK_UP_SECONDS)):
            return
        now = time.monotonic()
        silence, longest = now - self._heard, self._longest_silence()
        if silence >= longest:
            self._fail(
                SilentEncodersError(
                    f"no encoder process answered for {silence:.0f} s, {len(self._submitted)} leads in flight, "
                    f"expected one within {longest:.0f} s: {self.folder} may be on a disk that no longer answers"
                )
            )
        elif now - self._complained >= _PATIENCE_SECONDS:
            self._complained = now
            LOG.warning("no lead finished for %d s, %d in flight: is the disk slow?", silence, len(self._submitted))

    def _listen(self, seconds: float) -> bool:
        """Take in what the encoders say, waiting up to `seconds` for the first word; False if there was none."""
        if self._closed:
            raise EncodingError("encoders: the pool is closed, expected it open")
        workers = {worker.answers: worker for worker in self._workers if worker.process.returncode is None}
        poll = select.poll()
        for fd in workers:
            poll.register(fd, select.POLLIN)
        ready = poll.poll(1000 * seconds)
        if ready:
            self._heard = self._complained = time.monotonic()
        for fd, _ in ready:
            answers = workers[fd].read()
            if answers is None:
                code = workers[fd].process.wait()
                self._fail(EncodingError(f"encoder process {workers[fd].process.pid} ended with {_ending(code)}"))
                continue
            for answer in answers:
                self._take_in(answer)
        return bool(ready)

    def _take_in(self, answer: dict) -> None:
        if "error" in answer:
            self._fail(_ERRORS[answer["error"]](answer["text"]), answer["lead"])
            return
        record = lead_record(answer["record"])
        self._published[record.lead] = record
        self._free.append(answer["slot"])

    def _fail(self, error: WorkflowError, lead: int = NO_LEAD) -> None:
        # A fatal error replaces "not finite", which can be waited out; of several of these the earliest lead counts.
        waiting = self._error is None or isinstance(self._error, NotFiniteError)
        later = isinstance(error, NotFiniteError) and NO_LEAD < self._failed_lead < lead
        if waiting and not later:
            self._error, self._failed_lead = error, lead

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
