"""A member's sampled metrics at the destination, where machines come and go and the account is made elsewhere."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import Storage, open_destination

LOG = logging.getLogger(__name__)
INTERVAL = 30.0


class MetricsDelivery:
    """Keeps a member's metrics at the destination while it is entered, from a thread of its own.

    First it takes back what machines before this one left, so that the sampler, entered after it, appends to that:
    the last row of a machine that was taken away, at most `interval` seconds before its end, is how an account knows
    when that was. A destination that does not answer is said once in the log; nothing here stops a forecast.
    """

    def __init__(self, config: Config, member: int, storage: Storage | None = None, *, interval: float = INTERVAL):
        self._config, self._storage, self._interval = config, storage, interval
        self._member = member
        self._path, self._key = config.scratch.metrics(member), config.keys_.metrics(member)
        self._sent = b""
        self._complained = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"metrics-delivery-{member}", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._storage = self._storage or open_destination(self._config)
            if not self._path.exists() and self._storage.stat(self._key) is not None:
                self._storage.get_file(self._key, self._path)
        except Exception as error:
            self._complain(error)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # a preempted machine has seconds left
        self._thread.join(timeout=10.0)

    def _keep(self) -> None:
        while not self._stop.wait(self._interval):
            self._send()
        self._send()

    def _send(self) -> None:
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
            if content != self._sent:
                self._storage = self._storage or open_destination(self._config)
                self._storage.put_bytes(content, self._key, overwrite=True)
                self._sent = content
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            LOG.warning("metrics of member %d not at the destination: %s", self._member, error)
        self._complained = True
