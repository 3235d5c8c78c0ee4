"""The line on the terminal that a forecast writes over as its leads come out."""

from __future__ import annotations

import sys
from pathlib import Path

from aifs_ensemble.common.manifest import LeadRecord, MemberManifest
from aifs_ensemble.forecast.progress import Progress


class TerminalProgress(Progress):
    """One line on the terminal that is written over as leads come out."""

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        super().lead_published(record, folder)
        print(f"\r\033[K{self.line}", end="", file=sys.stderr, flush=True)

    def finished(self, manifest: MemberManifest) -> None:
        print("\r\033[K", end="", file=sys.stderr, flush=True)

    def failed(self, error: BaseException) -> None:
        print(file=sys.stderr, flush=True)
