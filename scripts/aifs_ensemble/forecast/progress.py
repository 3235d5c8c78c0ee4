"""Progress of a member: steps done, seconds a step, time to go."""

from __future__ import annotations

import logging
from pathlib import Path
from time import monotonic

from aifs_ensemble.common.manifest import LeadRecord, MemberManifest
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.common.text import duration

LOG = logging.getLogger(__name__)
INTERVAL = 15.0


class Progress(Observer):
    """Counts leads and says how long the rest will take; others decide where to show it."""

    def __init__(self) -> None:
        self._began = self._first = monotonic()
        self._member = self._leads = self._done = self._published = 0
        self._recent = 0.0

    def started(self, member: int, leads: int, done: int) -> None:
        """Note where the member starts from."""
        self._began = monotonic()
        self._member, self._leads, self._done = member, leads, done
        self._published = 0

    def step(self, lead: int, seconds: float) -> None:
        """Keep a running mean of the seconds a step takes."""
        self._recent = seconds if not self._recent else 0.9 * self._recent + 0.1 * seconds

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        """Count a lead."""
        self._published += 1
        if self._published == 1:
            self._first = monotonic()  # what came before was loading

    @property
    def line(self) -> str:
        """One line: leads published of all, seconds a step and a lead, time to go."""
        count = self._done + self._published
        text = f"member {self._member}: {count} of {self._leads} leads"
        if self._published < 2:
            return text
        each = (monotonic() - self._first) / (self._published - 1)
        left = duration(each * (self._leads - count))
        return f"{text}, {self._recent:.3f} s a step, {each:.3f} s a lead, {left} to go"


class ProgressLog(Progress):
    """Progress as lines in the log, at most one in `INTERVAL` and none for members that are over sooner."""

    def __init__(self) -> None:
        super().__init__()
        self._next = monotonic() + INTERVAL

    def started(self, member: int, leads: int, done: int) -> None:
        super().started(member, leads, done)
        LOG.info("member %d: %d of %d leads to make", member, leads - done, leads)

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        super().lead_published(record, folder)
        if monotonic() >= self._next:
            self._next = monotonic() + INTERVAL
            LOG.info("%s", self.line)

    def restart_written(self, lead: int, path: Path) -> None:
        LOG.debug("member %d: restart state after %d h", self._member, lead)

    def finished(self, manifest: MemberManifest) -> None:
        size = manifest.bytes / 1e9
        spent = duration(monotonic() - self._began)
        LOG.info("member %d: %d leads, %.2f GB, %s", manifest.member, len(manifest.leads), size, spent)
