"""Folders, files and ``gs://`` URLs as a user writes them: expanded, and told from what only looks like one."""

from __future__ import annotations

import re
from os.path import expanduser, expandvars
from typing import Any

from aifs_ensemble.common.errors import ConfigError

BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]+[a-z0-9]")
DESTINATION = "a folder or gs://bucket[/prefix]"
_GOOGLE = re.compile(r"gs:/*(?P<rest>.*)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expand(text: str, key: str) -> str:
    """Return a location with ``~`` and ``$NAME`` filled in; ConfigError for a user or a variable that there is not.

    Only ``file.path`` of the initial conditions has braces of its own, and these follow no ``$``.
    """
    home = expanduser(text)  # noqa: PTH111 - a Path would take one slash of gs://
    if home.startswith("~"):
        raise ConfigError(f"config: {key}: {text!r}, expected a user of this machine after ~ (for a folder, ./~...)")
    full = expandvars(home)
    if unset := _VARIABLE.search(full):
        raise ConfigError(
            f"config: {key}: {text!r}, expected the environment variable {unset[1].strip('{}')} to be set"
        )
    return full


def check_place(text: str, key: str) -> None:
    """Raise ConfigError unless `text` may name a folder or file of this machine."""
    if not text or "://" in text or _GOOGLE.fullmatch(text):
        raise ConfigError(f"config: {key}: {text!r}, expected a folder of this machine")


def check_destination(text: str, key: str = "destination", expected: str = DESTINATION) -> None:
    """Raise ConfigError unless `text` names a folder, or a bucket of Google Cloud Storage with or without a prefix."""
    google = _GOOGLE.fullmatch(text)
    if google and not text.startswith("gs://"):
        rest = google["rest"]
        hint = f", did you mean {f'gs://{rest}'!r}?" if BUCKET.fullmatch(rest.partition("/")[0]) else ""
        raise ConfigError(f"config: {key}: {text!r}, expected {expected}{hint}")
    bucket = text.removeprefix("gs://").partition("/")[0]
    if google and not BUCKET.fullmatch(bucket):
        raise ConfigError(f"config: {key}: {text!r} names no bucket, expected {expected}")
    if "://" in text and not google:
        raise ConfigError(f"config: {key}: {text!r}, expected {expected}")


def settle(values: dict[str, Any]) -> None:
    """Expand the locations of a configuration in place, and refuse those that name nothing."""
    initial = values["initial_conditions"]
    for section, key, name in (
        (values, "scratch", "scratch"),
        (values, "destination", "destination"),
        (values, "checkpoint", "checkpoint"),
        (initial, "cache", "initial_conditions.cache"),
        (values["cloud"], "prices", "cloud.prices"),
    ):
        if section[key] is None:
            continue
        section[key] = expand(section[key], name)
        if key == "destination":
            check_destination(section[key])
        elif key == "checkpoint":
            check_destination(section[key], key, "a file or gs://bucket/object")
            if section[key].startswith("gs://") and not section[key].removeprefix("gs://").partition("/")[2]:
                raise ConfigError(f"config: checkpoint: {section[key]!r}, expected a file or gs://bucket/object")
        else:
            check_place(section[key], name)
    path = initial["file"].get("path")
    if path is not None:
        name = "initial_conditions.file.path"
        several = isinstance(path, list)
        found = [expand(item, name) for item in (path if several else [path])]
        initial["file"]["path"] = found if several else found[0]
