"""Whether what a job was asked for is really at the destination, whatever its exit code said."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError, WorkflowError
from aifs_ensemble.common.manifest import MemberManifest, parse_member_manifest, read_member_manifest
from aifs_ensemble.common.storage import MissingError, open_destination

LOG = logging.getLogger(__name__)


def undelivered(config: Config, members: Iterable[int]) -> dict[int, str]:
    """Return the members whose manifest at the destination is absent or unsound, and what is wrong.

    Sound means that it parses, its digest fits and it lists exactly the leads asked for. The bytes of the
    leads were verified when they were delivered; `verify` does it again. Raises StorageError when the destination
    does not answer.
    """
    wrong = {}
    # one process looks at all jobs: it must not wait for the bucket while others end
    storage = open_destination(config, within=60.0)
    for member in members:
        key = config.keys_.manifest(member)
        try:
            if storage.stat(key) is None:
                wrong[member] = f"{storage.address(key)}: missing"
                continue
            manifest = parse_member_manifest(json.loads(storage.get_bytes(key)), storage.address(key))
        except (VerificationError, MissingError) as error:
            wrong[member] = str(error)
        except ValueError:
            wrong[member] = f"{storage.address(key)}: not JSON"
        else:
            missing = sorted(set(config.leads) - {record.lead for record in manifest.leads})
            if missing:
                wrong[member] = f"{storage.address(key)}: without h{missing[0]:03d} and {len(missing) - 1} more leads"
    return wrong


def whole_manifest(path: Path, wanted: Iterable[int]) -> MemberManifest | None:
    """Return the member's manifest at `path`, None when there is none, it is damaged or lacks a wanted lead."""
    if not path.exists():
        return None
    try:
        manifest = read_member_manifest(path)
    except WorkflowError as error:
        LOG.warning("%s, counted as missing", error)
        return None
    return manifest if set(wanted) <= {record.lead for record in manifest.leads} else None
