"""Delivery of members: from scratch to the destination, verified, in one go or lead by lead while they are computed.

Order is what makes a kill harmless at any point: leads and indexes first, then blocks, then the receipt (which
names every object), then the manifest. Whatever is there already with the right checksum is not sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from aifs_ensemble.config import Config
from aifs_ensemble.delivery_core import MemberDelivery, Receipt
from aifs_ensemble.manifest import LeadRecord, read_member_manifest
from aifs_ensemble.restore import Restored, restore_member
from aifs_ensemble.storage import Storage
from aifs_ensemble.streaming import StreamingDelivery

__all__ = ["Receipt", "Restored", "StreamingDelivery", "deliver_member", "restore_member"]


def deliver_member(
    config: Config, member: int, storage: Storage | None = None, told: Callable[[int, int], None] | None = None
) -> Receipt:
    """Bring a finished member from scratch to the destination, verified, and write its receipt.

    `told` is called with the leads delivered so far and their number, as they are.

    A second call moves no bytes. With ``keep_scratch: false`` the local leads go once all copies are
    verified. Raises InputError when the member has no manifest, VerificationError when a local file differs
    from it, ConflictError when other finished content is at the destination, StorageError.
    """
    path = config.scratch.manifest(member)
    manifest = read_member_manifest(path)
    delivery = MemberDelivery(config, member, storage)
    if delivery.standing(manifest) is None:
        _send_all(delivery, manifest.leads, told or (lambda done, leads: None))
    return delivery.finish(manifest, path.read_bytes())


def _send_all(delivery: MemberDelivery, records: Sequence[LeadRecord], told: Callable[[int, int], None]) -> None:
    """Send leads in parallel; the first error stops what has not begun."""
    with ThreadPoolExecutor(delivery.storage.settings.threads, thread_name_prefix="send") as pool:
        futures = [pool.submit(delivery.send_lead, record) for record in records]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                told(done, len(records))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
