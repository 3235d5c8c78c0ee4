"""Manifests that are there and say less, or something else, than is asked for now.

Snakemake compares times of files and does not look into them: a member made for fewer leads, or an ensemble
of other members, counts as finished. The Snakefile therefore has the manifests named here made again. A
forecast job that is started for one goes on from what is whole. The same goes for initial states of another source.

A delivered member that was made with other settings is not made again: what is delivered is never overwritten.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.names import parse_member_name
from aifs_ensemble.common.records import json_object
from aifs_ensemble.common.storage import ObjectInfo, Storage
from aifs_ensemble.common.text import foreign
from aifs_ensemble.delivery.ensemble import asked_otherwise, needs_writing
from aifs_ensemble.delivery.standing import DESTINATION, OTHER_SETTINGS, Destination, Read, judge, refusal
from aifs_ensemble.forecast.settings import source_differences

LOG = logging.getLogger(__name__)


def outdated(
    config: Config,
    paths: Iterable[str],
    storage: Storage | Destination | None = None,
    *,
    receipts: Mapping[str, str] | None = None,
) -> list[str]:
    """Return those of `paths` that hold something else than the configuration asks for; absent ones are not named.

    Parameters
    ----------
    paths : manifests of members, or the ensemble's (``manifest.json``); records of initial states (``initial/...``)
    storage : where `paths` are keys, read side by side after a listing, which may have been made; without it they are
        files here
    receipts : the receipt of each of `paths` that tells of a member at the destination

    Raises VerificationError when a delivered member was made with other settings, StorageError when the storage
    does not answer.
    """
    receipts = receipts or {}
    there = Destination(config, storage) if isinstance(storage, Storage) else storage
    ensemble = config.objects.ensemble_manifest
    if there is None:
        content = _files({*paths, *receipts.values()})
        # a folder is listed too; of a bucket, these are the copies that this machine keeps
        folder = bool(config.destination) and not config.cloud_destination
        ensemble = f"{config.destination}/{ensemble}"
        there = Destination(config) if folder and {*receipts, ensemble} & set(content) else None
        objects = there.listed if there else None
        read = there.content if there else None
    else:
        wanted = sorted({*paths, *receipts.values()} & set(there.listed))
        with ThreadPoolExecutor(there.storage.settings.threads) as pool:
            found = zip(wanted, pool.map(there.content, wanted), strict=True)
            content = {key: data for key, data in found if data is not None}
        objects, read = there.listed, there.content
    again = []
    for path in sorted({*paths} & set(content)):
        receipt = (receipts[path], content.get(receipts[path])) if path in receipts else None
        if there and path == ensemble:
            why = needs_writing(there)
        else:
            why = _why(config, path, content[path], receipt, objects, read)
        if why:
            LOG.info("%s is made again: %s", path, why)
            again.append(path)
    return again


def _files(paths: Iterable[str]) -> dict[str, bytes]:
    return {path: Path(path).read_bytes() for path in paths if Path(path).is_file()}


def _why(
    config: Config,
    path: str,
    data: bytes,
    receipt: tuple[str, bytes | None] | None,
    objects: Mapping[str, ObjectInfo] | None,
    read: Read | None,
) -> str | None:
    """Return why a record is made again, None when it is as asked for; `receipt` is of a member at a destination."""
    name = Path(path)
    member = parse_member_name(name.stem)
    if name.parent.name != "initial" and member is not None:
        standing = judge(config, member, path, data, receipt, objects, read=read)
        if standing.state == OTHER_SETTINGS and standing.place == DESTINATION:
            raise VerificationError(f"{path}: {refusal({standing.member: standing.reason})}")
        return None if standing.done else standing.text
    if name.parent.name != "initial":
        return asked_otherwise(config, data, path)
    try:
        content = json_object(data, path)
    except VerificationError as error:
        return str(error)
    provenance = content.get("provenance") or content
    try:
        return "; ".join(source_differences(config, provenance, member)) or None
    except (AttributeError, TypeError):
        return f"{path}: of another kind: {foreign(repr(provenance))}"
