"""A small object at the destination that a thread keeps current while a member runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import Storage, open_destination

LOG = logging.getLogger(__name__)
# The last content is worth a moment: a preempted machine has seconds left.
PATIENCE = 10.0


class KeptObject:
    """Sends the content of one object whenever it has changed, at most once in `interval` seconds.

    A destination that does not answer is said once in the log; nothing here stops a forecast.

    Parameters
    ----------
    name : names object and member in the log, e.g. ``status of member 3``
    content : returns the bytes to be kept, empty for nothing yet; called from the thread
    storage : the destination, opened from the configuration when it is needed if None
    """

    def __init__(
        self,
        config: Config,
        name: str,
        key: str,
        content: Callable[[], bytes],
        storage: Storage | None = None,
        *,
        interval: float,
    ):
        self._config, self._name, self._key, self._content = config, name, key, content
        self._storage, self._interval = storage, interval
        self._sent = b""
        self._complained = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def storage(self) -> Storage:
        """The destination."""
        self._storage = self._storage or open_destination(self._config)
        return self._storage

    def start(self) -> None:
        """Send what there is, and go on in a thread."""
        self._thread = threading.Thread(target=self._keep, name=self._name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Send the last content and stop; may come before `start`, and again for content that changed since."""
        self._over.set()
        if self._thread is None or not self._thread.is_alive():
            self.start()
        assert self._thread is not None
        self._thread.join(PATIENCE)

    def complain(self, error: Exception) -> None:
        """Say in the log that the object is not kept, once."""
        if not self._complained:
            LOG.warning("%s not at the destination: %s", self._name, error)
        self._complained = True

    def _keep(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()
            self._send()
            if not over:
                self._over.wait(self._interval)

    def _send(self) -> None:
        try:
            content = self._content()
            if content != self._sent:
                self.storage.put_bytes(content, self._key, overwrite=True)
                self._sent = content
        except Exception as error:
            self.complain(error)
