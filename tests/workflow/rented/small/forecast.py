"""Stand-in for the forecast job: no model, the same promises.

Every lead is a small file whose content depends on the member and the lead alone. Leads already at the
destination are not made again, the manifest (a real one) is written last. SMALL_STEP_SECONDS slows it
down; SMALL_FAIL=member:exit code makes that member fail after its first lead, while a file SMALL_FAIL_ONCE
names does not exist yet. SMALL_MOUNTS names a table of mounts, with which scratch must have room.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path("scripts").resolve()))

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.common.names import file_name
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import Receipt
from aifs_ensemble.delivery.receipt import receipt_bytes
from aifs_ensemble.delivery.scratch import OVERLAY_MOST, check_scratch


def fail_if_asked(member):
    wanted, _, code = os.environ.get("SMALL_FAIL", "0:0").partition(":")
    mark = os.environ.get("SMALL_FAIL_ONCE")
    if int(wanted) == member and not (mark and Path(mark).exists()):
        if mark:
            Path(mark).touch()
        sys.exit(int(code))


def make(storage, key, content, member):
    """Deliver one file unless it is there; return its record and whether it was made now."""
    checksum = crc32c_bytes(content)
    found = storage.stat(key)
    made = found is None or found.crc32c != checksum
    if made:
        time.sleep(float(os.environ.get("SMALL_STEP_SECONDS", "0")))
        storage.put_bytes(content, key)
    return FileRecord(file_name(key), len(content), checksum), made


def main(config, member, output):
    if mounts := os.environ.get("SMALL_MOUNTS"):
        check_scratch(config, OVERLAY_MOST + 1, mounts=Path(mounts))
    storage, keys, records, made = open_destination(config), config.objects, [], []
    for lead in config.leads:
        grib, new = make(storage, keys.lead(member, lead), f"{member} {lead}\n".encode() * 50, member)
        index, _ = make(storage, keys.index(member, lead), json.dumps([member, lead]).encode(), member)
        records.append(LeadRecord(lead, grib, index, 1))
        if new:
            made.append(lead)
        fail_if_asked(member)
    print(f"member {member}: made {made}", flush=True)
    manifest = MemberManifest(
        config.model.name, True, config.cycle, member, config.ensemble_size, config.model.grid, tuple(records)
    )
    leave_receipt(config, storage, manifest)
    write_member_manifest(Path(output), manifest)


def leave_receipt(config, storage, manifest):
    """Say what is at the destination, as every delivery does before the manifest."""
    objects = [storage.stat(config.objects.published(file.name)) for record in manifest.leads for file in record.files]
    place, layout = storage.url, config.delivery.layout
    receipt = Receipt(manifest.member, config.cycle, place, layout, manifest.content_digest, tuple(objects))
    content = {**receipt.lasting(), "leads": [asdict(record) for record in manifest.leads], "work": {}}
    storage.put_bytes(receipt_bytes(content), config.objects.receipt(manifest.member), overwrite=True)


main(Config(snakemake.config), int(snakemake.wildcards.member), snakemake.output[0])
