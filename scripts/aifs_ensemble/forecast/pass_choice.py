"""Which forward pass a member takes: the same from its first lead to its last, and one that its card has room for.

The two passes differ in their last bits, so the pass belongs to the settings under which a member is made. One that
began with the model's own goes on with it, even if the accelerated one would do by now. One that began accelerated and
cannot go on so is made afresh, by the next attempt.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch

from aifs_ensemble.common.acceleration import Acceleration
from aifs_ensemble.common.card_room import CardRoom
from aifs_ensemble.common.errors import PassChangedError
from aifs_ensemble.common.names import member_name
from aifs_ensemble.model.check_records import CheckRecords, check_key

if TYPE_CHECKING:
    from aifs_ensemble.forecast.request import ForecastRequest


class Stop(Protocol):
    """Knows whether the process was told to stop, and the error that says so."""

    received: signal.Signals | None

    def error(self, where: str, left: str) -> Exception: ...


class PassChoice:
    """The choice of one attempt; as a context manager it holds the member's share of the card.

    Parameters
    ----------
    checkpoint : SHA-256 of the checkpoint
    device : the card's name
    note : records facts about this attempt
    stop : knows whether the process was told to stop
    """

    def __init__(
        self,
        request: ForecastRequest,
        checkpoint: str,
        device: str,
        note: Callable[[Mapping[str, Any]], None],
        stop: Stop,
    ):
        self._request, self._note, self._stop = request, note, stop
        self._where = f"{request.cycle} {member_name(request.member)}"
        self.records = CheckRecords.here(check_key(checkpoint, device, request.settings))
        self._kind = "cpu" if device == "cpu" else "cuda"
        self._room = card_room() if self._kind == "cuda" else None

    def __enter__(self) -> Self:
        request = self._request
        if request.own_pass and self._room:  # what an accelerated pass may have left
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()
        wanted: float = request.gpu_mem_mb
        if request.own_pass and request.accelerate and wanted:
            wanted = max(wanted, request.model.own_pass_mb(request.settings.chunks))
        if self._room and wanted and not self._room.take(wanted, self._where, self._stopped):
            raise self._stop.error(self._where, "nothing made by this process")
        return self

    def __exit__(self, *_: object) -> None:
        if self._room:
            self._room.give_back()

    @property
    def options(self) -> dict[str, Any]:
        """What the stepper must know."""
        return {"own": self._request.own_pass, "known": self.records.read(), "on_fall_back": self._give_up}

    def turn(self) -> AbstractContextManager[None]:
        """While it lasts no member beside this one compares the passes, where there are two to compare."""
        request = self._request
        two = not request.own_pass and not request.settings.not_accelerated(self._kind)
        return self.records.turn(self._stopped) if two else nullcontext()

    def made(self, acceleration: Acceleration) -> Acceleration:
        """Record which pass it is, and return the record: its absence is as planned where the settings turn it off."""
        acceleration = replace(acceleration, asked=acceleration.asked and self._request.accelerate)
        self._note({"acceleration": acceleration.to_json()})
        return acceleration

    def _give_up(self, acceleration: Acceleration) -> None:
        """End this try: its remains hold the card's memory, and the other pass makes a member of other bytes."""
        self.made(acceleration)
        self._request.settings.refuse(acceleration.reason)
        raise PassChangedError(self._where, acceleration.reason)

    def _stopped(self) -> bool:
        return self._stop.received is not None


def card_room() -> CardRoom:
    """Return the room on the card that this process uses."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return CardRoom(str(properties.uuid), properties.total_memory / 1e6)
