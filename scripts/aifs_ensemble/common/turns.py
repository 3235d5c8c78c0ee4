"""Turns: of the processes that share something on this machine, a few at a time have it and the others wait.

A turn is a lock on a file, which the kernel takes back from a process that dies. It is a courtesy between processes
that are better off one after the other, not a guard: nothing becomes wrong when two have it. So a holder that shows no
sign of life for longer than the patience of those who wait is passed by.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.02


def turns_folder() -> Path:
    """Return the folder of this machine's turns, one for each user."""
    return Path(tempfile.gettempdir()) / f"aifs-ensemble-turns-{os.getuid()}"


class Turn:
    """A turn at something that at most `places` processes of this machine have at once.

    Parameters
    ----------
    name : what it is a turn at, e.g. ``computing-GPU-1a2b``
    places : how many may have it at once; 0 for any number, and then nobody waits
    patience : seconds after which a waiting process passes by holders that show no `sign_of_life`
    folder : holds a file per place, by default `turns_folder`

    Attributes
    ----------
    waited : seconds spent waiting
    """

    def __init__(self, name: str, places: int, *, patience: float, folder: Path | None = None):
        folder = folder or turns_folder()
        self._name, self._patience = name, patience
        self._paths = [folder / f"{name}-{place}.turn" for place in range(places)]
        self._held: BinaryIO | None = None
        self.waited = 0.0

    @contextmanager
    def taken(self, given_up: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Wait for the turn, have it, and give it back; yields False when `given_up` said so before it came."""
        mine = self.take(given_up)
        try:
            yield mine
        finally:
            self.give_back()

    def take(self, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the turn has come; return False when `given_up` said so before."""
        start = time.monotonic()
        try:
            while self._paths and not self._try():
                if given_up():
                    return False
                if time.monotonic() - start > self._patience and self._silent_for() > self._patience:
                    LOG.warning("%s: no sign of life of those whose turn it is, going on beside them", self._name)
                    return True
                time.sleep(_POLL_SECONDS)
            return True
        except OSError as error:
            LOG.warning("%s: no turns here (%s), going on without", self._name, error)
            return True
        finally:
            self.waited += time.monotonic() - start

    def sign_of_life(self) -> None:
        """Show those who wait that the turn is in use."""
        if self._held is not None:
            with suppress(OSError):
                os.utime(self._held.fileno())

    def give_back(self) -> None:
        """Let the next one have the turn; nothing where it is not held."""
        held, self._held = self._held, None
        if held is not None:
            # by name, not by closing: a process that was forked meanwhile shares the open file
            fcntl.flock(held, fcntl.LOCK_UN)
            held.close()

    def _try(self) -> bool:
        for path in self._paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab")  # noqa: SIM115 - held until it is given back
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            self._held = file
            self.sign_of_life()
            return True
        return False

    def _silent_for(self) -> float:
        """Return the seconds since the last sign of life at any place."""
        newest = max((path.stat().st_mtime for path in self._paths if path.exists()), default=0.0)
        return time.time() - newest
