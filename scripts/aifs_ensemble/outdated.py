"""Manifests that are there and say less, or something else, than is asked for now.

Snakemake compares times of files and does not look into them: a member made for fewer leads, or an ensemble
of other members, counts as finished. The Snakefile therefore has the manifests named here made again. A
forecast job that is started for one goes on from what is whole.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aifs_ensemble.config import Config
from aifs_ensemble.ensemble import asked_for
from aifs_ensemble.errors import VerificationError
from aifs_ensemble.manifest import parse_member_manifest
from aifs_ensemble.storage import Storage

LOG = logging.getLogger(__name__)


def outdated(config: Config, paths: Iterable[str], storage: Storage | None = None) -> list[str]:
    """Return those of `paths` that hold a manifest other than the configuration asks for; absent ones are not named.

    Parameters
    ----------
    paths : manifests of members, or the ensemble's (``manifest.json``)
    storage : where `paths` are keys, read side by side after one listing; without it they are files here

    Raises StorageError when the storage does not answer.
    """
    wanted = sorted(set(paths))
    if storage is None:
        return [path for path in wanted if Path(path).exists() and _differs(config, path, Path(path).read_bytes())]
    there = {info.key for info in storage.list(f"{config.cycle}/manifest")}
    found = [key for key in wanted if key in there]
    with ThreadPoolExecutor(storage.settings.threads) as pool:
        return [
            key
            for key, data in zip(found, pool.map(storage.get_bytes, found), strict=True)
            if _differs(config, key, data)
        ]


def _differs(config: Config, path: str, data: bytes) -> bool:
    judge: Callable[[Config, str, dict], str | None] = (
        _ensemble_differs if path.endswith("/manifest.json") else _member_differs
    )
    try:
        content = json.loads(data)
        why = judge(config, path, content) if isinstance(content, dict) else "not a manifest"
    except (ValueError, VerificationError) as error:
        why = " ".join(str(error).split())
    if why:
        LOG.info("%s is made again: %s", path, why)
    return bool(why)


def _ensemble_differs(config: Config, path: str, content: dict) -> str | None:
    asked = asked_for(config)
    other = [name for name in asked if content.get(name) != asked[name]]
    return f"other {', '.join(other)}" if other else None


def _member_differs(config: Config, path: str, content: dict) -> str | None:
    missing = set(config.leads) - {record.lead for record in parse_member_manifest(content, path).leads}
    return f"ends before {max(missing)} h" if missing else None
