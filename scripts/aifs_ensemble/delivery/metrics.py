"""A member's sampled metrics at the destination, where machines come and go and the account is made elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.delivery.kept_object import KeptObject

INTERVAL = 30.0


class MetricsDelivery(Observer):
    """Keeps a member's metrics at the destination while it is entered.

    First it takes back what machines before this one left, so that the sampler, entered after it, appends to that:
    the last row of a machine that was taken away, at most `interval` seconds before its end, is how an account knows
    when that was.
    """

    def __init__(self, config: Config, member: int, *, interval: float = INTERVAL):
        self._path, self._key = config.scratch.metrics(member), config.objects.metrics(member)
        name = f"metrics of member {member}"
        self._kept = KeptObject(config, name, self._key, self._content, interval=interval)

    def __enter__(self) -> Self:
        try:
            if not self._path.exists() and self._kept.storage.stat(self._key) is not None:
                self._kept.storage.get_file(self._key, self._path)
        except Exception as error:
            self._kept.complain(error)
        self._kept.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.end()

    def _content(self) -> bytes:
        return self._path.read_bytes() if self._path.exists() else b""
