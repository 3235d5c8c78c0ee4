"""What a running forecast tells the rest: delivery, status, metrics and the terminal listen here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self

from aifs_ensemble.common.acceleration import Acceleration
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest

LOG = logging.getLogger(__name__)
P = ParamSpec("P")


class Observer:
    """Hears what happens to one member, in order, from the forecast's own thread; subclasses override what they need.

    Methods return at once. Only `lead_published` may wait, when scratch has no room for another lead.
    An exception raised here stops the member with its state intact. An observer that has threads or files starts them
    when it is entered as a context manager. `failed` may come before that.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of what `__enter__` started."""

    def started(self, member: int, leads: int, done: int) -> None:
        """The member starts (or goes on) with `done` of its `leads` already published."""

    def prepared(self, acceleration: Acceleration) -> None:
        """The model is ready to step, and with which forward pass is known."""

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


class Observers:
    """Several observers, told in turn."""

    def __init__(self, observers: Sequence[Observer]):
        self._observers = observers

    def tell(self, event: Callable[Concatenate[Any, P], None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Tell each observer of an event, e.g. ``tell(Observer.step, lead, seconds)``; the first error ends it."""
        for observer in self._observers:
            getattr(observer, event.__name__)(*args, **kwargs)

    def tell_failed(self, error: BaseException) -> None:
        """Tell all of a failure, whatever any of them raises: `error` is what matters."""
        for observer in self._observers:
            try:
                observer.failed(error)
            except Exception:
                LOG.exception("%s failed while it was told of a failure", type(observer).__name__)
