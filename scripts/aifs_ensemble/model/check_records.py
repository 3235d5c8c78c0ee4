"""Results of the self-check, kept with the compiled parts: what was compared once is not compared again.

A record counts for one checkpoint, one program, one card, one precision and one set of packages. It lies in the folder
of `compile_cache`, whose name says most of that, and goes to the destination and to other machines with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import read_json, write_json
from aifs_ensemble.model.compile_cache import CACHE_VARIABLE, sources_digest
from aifs_ensemble.model.numerics import Numerics
from aifs_ensemble.model.self_check import SelfCheck

LOG = logging.getLogger(__name__)
FOLDER = "self-check"
# The modules that decide the result, beside the kernels.
_CODE = ("check_records", "known_classes", "passes", "self_check", "stepper")
_PATIENCE_SECONDS = 900.0


def check_key(checkpoint: str, card: str, numerics: Numerics) -> dict[str, str]:
    """Return what a result is good for; `checkpoint` is the file's SHA-256."""
    packages = {}
    for package in ("torch", "triton", "anemoi-models"):
        with suppress(metadata.PackageNotFoundError):
            packages[package] = metadata.version(package)
    return {
        "checkpoint": checkpoint,
        "card": card,
        "precision": numerics.precision,
        "deterministic": str(numerics.deterministic),
        "chunks": str(numerics.chunks),
        "code": sources_digest(_CODE),
        **packages,
    }


class CheckRecords:
    """The record of one key in a folder of compiled parts, None for none: then nothing is kept.

    Nothing that goes wrong with a record stops a forecast.
    """

    def __init__(self, folder: Path | None, key: Mapping[str, str]):
        self._key = dict(key)
        name = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:16]
        self._path = folder / FOLDER / f"{name}.json" if folder else None

    @classmethod
    def here(cls, key: Mapping[str, str]) -> CheckRecords:
        """Return the record in the folder that the environment names for compiled parts."""
        folder = os.environ.get(CACHE_VARIABLE)
        return cls(Path(folder) if folder else None, key)

    def read(self) -> SelfCheck | None:
        """Return the result, None where there is none that can be believed."""
        if self._path is None or not self._path.exists():
            return None
        try:
            content = read_json(self._path)
            if not isinstance(content, Mapping) or content.get("of") != self._key:
                raise ValueError("of something else")
            return SelfCheck.from_json(content.get("result"))
        except (InputError, ValueError, OSError) as error:
            LOG.warning("%s: not taken, the passes are compared again: %s", self._path, error)
            return None

    def write(self, check: SelfCheck) -> None:
        """Keep a result."""
        if self._path is not None:
            try:
                write_json(self._path, {"of": self._key, "result": check.to_json()})
            except OSError as error:
                LOG.warning("%s: result of the self-check not kept: %s", self._path, error)

    @contextmanager
    def turn(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Let one process at a time compare: those beside it wait, and find what it found.

        The comparison takes more of the card than a member does. Whoever waits does so before it takes any of it.
        """
        if self._path is None or self.read() is not None:
            yield
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(self._path.with_suffix(".lock"), "wb")  # noqa: SIM115 - held while it lasts
        except OSError as error:
            LOG.warning("%s: no lock, members beside this one may compare too: %s", self._path, error)
            yield
            return
        with lock:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not _locked(lock.fileno()) and time.monotonic() < deadline and not stopped():
                time.sleep(0.5)
            yield


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
