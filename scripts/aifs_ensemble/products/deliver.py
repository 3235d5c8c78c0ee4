"""Products from scratch to a bucket, where Snakemake itself writes only local files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import open_destination


def deliver_copies(config: Config, paths: Iterable[Path]) -> None:
    """Store those of `paths` that are copies of objects in the bucket, in place of what an earlier run left there.

    Raises StorageError when the bucket does not answer.
    """
    if not config.cloud_destination:
        return
    storage = open_destination(config)
    for path in paths:
        key = config.scratch.copied_key(path)
        if key is not None:
            storage.put_file(path, key, replacing=storage.stat(key))
