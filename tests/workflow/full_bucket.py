"""A bucket that has everything of an ensemble, in small: what a run would leave, without running it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.common.names import checkpoint_file, file_name
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.member import Receipt
from aifs_ensemble.delivery.receipt import receipt_bytes


def fill(config: Config) -> Storage:
    """Put an ensemble at the destination, initial states and checkpoint included; return the destination."""
    storage, keys = open_destination(config), config.objects
    states = [keys.initial(member) for member in config.members]
    records = [keys.initial_summary(member) for member in config.members]
    for key in (checkpoint_file(config.model.name), keys.initial_cycle, *states, *records, keys.initial_members):
        storage.put_bytes(b"{}", key)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda member: _deliver(config, storage, member), config.members))
    write_ensemble_manifest(config)
    return storage


def _deliver(config: Config, storage: Storage, member: int) -> None:
    keys, records, objects = config.objects, [], []
    for lead in config.leads:
        files = []
        for key in (keys.lead(member, lead), keys.index(member, lead)):
            content = f"{key}\n".encode()
            objects.append(storage.put_bytes(content, key))
            files.append(FileRecord(file_name(key), len(content), crc32c_bytes(content)))
        records.append(LeadRecord(lead, files[0], files[1], 1))
    grid, size = config.model.grid, config.ensemble_size
    manifest = MemberManifest(config.model.name, True, config.cycle, member, size, grid, tuple(records))
    layout, digest = config.delivery.layout, manifest.content_digest
    receipt = Receipt(member, config.cycle, storage.url, layout, digest, tuple(objects))
    leads = [asdict(record) for record in records]
    storage.put_bytes(receipt_bytes({**receipt.lasting(), "leads": leads, "work": {}}), keys.receipt(member))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.json"
        write_member_manifest(path, manifest)
        storage.put_bytes(path.read_bytes(), keys.manifest(member))
