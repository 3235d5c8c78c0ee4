"""The memory of a card, shared by the members of a machine that say how much each of them takes.

The scheduler admits members by ``forecast.gpu_mem_mb``. A member that falls back to the model's own pass takes more
than that, and so do those beside it. Instead of running out of memory they take turns: each gives back what it was
admitted with, and waits until what it needs now is free beside the others. Locks of files say who holds what, and end
with their process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

LOG = logging.getLogger(__name__)
_SAYS_SO_EVERY = 60.0


class CardRoom:
    """What one process takes of a card's memory; as a context manager, it is given back at the end.

    Parameters
    ----------
    card : the card's name, the same for every process that uses it (its UUID)
    total_mb : its memory, MB of 1e6 bytes
    folder : shared by the members of the machine
    pause : seconds between two looks
    """

    def __init__(self, card: str, total_mb: float, folder: Path | None = None, pause: float = 1.0):
        self._folder = folder or Path(tempfile.gettempdir()) / f"aifs-ensemble-room-{os.getuid()}"
        self._card = re.sub(r"[^\w-]+", "-", card)
        self._total, self._pause = total_mb, pause
        self._claim: tuple[Path, BinaryIO] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def take(self, mb: float, what: str, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Take so much instead of what was taken before, once it fits beside what others hold.

        One process alone on the card never waits, whatever it asks for. Returns False if `stopped` became true first.
        """
        self.give_back()
        told = 0.0
        while not self._try(mb):
            if stopped():
                return False
            if not told or time.monotonic() - told > _SAYS_SO_EVERY:
                told = time.monotonic()
                LOG.warning(
                    "%s takes %.1f GB of a card of %.1f GB and waits for the members beside it",
                    what, mb / 1000, self._total / 1000,
                )  # fmt: skip
            time.sleep(self._pause)
        return True

    def give_back(self) -> None:
        """Hold nothing."""
        if self._claim is not None:
            path, file = self._claim
            path.unlink(missing_ok=True)
            file.close()
            self._claim = None

    def _try(self, mb: float) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            others = self._others()
            if others and sum(others) + mb > self._total:
                return False
            path = self._folder / f"{self._card}~{os.getpid()}-{id(self)}~{round(mb)}.room"
            file = open(path, "wb")  # noqa: SIM115 - held until it is given back
            fcntl.flock(file, fcntl.LOCK_EX)
            self._claim = (path, file)
        return True

    def _others(self) -> list[float]:
        """Return what each other process holds of the card; what dead ones left is removed."""
        found = []
        for path in self._folder.glob(f"{self._card}~*.room"):
            with suppress(FileNotFoundError), open(path, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                except BlockingIOError:
                    found.append(float(path.stem.rpartition("~")[2]))
        return found
