"""Products from this machine to a bucket, where Snakemake itself does not bring them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import open_destination


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
