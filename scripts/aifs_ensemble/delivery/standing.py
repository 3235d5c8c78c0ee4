"""The one answer to "is this member done?": what there is of a member, what is asked for, and why they differ.

Every command prints from here. A member's manifest and receipt say what a place has, and a destination's listing
whether it has the objects that these name. The bytes themselves are read only by `verify`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest
from aifs_ensemble.common.names import format_members, lead_name
from aifs_ensemble.common.storage import MissingError, ObjectInfo, Storage, open_destination
from aifs_ensemble.delivery.receipt import (
    MemberReceipt,
    coarse_objects,
    lead_prefix,
    member_objects,
    parse_manifest,
    parse_receipt,
    receipt_problem,
    vouched_files,
)
from aifs_ensemble.delivery.removed import COARSE, LEADS, Removal, parse_removals
from aifs_ensemble.forecast.settings import member_differences
from aifs_ensemble.forecast.work_folder import WorkFolder

LOG = logging.getLogger(__name__)
SCRATCH, DESTINATION = "scratch", "destination"

ABSENT = "absent"  # nothing of the member is there
UNFINISHED = "unfinished"  # something is there, and no manifest
DAMAGED = "damaged"  # the manifest, the receipt or an object is not what it must be
OTHER_SETTINGS = "other settings"  # whole, of other bytes than the configuration asks for
SHORT = "short"  # whole, without some of the leads that are asked for
OTHER_LAYOUT = "other layout"  # whole, and put at the destination in other files than are asked for
COMPUTED = "computed"  # as asked for, on scratch
DELIVERED = "delivered"  # as asked for, at the destination
# A member in one of these is named with its reason wherever members are counted.
NOT_AS_ASKED = (DAMAGED, OTHER_SETTINGS, SHORT, OTHER_LAYOUT)

Check = Callable[[ObjectInfo], ObjectInfo]
Read = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Standing:
    """What one place has of a member, against what the configuration asks for.

    `name` is the manifest's address, `reason` says why the member is not as asked for (empty if it is), `problems` what
    is damaged by lead (lead 0: manifest, receipt or a block). Lost or damaged `coarse` files, by lead, harm nobody:
    products read the leads instead. `removed` says by kind what retention took of it: the member is as it was.
    """

    member: int
    place: str
    name: str
    state: str
    reason: str = ""
    manifest: MemberManifest | None = None
    receipt: MemberReceipt | None = None
    problems: Mapping[int, str] = field(default_factory=dict)
    coarse: Mapping[int, str] = field(default_factory=dict)
    removed: Mapping[str, Removal] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The state in words, e.g. ``short: ends at 12 h, 24 h are asked for``."""
        return f"{self.state}: {self.reason}" if self.reason else self.state

    @property
    def removed_text(self) -> str:
        """What retention took, in words; empty where it took nothing."""
        return "; ".join(removal.text(what) for what, removal in self.removed.items())

    @property
    def leads(self) -> frozenset[int]:
        """Lead times in hours that the manifest lists."""
        return frozenset(record.lead for record in self.manifest.leads) if self.manifest else frozenset()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for this place."""
        return self.state in (COMPUTED, DELIVERED)

    @property
    def whole(self) -> bool:
        """Whether every lead asked for is there, made as asked for, in whatever layout."""
        return self.done or self.state == OTHER_LAYOUT


def on_scratch(config: Config, member: int) -> Standing:
    """Return what scratch has of a member, by its manifest, else by the journals of its work folder."""
    path = config.scratch.manifest(member)
    try:
        if (data := _file(path)) is not None:
            return judge(config, member, str(path), data)
    except OSError as error:
        reason = f"{path}: {error.strerror}"
        return Standing(member, SCRATCH, str(path), DAMAGED, reason, problems={0: reason})
    root = config.scratch.work(member)
    if not root.is_dir():
        return Standing(member, SCRATCH, str(path), ABSENT)
    work = WorkFolder(root, config.cycle, member)
    made = len({*work.journal.read(), *work.delivered.read()} & set(config.leads))
    return Standing(member, SCRATCH, str(path), UNFINISHED, f"{made} of {len(config.leads)} leads made")


def noted_here(config: Config, member: int) -> Standing:
    """Return what this machine has noted of its delivery of a member to a bucket, without asking the bucket."""
    copy, path = config.scratch.delivered(member), config.scratch.receipt(member)
    manifest = copy if copy.exists() else config.scratch.manifest(member)
    receipt = _file(path)
    return judge(config, member, str(manifest), _file(manifest) if receipt else None, (str(path), receipt))


def _file(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def at_destination(
    config: Config,
    storage: Storage,
    member: int,
    checked: Check | None = None,
    objects: Mapping[str, ObjectInfo] | None = None,
    read: Read | None = None,
) -> Standing:
    """Return what the destination has of one member: its manifest, its receipt and one listing (`objects`, if known).

    `checked` fills in the checksum of an object that the listing does not know (`Storage.with_crc32c` reads it), `read`
    returns the content of a small object, None when there is none.
    """
    read = read or partial(_content, storage)
    keys = (config.objects.manifest(member), config.objects.receipt(member))
    (name, manifest), receipt = ((storage.address(key), read(key)) for key in keys)
    listed = member_objects(config, storage, member) if objects is None else objects
    standing = judge(config, member, name, manifest, receipt, listed, checked, read)
    made = [record for record in standing.manifest.leads if record.coarse] if standing.manifest else []
    if not made:
        return standing
    there = coarse_objects(config, storage, member) if objects is None else objects
    problems = _coarse_problems(config, made, there, checked)
    removal = removal_of(config, standing.manifest, COARSE, read) if problems and standing.manifest else None
    if removal is None:
        return replace(standing, coarse=problems)
    problems = _coarse_problems(config, made, there, checked, may_miss=True)
    return replace(standing, coarse=problems, removed={**standing.removed, COARSE: removal})


def _coarse_problems(
    config: Config,
    records: Iterable[LeadRecord],
    objects: Mapping[str, ObjectInfo],
    checked: Check | None,
    *,
    may_miss: bool = False,
) -> dict[int, str]:
    """Return by lead what is wrong of the coarse files of a delivery."""
    problems: dict[int, str] = {}
    for record in records:
        for file in record.coarse_files:
            there = objects.get(config.objects.published(file.name))
            if there is None and may_miss:
                continue
            if wrong := _object_problem(there, file, checked):
                problems.setdefault(record.lead, wrong)
    return problems


def _content(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get_bytes(key)
    except MissingError:
        return None


class Destination:
    """A destination of one cycle: one listing, and what it has read of the small files named there.

    `look` lists again. A file that did not change since is not read again. Raises StorageError when the destination
    does not answer.
    """

    def __init__(self, config: Config, storage: Storage | None = None):
        self.config = config
        self.storage = storage or open_destination(config)
        self._read: dict[str, tuple[int, bytes]] = {}
        self.look()

    def look(self) -> None:
        """List the cycle's objects anew."""
        self.listed = {info.key: info for info in self.storage.list(f"{self.config.cycle}/")}

    def content(self, key: str) -> bytes | None:
        """Return the content of a small object, None when there is none."""
        info = self.listed.get(key)
        if info is None:
            return None
        known = self._read.get(key)
        if known is None or known[0] != info.generation:
            data = _content(self.storage, key)
            if data is None:
                return None
            known = self._read[key] = (info.generation, data)
        return known[1]

    def standing(self, member: int) -> Standing:
        """Return what the destination has of a member."""
        return at_destination(self.config, self.storage, member, objects=self.listed, read=self.content)

    def standings(self) -> dict[int, Standing]:
        """Return what the destination has of every member of the configuration, read side by side."""
        with ThreadPoolExecutor(self.storage.settings.threads) as pool:
            return dict(zip(self.config.members, pool.map(self.standing, self.config.members), strict=True))


def judge(
    config: Config,
    member: int,
    name: str,
    data: bytes | None,
    receipt: tuple[str, bytes | None] | None = None,
    objects: Mapping[str, ObjectInfo] | None = None,
    checked: Check | None = None,
    read: Read | None = None,
) -> Standing:
    """Return the standing of a member by the bytes of its manifest, called `name`.

    A destination has a `receipt` too: its name and bytes. With `objects`, a listing by key, every file that the
    manifest and the receipt vouch for must be there, unless a record that `read` finds says that retention took it.
    Other settings are told before damage: to make such a member again does not mend it.
    """
    place = SCRATCH if receipt is None else DESTINATION
    delivered, unread = _read_receipt(config, member, receipt)
    if data is None:
        prefix = lead_prefix(config, member)
        begun = (receipt and receipt[1] is not None) or any(key.startswith(prefix) for key in objects or ())
        state, reason = (UNFINISHED, "no manifest yet") if begun else (ABSENT, "")
        return Standing(member, place, name, state, reason, receipt=delivered)
    try:
        manifest = parse_manifest(config, member, data, name)
    except VerificationError as error:
        reason = " ".join(str(error).split())
        return Standing(member, place, name, DAMAGED, reason, receipt=delivered, problems={0: reason})
    problems = _problems(config, manifest, delivered or unread, objects, checked) if receipt else {}
    removed = {}
    if problems and (removal := removal_of(config, manifest, LEADS, read)):
        removed[LEADS] = removal
        problems = _problems(config, manifest, delivered or unread, objects, checked, may_miss=True)
    layout = config.delivery.layout
    if differ := member_differences(config, manifest):
        state, reason = OTHER_SETTINGS, f"made with {'; '.join(differ)}"
    elif problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        state, reason = DAMAGED, f"{problems[min(problems)]}{more}"
    elif reason := short_of(config, manifest.leads):
        state = SHORT
    elif delivered and delivered.layout != layout:
        state, reason = OTHER_LAYOUT, f"delivered in layout {delivered.layout}, {layout} is asked for"
    else:
        state, reason = COMPUTED if receipt is None else DELIVERED, ""
    return Standing(member, place, name, state, reason, manifest, delivered, problems, removed=removed)


def removal_of(config: Config, manifest: MemberManifest, what: str, read: Read | None) -> Removal | None:
    """Return what the record at the destination says of something that is not there, None when nobody removed it."""
    key = config.objects.retention(manifest.member)
    data = read(key) if read else None
    if data is None:
        return None
    try:
        record = parse_removals(data, key, cycle=config.cycle, member=manifest.member)
    except VerificationError as error:
        LOG.warning("%s, counts as missing", error)
        return None
    return record.removed.get(what) if record.content_digest == manifest.content_digest else None


def short_of(config: Config, records: Iterable[LeadRecord]) -> str:
    """Return what is missing of the leads asked for, empty when nothing is."""
    have = {record.lead for record in records}
    missing = sorted(set(config.leads) - have)
    if not missing:
        return ""
    ends = f"ends at {max(have)} h" if have and max(have) < missing[0] else f"lacks {lead_name(missing[0])}"
    return f"{ends}, {config.leads[-1]} h are asked for"


def _read_receipt(
    config: Config, member: int, receipt: tuple[str, bytes | None] | None
) -> tuple[MemberReceipt | None, str]:
    """Return a receipt, and in its place why there is none."""
    if receipt is None:
        return None, ""
    name, data = receipt
    if data is None:
        return None, f"{name}: missing"
    try:
        return parse_receipt(config, member, data, name), ""
    except VerificationError as error:
        return None, str(error)


def _problems(
    config: Config,
    manifest: MemberManifest,
    receipt: MemberReceipt | str,
    objects: Mapping[str, ObjectInfo] | None,
    checked: Check | None,
    *,
    may_miss: bool = False,
) -> dict[int, str]:
    """Return by lead what is wrong of a delivery, in the layout in which it was made.

    In place of a receipt that cannot be read there is the reason. Files that are not there are well if they `may_miss`.
    """
    problems: dict[int, str] = {}
    if isinstance(receipt, str):
        problems[0], delivered = receipt, None
    else:
        delivered = receipt
        if problem := receipt_problem(config, manifest, receipt):
            problems[0] = f"receipt of member {manifest.member}: {problem}"
    if objects is None:
        return problems
    lead_of = {file.name: record.lead for record in manifest.leads for file in record.files}
    for file in vouched_files(manifest, delivered):
        there = objects.get(config.objects.published(file.name))
        if there is None and may_miss:
            continue
        if wrong := _object_problem(there, file, checked):
            problems.setdefault(lead_of.get(file.name, 0), wrong)
    return problems


def _object_problem(info: ObjectInfo | None, file: FileRecord, checked: Check | None) -> str | None:
    """Return what is wrong with an object against its record, or None."""
    if info is None:
        return f"{file.name}: missing"
    if info.size != file.size:
        return f"{file.name}: {info.size} bytes, expected {file.size}"
    found = (checked(info) if checked else info).crc32c
    return None if found in (None, file.crc32c) else f"{file.name}: crc32c {found}, expected {file.crc32c}"


def refusal(reasons: Mapping[int, str]) -> str:
    """Return why a run is refused, by the reasons of members that were delivered with other settings."""
    return (
        f"{grouped(reasons)}; what is delivered is never overwritten: ask for the same, name another destination, or "
        f"remove that run (aifs-ensemble gc --finished {format_members(reasons)} --delete)"
    )


def grouped(reasons: Mapping[int, str], most: int = 5) -> str:
    """Return what is said of members, the same of several once, at most `most` of them."""
    by_text: dict[str, list[int]] = {}
    for member, text in reasons.items():
        by_text.setdefault(text, []).append(member)
    if len(by_text) == 1:
        return next(iter(by_text))
    shown = [f"{format_members(members)}: {text}" for text, members in list(by_text.items())[:most]]
    more = [f"and {len(by_text) - most} more"] if len(by_text) > most else []
    return "; ".join([*shown, *more])


def undelivered(config: Config, members: Collection[int]) -> dict[int, str]:
    """Return the members that are not at the destination as asked for, and why: the judgement of a rented job.

    Raises StorageError when the destination does not answer.
    """
    # one process looks at all jobs: it must not wait for the bucket while others end
    storage = open_destination(config, within=60.0)
    with ThreadPoolExecutor(storage.settings.threads) as pool:
        found = list(pool.map(partial(at_destination, config, storage), members))
    return {one.member: f"{one.name}: {one.text}" for one in found if not one.done}
