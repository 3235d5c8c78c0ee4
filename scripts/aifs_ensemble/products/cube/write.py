"""Both data sets of an ensemble, at the destination, and the record of their files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import crc32c_file, write_json
from aifs_ensemble.common.names import format_members
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.products.cube.containers import absolute
from aifs_ensemble.products.cube.regular import write_regular
from aifs_ensemble.products.cube.virtual import find_references, write_virtual
from aifs_ensemble.products.delivered_fields import DeliveredFields
from aifs_ensemble.products.quantile_classes import ensemble_attributes


def write_cube(config: Config, record: Path, members: Sequence[int] | None = None) -> None:
    """Make the data sets at the destination, in place of what was there, and then their `record`.

    `members` are those to be used, all by default. Those that are missing are named in the data sets' attributes and
    are not on the axis ``number``; a message that an index lacks reads NaN, and is counted in the record.
    Raises InputError for a member that is not delivered.
    """
    used = tuple(config.members if members is None else members)
    storage = open_destination(config)
    delivered = [DeliveredFields(config, member, storage) for member in used]
    about = ensemble_attributes(config, used, "AIFS ENS ensemble")
    about["member_digests"] = " ".join(fields.digest[:16] for fields in delivered)
    references = find_references(config, delivered)
    if not references.places[..., 1].any():
        raise InputError(f"{storage.address(config.objects.folder('forecasts'))}: no message of any lead")
    content: dict[str, Any] = {
        "cycle": config.cycle,
        "source": about["source"],
        "ensemble": about["ensemble"],
        "members": format_members(used),
        "member_digests": [fields.digest for fields in delivered],
        "references": int((references.places[..., 1] > 0).sum()),
        "missing_messages": references.missing,
        "leads_at": absolute(storage.url),
    }
    with tempfile.TemporaryDirectory(prefix="cube-", dir=_folder_for_work(config)) as work:
        virtual = Path(work) / "virtual"
        write_virtual(config, references, storage, virtual, about)
        content["virtual"] = _deliver(storage, virtual, config.objects.virtual_cube)
        if config.products.cube.regular:
            regular = Path(work) / "regular"
            write_regular(config, used, storage, regular, about)
            content["regular"] = _deliver(storage, regular, config.objects.regular_cube)
    write_json(record, content)


def _folder_for_work(config: Config) -> Path:
    """Return where data sets are made: on scratch."""
    config.scratch.base.mkdir(parents=True, exist_ok=True)
    return config.scratch.base


def _deliver(storage: Storage, folder: Path, key: str) -> dict[str, Any]:
    """Store a data set under `key` and remove what an earlier one left there; return its files by name.

    What names the others goes last (``zarr.json`` of a Zarr, the branch of a repository), so that a reader finds a
    whole data set, the earlier one or this one.
    """
    names = sorted(
        (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()), key=_last_who_names
    )
    files = {}
    there = {info.key for info in storage.list(f"{key}/")}
    for name in names:
        path = folder / name
        checksum = crc32c_file(path)
        target = f"{key}/{name}"
        storage.put_file(path, target, crc32c=checksum, replacing=storage.stat(target) if target in there else None)
        files[name] = {"size": path.stat().st_size, "crc32c": checksum}
    for left in there - {f"{key}/{name}" for name in names}:
        storage.delete(left)
    shutil.rmtree(folder)
    return {"key": key, "bytes": sum(file["size"] for file in files.values()), "files": files}


def _last_who_names(name: str) -> tuple[int, str]:
    order = 2 if name == "zarr.json" or name.startswith("refs/") else 1 if name.endswith("zarr.json") else 0
    return order, name
