"""Fields on their way from the device to the encoder processes.

A step's output is gathered on the device, copied to a slot of shared memory on a stream of its own, and handed
to the encoders once it has arrived. The copy of one step runs while the next step computes; the only wait is
for the event behind the copy of the step before.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch

from aifs_ensemble.common.daily import LeadField, fields_at
from aifs_ensemble.common.errors import NotFiniteError
from aifs_ensemble.common.models import Model
from aifs_ensemble.fields.encoder_pool import EncoderPool, Slot
from aifs_ensemble.forecast.rollout import Rollout
from aifs_ensemble.forecast.sound_fields import SoundFields

LOG = logging.getLogger(__name__)


@dataclass
class _Ticket:
    """A step whose output is under way, or which has none to deliver."""

    lead: int
    seconds: Callable[[], float]
    slot: Slot | None = None
    finite: torch.Tensor | None = None
    event: torch.cuda.Event | None = None


class FieldTransfer:
    """Brings the output of steps from the device to the encoders, in order.

    Parameters
    ----------
    pool : encoder processes
    rollout : whose outputs are delivered
    model, rows : the model, and which of its outputs are the rows of a slot
    where : names the member in error messages
    daily : the further rows of a lead that ends a day

    Attributes
    ----------
    waited : seconds spent waiting for a free slot
    watched : seconds spent waiting for the device, which computes meanwhile
    """

    def __init__(
        self,
        pool: EncoderPool,
        rollout: Rollout,
        model: Model,
        rows: Sequence[str],
        where: str,
        daily: Sequence[LeadField] = (),
    ):
        self._pool = pool
        self._rollout = rollout
        self._plain, self._daily = tuple(map(LeadField, rows)), tuple(daily)
        self._fields = (*self._plain, *self._daily)
        self._where = where
        self._device = device = rollout.inputs.device
        by_rows = {len(fields): [field.variable for field in fields] for fields in (self._plain, self._fields)}
        self._sound = {n: SoundFields(model, names, rollout.places, device) for n, names in by_rows.items()}
        self._tickets: deque[_Ticket] = deque()
        self.waited = self.watched = 0.0
        self._cuda = device.type == "cuda"
        if self._cuda:
            _pin(pool.buffer)
            shape = (len(self._fields), rollout.places.points)
            self._stream = torch.cuda.Stream(device)
            self._staging = torch.empty(shape, device=device)
            self._flags = torch.empty(len(self._fields), dtype=torch.bool, pin_memory=True)

    def __enter__(self) -> FieldTransfer:
        return self

    def __exit__(self, *_: object) -> None:
        self._tickets.clear()
        if self._cuda:
            self._stream.synchronize()
            _unpin(self._pool.buffer)

    def send(self, lead: int, output: torch.Tensor, seconds: Callable[[], float]) -> None:
        """Start delivering a step's output ``(value, variable)``; waits while no slot is free.

        What was sent before must have been taken in by `arrivals`.
        """
        assert not self._tickets, "a step was sent before the one before it had arrived"
        start = perf_counter()
        slot = self._pool.acquire()
        self.waited += perf_counter() - start
        if self._cuda:
            self._tickets.append(self._send_from_gpu(lead, output, seconds, slot))
            return
        rows = self._rows(lead)
        fields = torch.from_numpy(slot.array[:rows])
        self._rollout.gather(output, fields)
        self._tickets.append(_Ticket(lead, seconds, slot, self._sound[rows](fields, self._rollout.newest)))

    def _rows(self, lead: int) -> int:
        return len(fields_at(lead, self._plain, self._daily))

    def _send_from_gpu(self, lead: int, output: torch.Tensor, seconds: Callable[[], float], slot: Slot) -> _Ticket:
        rows = self._rows(lead)
        staging, flags = self._staging[:rows], self._flags[:rows]
        self._rollout.gather(output, staging)
        finite = self._sound[rows](staging, self._rollout.newest)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            torch.from_numpy(slot.array[:rows]).copy_(staging, non_blocking=True)
            flags.copy_(finite, non_blocking=True)
            finite.record_stream(self._stream)
            event = self._stream.record_event()
        return _Ticket(lead, seconds, slot, flags, event)

    def skip(self, lead: int, seconds: Callable[[], float]) -> None:
        """Note a step whose output is not wanted."""
        event = torch.cuda.current_stream(self._device).record_event() if self._cuda else None
        self._tickets.append(_Ticket(lead, seconds, event=event))

    def arrivals(self, *, wait: bool = True) -> Iterator[tuple[int, float]]:
        """Hand to the encoders what was sent, yielding lead and seconds of each step now over.

        Waits for what is still under way, unless it need not `wait` for it. NotFiniteError names the variables of
        a lead that are not sound (`SoundFields`); that lead is not handed on.
        """
        while self._tickets and (wait or self._tickets[0].event is None):
            ticket = self._tickets.popleft()
            if ticket.event is not None:
                start = perf_counter()
                ticket.event.synchronize()
                self.watched += perf_counter() - start
            if ticket.slot is not None:
                self._check(ticket.slot, ticket)
                self._pool.submit(ticket.slot, ticket.lead)
            yield ticket.lead, ticket.seconds()

    def _check(self, slot: Slot, ticket: _Ticket) -> None:
        assert ticket.finite is not None
        if ticket.finite.all():
            return
        bad = [row for row, good in enumerate(ticket.finite.tolist()) if not good]
        counts = [int((~np.isfinite(slot.array[row])).sum()) for row in bad]
        named = ", ".join(f"{self._fields[row]} ({n} points)" for row, n in zip(bad[:5], counts, strict=False))
        more = f" and {len(bad) - 5} more variables" if len(bad) > 5 else ""
        raise NotFiniteError(f"{self._where} h{ticket.lead:03d}: NaN or infinity in {named}{more}, expected numbers")


def _pin(buffer: npt.NDArray[np.float32]) -> None:
    """Page-lock the shared memory of the slots, so that copies into it run beside computation."""
    status = torch.cuda.cudart().cudaHostRegister(buffer.ctypes.data, buffer.nbytes, 0)
    if int(status) != 0:
        LOG.warning("shared memory could not be page-locked (CUDA error %s): copies will hold up the steps", status)


def _unpin(buffer: npt.NDArray[np.float32]) -> None:
    """Undo `_pin`, before the memory goes."""
    torch.cuda.cudart().cudaHostUnregister(buffer.ctypes.data)
