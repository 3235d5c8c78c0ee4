"""What a running forecast tells the rest: delivery, status, metrics and the terminal listen here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from aifs_ensemble.common.manifest import LeadRecord, MemberManifest

LOG = logging.getLogger(__name__)


class ForecastObserver(Protocol):
    """Told what happens to one member, in order, from the forecast's own thread.

    Methods return at once. Only `lead_published` may wait, when scratch has no room for another lead.
    An exception raised here stops the member with its state intact.
    """

    def started(self, member: int, leads: int, done: int) -> None:
        """The member starts (or goes on) with `done` of its `leads` already published."""

    def step(self, lead: int, seconds: float) -> None:
        """The forward step to `lead` was computed in `seconds`."""

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        """A lead's GRIB and index are in `folder` under their final names."""

    def restart_written(self, lead: int, path: Path) -> None:
        """A restart state after `lead` is at `path`."""

    def finished(self, manifest: MemberManifest) -> None:
        """The member is whole; every lead is in the manifest."""

    def failed(self, error: BaseException) -> None:
        """The member stopped with `error`."""


class SilentObserver:
    """An observer that does nothing; others override what they need."""

    def started(self, member: int, leads: int, done: int) -> None:
        pass

    def step(self, lead: int, seconds: float) -> None:
        pass

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        pass

    def restart_written(self, lead: int, path: Path) -> None:
        pass

    def finished(self, manifest: MemberManifest) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        pass


class Watchers:
    """Several observers as one: each is told in turn."""

    def __init__(self, observers: Sequence[ForecastObserver]):
        self._observers = observers

    def started(self, member: int, leads: int, done: int) -> None:
        for observer in self._observers:
            observer.started(member, leads, done)

    def step(self, lead: int, seconds: float) -> None:
        for observer in self._observers:
            observer.step(lead, seconds)

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        for observer in self._observers:
            observer.lead_published(record, folder)

    def restart_written(self, lead: int, path: Path) -> None:
        for observer in self._observers:
            observer.restart_written(lead, path)

    def finished(self, manifest: MemberManifest) -> None:
        for observer in self._observers:
            observer.finished(manifest)

    def failed(self, error: BaseException) -> None:
        """Tell all of them, whatever any of them raises: `error` is what matters."""
        for observer in self._observers:
            try:
                observer.failed(error)
            except Exception:
                LOG.exception("%s failed while it was told of a failure", type(observer).__name__)
