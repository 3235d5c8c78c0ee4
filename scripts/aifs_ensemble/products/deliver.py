"""Products from this machine to a bucket, where Snakemake itself does not bring them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import ObjectInfo, open_destination

LOG = logging.getLogger(__name__)


def deliver_copies(config: Config, paths: Iterable[Path]) -> None:
    """Store those of `paths` that are copies of objects in the bucket, in place of what an earlier run left there.

    Raises StorageError when the bucket does not answer.
    """
    if config.cloud_destination:
        deliver_files(config, {key: path for path in paths if (key := config.scratch.copied_key(path)) is not None})


def deliver_files(config: Config, files: Mapping[str, Path]) -> None:
    """Store files by key, in place of what an earlier run left there; StorageError when the bucket does not answer."""
    storage = open_destination(config)

    def put(key: str) -> None:
        storage.put_file(files[key], key, replacing=storage.stat(key))

    with ThreadPoolExecutor(storage.settings.threads) as pool:
        list(pool.map(put, files))


def newer_than_members(objects: Mapping[str, ObjectInfo], key: str, manifests: Collection[str]) -> bool:
    """Tell whether a bucket's product was made after the members' `manifests` beside it, all of which are there."""
    times = [info.updated if (info := objects.get(name)) else None for name in (key, *manifests)]
    known = [time for time in times if time is not None]
    return len(known) == len(times) and known[0] >= max(known[1:])


def bring_back(config: Config, member: int, path: Path) -> bool:
    """Fetch a member's product that the bucket has, made after the member; tell whether it did.

    Where scratch is gone, so is Snakemake's copy of it, and the ensemble's products may need it. Raises StorageError
    when the bucket does not answer.
    """
    key = config.scratch.copied_key(path)
    if key is None or not config.cloud_destination:
        return False
    storage, manifest = open_destination(config), config.objects.manifest(member)
    found = {name: info for name in (key, manifest) if (info := storage.stat(name))}
    if not newer_than_members(found, key, [manifest]):
        return False
    storage.get_file(key, path)
    LOG.info("%s: made before, fetched", storage.address(key))
    return True
