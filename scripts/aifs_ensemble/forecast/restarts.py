"""Restart states: what a forecast needs to go on after a lead as if it had never stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import InputError, WorkflowError
from aifs_ensemble.common.files import encode_crc32c
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.names import parse_cycle, parse_restart_file, restart_file
from aifs_ensemble.common.text import foreign
from aifs_ensemble.fields.state import State, read_state, write_state

if TYPE_CHECKING:
    import torch

    from aifs_ensemble.forecast.rollout import Snapshot

LOG = logging.getLogger(__name__)
_CHUNK = 4 << 20


def as_utc(time: datetime) -> datetime:
    """Return a time as UTC, a naive one being UTC already."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


@dataclass(frozen=True)
class RestartStore:
    """The restart states of one member: ``hLLL.safetensors`` in `folder`.

    Each holds the prognostic fields at the last two times, the running sums and the statistics of the running day if
    there are any, checksums of all and `fingerprint`, the digest of the settings under which they were made.
    """

    folder: Path
    model: Model
    cycle: str
    member: int
    fingerprint: str
    sums: bool
    daily: bool = False

    def path(self, lead: int) -> Path:
        """Return the file of the restart state after `lead` hours."""
        return self.folder / restart_file(lead)

    def leads(self) -> list[int]:
        """Return the leads after which there is a restart state, in order."""
        leads = (parse_restart_file(path.name) for path in self.folder.glob("*.safetensors"))
        return sorted(lead for lead in leads if lead is not None)

    def newest(self, limit: int) -> tuple[int, State] | None:
        """Return the newest sound restart state after at most `limit` hours, or None.

        A damaged one, or one made under other settings, is removed with a line in the log.
        """
        for lead in reversed(self.leads()):
            if lead <= limit:
                try:
                    return lead, self.read(lead)
                except InputError as error:
                    LOG.warning("restart state removed: %s", error)
                    self.path(lead).unlink(missing_ok=True)
        return None

    def read(self, lead: int) -> State:
        """Return the restart state after `lead` hours; InputError unless it is sound and this forecast's."""
        path = self.path(lead)
        state = read_state(path, variables=self.model.prognostic, grid=self.model.grid)
        now = parse_cycle(self.cycle) + timedelta(hours=lead)
        step = timedelta(hours=self.model.timestep_hours)
        for what, found, expected in (
            ("cycle", state.cycle, self.cycle),
            ("member", state.member, self.member),
            ("times", [as_utc(t).isoformat() for t in state.times], [(now - step).isoformat(), now.isoformat()]),
            ("fingerprint", state.provenance.get("fingerprint"), self.fingerprint),
            ("arrays", sorted(state.extra), ["accumulated"] * self.sums + ["daily"] * self.daily),
            ("crc32c", _checksums(state.fields, state.extra), state.provenance.get("crc32c")),
        ):
            if found != expected:
                raise InputError(f"{path}: {what} {foreign(found)}, expected {expected}")
        return state

    def write(
        self,
        lead: int,
        fields: npt.NDArray[np.float32],
        sums: npt.NDArray[np.float32] | None,
        daily: npt.NDArray[np.float32] | None = None,
    ) -> Path:
        """Write the restart state after `lead` hours atomically and return its path.

        Parameters
        ----------
        fields : ``(time, variable, value)``, prognostic variables in the order of the model entry
        sums : ``(variable, value)``, running sums of the accumulated variables, or None
        daily : ``(statistic, value)``, `DailyFields.values` of the running day, or None
        """
        now = parse_cycle(self.cycle) + timedelta(hours=lead)
        extra = {name: array for name, array in (("accumulated", sums), ("daily", daily)) if array is not None}
        state = State(
            fields=fields,
            times=(now - timedelta(hours=self.model.timestep_hours), now),
            variables=self.model.prognostic,
            units=("",) * len(self.model.prognostic),
            grid=self.model.grid,
            cycle=self.cycle,
            member=self.member,
            provenance={
                "made_by": "restart",
                "lead": lead,
                "fingerprint": self.fingerprint,
                "accumulated": list(self.model.accumulated) if self.sums else [],
                "crc32c": _checksums(fields, extra),
            },
            extra=extra,
        )
        write_state(self.path(lead), state)
        return self.path(lead)

    def prune(self, keep: int, first_missing: int | None) -> None:
        """Remove all but the newest `keep` states and the one from which the first missing lead follows."""
        leads = self.leads()
        needed = set(leads[-keep:])
        if first_missing is not None:
            needed |= set([lead for lead in leads if lead < first_missing][-1:])
        for lead in leads:
            if lead not in needed:
                self.path(lead).unlink(missing_ok=True)


def _checksums(fields: npt.NDArray[np.float32], extra: dict[str, npt.NDArray[np.float32]]) -> dict[str, str]:
    return {name: _crc32c(array) for name, array in sorted({"fields": fields, **extra}.items())}


def _crc32c(array: npt.NDArray[np.float32]) -> str:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    value = 0
    for start in range(0, data.size, _CHUNK):  # in pieces: the interpreter's lock is held over each
        value = google_crc32c.extend(value, data[start : start + _CHUNK])
    return encode_crc32c(value)


class RestartWriter:
    """Writes restart states in a thread, one at a time, so that the rollout goes on meanwhile.

    Use as a context manager: leaving it waits for the state being written.
    """

    def __init__(self, store: RestartStore):
        self._store = store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="restart")
        self._pending: tuple[int, Future[Path]] | None = None
        self._host: list[torch.Tensor | None] = []

    def __enter__(self) -> RestartWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True)

    def start(self, lead: int, snapshot: Snapshot) -> list[tuple[int, Path]]:
        """Start writing a `Rollout.snapshot`; return the state finished meanwhile, waiting for it if need be."""
        import torch

        finished = self.finished(wait=True)
        if not self._host:
            # page-locked memory takes long to get, and one state is written at a time
            pinned = any(tensor is not None and tensor.is_cuda for tensor in snapshot)
            self._host = [None if x is None else torch.empty(x.shape, pin_memory=pinned) for x in snapshot]
        self._pending = (lead, self._executor.submit(self._write, lead, to_host(snapshot, self._host)))
        return finished

    def finished(self, *, wait: bool = False) -> list[tuple[int, Path]]:
        """Return lead and path of the state written since the last call; an error of its writing is raised here."""
        if self._pending is None or not (wait or self._pending[1].done()):
            return []
        (lead, future), self._pending = self._pending, None
        try:
            return [(lead, future.result())]
        except (OSError, WorkflowError) as error:
            error.add_note(f"while writing the restart state after {lead} h")
            raise

    def _write(self, lead: int, arrays: Callable[[], list[Any]]) -> Path:
        return self._store.write(lead, *arrays())


def to_host(tensors: Sequence[torch.Tensor | None], host: Sequence[torch.Tensor | None]) -> Callable[[], list[Any]]:
    """Start copying tensors into those of `host`; the function returned waits for the copies and gives them as arrays.

    From a GPU the copies run beside its work, on a stream of their own.
    """
    import torch

    pairs = [(copy, x) for copy, x in zip(host, tensors, strict=True) if copy is not None and x is not None]
    device = pairs[0][1].device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for copy, tensor in pairs:
            copy.copy_(tensor, non_blocking=True)
            if stream is not None:
                tensor.record_stream(stream)
    event = None if stream is None else stream.record_event()

    def wait() -> list[Any]:
        if event is not None:
            event.synchronize()
        return [None if copy is None else copy.numpy() for copy in host]

    return wait
