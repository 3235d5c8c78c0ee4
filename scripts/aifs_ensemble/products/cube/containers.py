"""Where the data sets and the leads that they refer to lie, as Icechunk is told it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import icechunk

# it warns of two writers in one folder, whenever a folder is opened: here is one
icechunk.set_logs_filter("error")
_EMULATOR = "STORAGE_EMULATOR_HOST"  # which Google's own clients know, and Icechunk's does not


def absolute(url: str) -> str:
    """Return a folder as ``file:///...`` and a bucket as it is: references know no other."""
    return url.rstrip("/") if url.startswith("gs://") else _folder(url).as_uri()


def container(url: str) -> icechunk.VirtualChunkContainer:
    """Return where chunks may lie: anywhere under a destination, and nowhere else."""
    place = absolute(url)
    if place.startswith("gs://"):
        store: Any = icechunk.gcs_store({"allow_http": "true"} if os.environ.get(_EMULATOR) else None)
    else:
        store = icechunk.local_filesystem_store(str(_folder(url)))
    return icechunk.VirtualChunkContainer(f"{place}/", store)


def credentials(url: str, *, anonymous: bool = False) -> Any:
    """Return what reads the leads under a destination: of a bucket the machine's own identity, or none."""
    if not url.startswith("gs://"):
        return None
    return icechunk.gcs_credentials(**_identity(anonymous))


def repository_storage(url: str, *, anonymous: bool = False) -> icechunk.Storage:
    """Return the storage of a repository in a folder or a bucket."""
    if not url.startswith("gs://"):
        return icechunk.local_filesystem_storage(str(_folder(url)))
    bucket, _, prefix = url.removeprefix("gs://").partition("/")
    options = {"allow_http": "true"} if os.environ.get(_EMULATOR) else None
    return icechunk.gcs_storage(bucket=bucket, prefix=prefix, config=options, **_identity(anonymous))


def _folder(url: str) -> Path:
    return Path(url.removeprefix("file://")).resolve()


def _identity(anonymous: bool) -> dict[str, Any]:
    if emulator := os.environ.get(_EMULATOR):
        key = {"gcs_base_url": emulator, "disable_oauth": True, "client_email": "", "private_key": "",
               "private_key_id": ""}  # fmt: skip
        return {"service_account_key": json.dumps(key)}
    return {"anonymous": True} if anonymous else {"from_env": True}
