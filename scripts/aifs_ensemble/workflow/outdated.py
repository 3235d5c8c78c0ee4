"""Manifests that are there and say less, or something else, than is asked for now.

Snakemake compares times of files and does not look into them: a member made for fewer leads, or an ensemble
of other members, counts as finished. The Snakefile therefore has the manifests named here made again. A
forecast job that is started for one goes on from what is whole. The same goes for initial states of another source.

A delivered member that was made with other settings is not made again: what is delivered is never overwritten.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.manifest import parse_member_manifest
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.delivery.ensemble import asked_for
from aifs_ensemble.forecast.settings import member_differences, source_differences

LOG = logging.getLogger(__name__)


def outdated(
    config: Config,
    paths: Iterable[str],
    storage: Storage | None = None,
    *,
    receipts: Mapping[str, str] | None = None,
) -> list[str]:
    """Return those of `paths` that hold something else than the configuration asks for; absent ones are not named.

    Parameters
    ----------
    paths : manifests of members, or the ensemble's (``manifest.json``); records of initial states (``initial/...``)
    storage : where `paths` are keys, read side by side after a listing; without it they are files here
    receipts : the receipt of each of `paths` that tells of a member at the destination

    Raises VerificationError when a delivered member was made with other settings, StorageError when the storage
    does not answer.
    """
    receipts = receipts or {}
    wanted = sorted({*paths, *receipts.values()})
    if storage is None:
        content = {path: Path(path).read_bytes() for path in wanted if Path(path).exists()}
    else:
        prefixes = [f"{config.cycle}/{name}" for name in ("manifest", "receipts/", "initial/")]
        there = {info.key for prefix in prefixes for info in storage.list(prefix)}
        found = [key for key in wanted if key in there]
        with ThreadPoolExecutor(storage.settings.threads) as pool:
            content = dict(zip(found, pool.map(storage.get_bytes, found), strict=True))
    layouts = {path: _layout(content.get(receipt)) for path, receipt in receipts.items()}
    return [
        path
        for path in sorted(set(paths))
        if path in content and _differs(config, path, content[path], path in layouts, layouts.get(path))
    ]


def _layout(receipt: bytes | None) -> str | None:
    """Return the layout that a receipt tells of, None if it cannot be read: `verify` looks at receipts."""
    try:
        content = json.loads(receipt or b"")
    except ValueError:
        return None
    return content.get("layout") if isinstance(content, dict) else None


def _differs(config: Config, path: str, data: bytes, delivered: bool, layout: str | None) -> bool:
    try:
        content = json.loads(data)
        why = _why(config, path, content, delivered) if isinstance(content, dict) else "not a manifest"
    except ValueError as error:
        why = " ".join(str(error).split())
    if not why and layout not in (None, config["delivery"]["layout"]):
        why = f"delivered in layout {layout}"
    if why:
        LOG.info("%s is made again: %s", path, why)
    return bool(why)


def _why(config: Config, path: str, content: dict, delivered: bool) -> str | None:
    name = Path(path)
    if name.parent.name == "initial":
        return "; ".join(source_differences(config, content.get("provenance") or content)) or None
    if name.name == "manifest.json":
        return _ensemble_differs(config, content)
    try:
        manifest = parse_member_manifest(content, path)
    except VerificationError as error:
        return " ".join(str(error).split())
    other = member_differences(config, manifest)
    if other and delivered:
        raise VerificationError(
            f"{path}: made with {'; '.join(other)}; what is delivered is never overwritten: ask for the same, name "
            f"another destination, or remove that run (aifs-ensemble gc --finished {manifest.member} --delete)"
        )
    missing = set(config.leads) - {record.lead for record in manifest.leads}
    return "; ".join(other) or (f"ends before {max(missing)} h" if missing else None)


def _ensemble_differs(config: Config, content: dict) -> str | None:
    asked = asked_for(config)
    other = [name for name in asked if content.get(name) != asked[name]]
    return f"other {', '.join(other)}" if other else None
