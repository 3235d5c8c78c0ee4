"""Of which members products of the ensemble were made: a small record for each job that makes some.

Snakemake compares times of files: a member that is no longer among those asked for leaves no newer file. A job writes
its record after its products, so that an interrupted one has that of the products before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError, VerificationError
from aifs_ensemble.common.files import json_bytes, write_bytes
from aifs_ensemble.common.names import format_members
from aifs_ensemble.common.records import json_object
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.receipt import remote_manifest


@dataclass(frozen=True)
class Stamp:
    """The members of a product, and the content digest of each one's manifest."""

    digests: Mapping[int, str]

    @classmethod
    def now(cls, config: Config, members: Sequence[int], storage: Storage | None = None) -> Stamp:
        """Return the stamp of what is made now; InputError for a member without manifest at the destination."""
        storage = storage or open_destination(config)

        def digest(member: int) -> str:
            manifest = remote_manifest(config, storage, member)
            if manifest is None:
                raise InputError(f"{storage.address(config.objects.manifest(member))}: missing, expected a member")
            return manifest.content_digest

        with ThreadPoolExecutor(storage.settings.threads) as pool:
            return cls(dict(zip(members, pool.map(digest, members), strict=True)))

    @classmethod
    def read(cls, data: bytes, name: str) -> Stamp:
        """Return a stamp from its bytes; VerificationError naming it when it is none."""
        digests = json_object(data, name).get("members")
        if not isinstance(digests, dict) or not all(
            key.isdecimal() and isinstance(value, str) for key, value in digests.items()
        ):
            raise VerificationError(f"{name}: not the members of a product")
        return cls({int(member): digest for member, digest in digests.items()})

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Return it as JSON-compatible values."""
        return {"members": {str(member): digest for member, digest in self.digests.items()}}

    def content(self) -> bytes:
        """Return it as JSON."""
        return json_bytes(self.to_dict())

    def leave(self, config: Config, job: str, storage: Storage | None = None) -> None:
        """Store it at the destination, and of a bucket a copy on scratch, by which later runs here know it."""
        key, data = config.objects.stamp(job), self.content()
        (storage or open_destination(config)).put_bytes(data, key, overwrite=True)
        if config.cloud_destination:
            write_bytes(config.scratch.copy(key), data)

    def differs(self, members: Sequence[int], digests: Mapping[int, str]) -> str | None:
        """Return why a product of `members` is made again, None when it is of these.

        `digests` are those of the members that are delivered; the others are about to be made.
        """
        if set(members) != set(self.digests):
            return f"made of members {format_members(self.digests)}, asked for are {format_members(members)}"
        other = [member for member in members if digests.get(member, self.digests[member]) != self.digests[member]]
        return f"members {format_members(other)} are others than it was made of" if other else None


def why_again(stamp: bytes | None, differs: Callable[[bytes], str | None]) -> str | None:
    """Return why products are made again, None when their `stamp` says that they are as asked for.

    `differs` reads it and says why it is of other members. Without a stamp the members are not known, and products
    stay; one that cannot be read is a reason.
    """
    if stamp is None:
        return None
    try:
        return differs(stamp)
    except VerificationError as error:
        return str(error)
