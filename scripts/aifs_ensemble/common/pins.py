"""Lists of packages with the version of each: the locks of the machines and of the overlays."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aifs_ensemble.common.errors import ConfigError

HASH = re.compile(r"\s--hash=sha256:[0-9a-f]{64}(?=\s|$)")
_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.+!-]+)")


def canonical(name: str) -> str:
    """Return a package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_pins(lines: Iterable[str], name: str) -> dict[str, str]:
    """Return version by package of ``package==version[; marker] [--hash=...]`` lines; ConfigError for any other."""
    pins: dict[str, str] = {}
    for line in lines:
        text = HASH.sub("", line.partition("#")[0]).partition(";")[0].strip()
        if not text:
            continue
        match = _PIN.fullmatch(text)
        if match is None:
            raise ConfigError(f"{name}: {text!r}, expected package==version")
        if canonical(match[1]) in map(canonical, pins):
            raise ConfigError(f"{name}: {match[1]} is named twice")
        pins[match[1]] = match[2]
    return pins
