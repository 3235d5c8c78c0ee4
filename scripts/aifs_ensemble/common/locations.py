"""Folders, files and ``gs://`` URLs as a user writes them: expanded, and told from what only looks like one."""

from __future__ import annotations

import re
from collections.abc import Callable
from os.path import expanduser, expandvars
from typing import Any, TypeVar

from aifs_ensemble.common.errors import ConfigError

T = TypeVar("T")
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]+[a-z0-9]")
DESTINATION = "a folder or gs://bucket[/prefix]"
# Names of objects travel through commands that others write: Snakemake quotes with repr, Google Batch's plugin writes a
# script through an unquoted here-document. No name with a meaning to a shell, to Snakemake as a pattern, or to a URL is
# let in.
_OBJECT = re.compile(r"[\w.~/+=@,:-]*", re.ASCII)
_GOOGLE = re.compile(r"gs:/*(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expand(text: str, key: str) -> str:
    """Return a location with ``~`` and ``$NAME`` filled in; ConfigError for a user or a variable that there is not.

    Only ``path`` and ``control`` of ``initial_conditions.file`` have braces of their own, and these follow no ``$``.
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
    if google and (strange := _OBJECT.sub("", text)):
        raise ConfigError(
            f"config: {key}: {text!r}, expected letters, digits and . _ ~ / + = @ , : - in a name of Google Cloud "
            f"Storage, not {strange[0]!r}: it becomes part of commands on rented machines"
        )
    if google and {"", ".", ".."} & {*text.removeprefix("gs://").rstrip("/").split("/")}:
        raise ConfigError(f"config: {key}: {text!r}, expected no empty part and no . or .. in it")
    if "://" in text and not google:
        raise ConfigError(f"config: {key}: {text!r}, expected {expected}")


def place(key: str) -> Callable[[str | None], str | None]:
    """Return what expands the value of a key that names a folder or file of this machine; it raises ConfigError."""

    def settled(text: str | None) -> str | None:
        if text is None:
            return None
        full = expand(text, key)
        if not full or "://" in full or _GOOGLE.fullmatch(full):
            raise ConfigError(f"config: {key}: {full!r}, expected a folder of this machine")
        return full

    return settled


def destination(text: str | None) -> str | None:
    """Return the destination expanded; ConfigError unless it is a folder or ``gs://bucket[/prefix]``."""
    if text is None:
        return None
    full = expand(text, "destination")
    check_destination(full)
    return full


def checkpoint(text: str | None, key: str = "checkpoint") -> str | None:
    """Return the checkpoint's place expanded; ConfigError unless it is a file or ``gs://bucket/object``."""
    if text is None:
        return None
    full, expected = expand(text, key), "a file or gs://bucket/object"
    check_destination(full, key, expected)
    if full.startswith("gs://") and not full.removeprefix("gs://").partition("/")[2]:
        raise ConfigError(f"config: {key}: {full!r}, expected {expected}")
    return full


def input_files(key: str) -> Callable[[T], T]:
    """Return what expands the path or paths of the user's GRIB that a key names; None and no text stay."""

    def check(path: Any) -> Any:
        if isinstance(path, list) and not all(path):
            raise ConfigError(f"config: {key}: {path!r}, expected the name of a file in each item")
        return [expand(item, key) for item in path] if isinstance(path, list) else path and expand(path, key)

    return check
