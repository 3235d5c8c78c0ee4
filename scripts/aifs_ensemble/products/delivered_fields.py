"""Fields of a delivered member, read by byte range through the indexes beside its leads or blocks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import lead_name, member_name
from aifs_ensemble.common.parameters import FieldName
from aifs_ensemble.common.storage import MissingError, Storage, open_destination
from aifs_ensemble.delivery.member_index import parse_member_index
from aifs_ensemble.delivery.receipt import MemberReceipt, receipt_files
from aifs_ensemble.delivery.removed import LEADS
from aifs_ensemble.delivery.standing import Standing, at_destination
from aifs_ensemble.fields.area import cut_of, grid_within
from aifs_ensemble.forecast.settings import area_of
from aifs_ensemble.products.indexed_fields import Field, IndexedFields

__all__ = ["DeliveredFields", "Field"]


class DeliveredFields:
    """Reads fields of one member at the destination. May be used from several threads.

    Attributes
    ----------
    member : its number
    digest : content digest of its manifest, which products made from it record
    untrained : whether an untrained model made it
    standing : what the destination has of it

    Raises InputError unless the member is delivered as the configuration asks for.
    """

    def __init__(self, config: Config, member: int, storage: Storage | None = None):
        self.config, self.member = config, member
        self.storage = storage or open_destination(config)
        self.standing: Standing = at_destination(config, self.storage, member)
        manifest = self.standing.manifest
        if not self.standing.whole or manifest is None:
            raise InputError(f"{self.standing.name}: {self.standing.text}, expected a delivered member")
        self.leads = {record.lead: record for record in manifest.leads}
        self.digest = manifest.content_digest
        self.untrained = manifest.untrained
        self._blocks = _block_names(self.standing.receipt)
        self._lock = threading.Lock()
        there = area_of(manifest)
        # a member of the globe serves where an area is asked for
        self._cut = cut_of(config.model.grid, config.area) if config.area and not there else None
        self._fields = IndexedFields(self.storage, grid_within(config.model.grid, there).points, self.known_index)

    def read(self, lead: int, variables: Sequence[str]) -> dict[str, Field]:
        """Return fields of one lead by variable, float32 ``(value,)`` in GRIB's units, NaN where missing.

        Where an area is asked for the values are those of its rows (`cut_of`), missing outside it.

        Neighbours in the file come with one request. Raises InputError for what the index does not name, and for bytes
        that are not the fields it names.
        """
        with self._told_if_removed(lead):
            fields = self._fields.read(self._key(lead), lead, variables)
            return {name: self._cut.of(field) for name, field in fields.items()} if self._cut else fields

    def places(self, lead: int) -> tuple[str, dict[FieldName, tuple[int, int]]]:
        """Return the object that holds a lead, and offset and length in bytes of each of its messages, by field."""
        key = self._key(lead)
        with self._told_if_removed(lead):
            return key, self._fields.places(key, lead)

    @contextmanager
    def _told_if_removed(self, lead: int) -> Iterator[None]:
        """Say of a lead that is missing, if so, that retention took it."""
        try:
            yield
        except MissingError:
            if LEADS not in self.standing.removed:
                raise
            where = f"{member_name(self.member)} of {self.config.cycle}, {lead_name(lead)}"
            raise InputError(
                f"{where}: {self.standing.removed_text}, expected the lead; gc --finished {self.member} --delete, and "
                "a run, make it anew"
            ) from None

    def known_index(self, key: str) -> bytes | None:
        """Return the content of an index as the manifest tells it, from the one object that holds all, None without."""
        with self._lock:
            return self._indexes.get(key)

    @cached_property
    def _indexes(self) -> dict[str, bytes]:
        manifest, keys = self.standing.manifest, self.config.objects
        if manifest is None or self._blocks:
            return {}
        try:
            data = self.storage.get_bytes(keys.member_index(self.member))
        except MissingError:
            return {}
        return {keys.published(name): index for name, index in parse_member_index(data, manifest.leads).items()}

    def _key(self, lead: int) -> str:
        """Return the object that holds a lead."""
        keys = self.config.objects
        for end, name in self._blocks.items():
            if lead <= end:
                return keys.published(name)
        return keys.lead(self.member, lead)


def _block_names(receipt: MemberReceipt | None) -> dict[int, str]:
    """Return the blocks of a member delivered as blocks alone, by their last lead in hours, in order."""
    if receipt is None or receipt.layout != "blocks":
        return {}
    names = [file.name for file in receipt_files(receipt)]
    blocks = {int(name.removesuffix(".grib").rpartition("-")[2]): name for name in names if name.endswith(".grib")}
    return dict(sorted(blocks.items()))
