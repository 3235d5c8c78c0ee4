"""Bring finished members from scratch to the destination, verified. What is there already is not sent again."""

from __future__ import annotations

import argparse
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    config_from,
    run_each_cycle,
)
from aifs_ensemble.common.errors import ConfigError, InputError, VerificationError, WorkflowError
from aifs_ensemble.common.names import format_members, member_name
from aifs_ensemble.common.text import size

if TYPE_CHECKING:
    from collections.abc import Callable

    from aifs_ensemble.common.config import Config
    from aifs_ensemble.common.storage import Storage
    from aifs_ensemble.delivery.member import Receipt

GROUP = "stages"
EXAMPLE = "aifs-ensemble sync --config destination=gs://my-bucket/aifs-ens"
HELP = "deliver finished members to the destination"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument("--no-ensemble", action="store_true", help="leave the ensemble's manifest as it is")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Deliver every finished member, say what moved, and write the ensemble's manifest."""
    run_each_cycle(args, config_from(args, "there"), lambda config, tell: _sync(args, config, tell))
    return 0


def _sync(args: argparse.Namespace, config: Config, tell: Callable[[Any], None]) -> None:
    """Deliver the members of a cycle.

    A member that cannot be delivered does not keep the others from it; the error comes at the end.
    """
    from aifs_ensemble.common.storage import ConflictError, open_destination
    from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
    from aifs_ensemble.delivery.standing import OTHER_SETTINGS, SHORT, on_scratch

    say = (lambda *_: None) if args.json else print
    storage = open_destination(config)
    finished = [member for member in config.members if config.scratch.manifest(member).exists()]
    if not finished:
        raise ConfigError(
            f"{config.scratch.base / 'manifests'}: no finished member, expected some of {config.given.members}"
        )
    receipts: list[Receipt] = []
    failed: dict[int, WorkflowError] = {}
    for member in finished:
        try:
            standing = on_scratch(config, member)
            if standing.state == OTHER_SETTINGS:  # once delivered, it would be in the way of what is asked for
                raise VerificationError(standing.text)
            if removed := _removed(config, member, storage):
                say(f"{member_name(member)}: {removed}, stays as it is")
                continue
            receipts.append(_deliver(config, member, storage))
            say(_delivered(receipts[-1]))
            if standing.state == SHORT:
                say(f"{member_name(member)}: {standing.text}")
        except (ConflictError, InputError, VerificationError) as error:  # of this member alone
            failed[member] = error
            say(f"{member_name(member)}: not delivered: {error}")
    say(_summary(receipts, storage))
    ensemble = None if args.no_ensemble else write_ensemble_manifest(config)
    if args.json:
        moved = [receipt.lasting() | {"sent_bytes": receipt.sent_bytes} for receipt in receipts]
        problems = {member: str(error) for member, error in failed.items()}
        tell({"destination": storage.url, "delivered": moved, "failed": problems, "ensemble": ensemble})
    elif ensemble is not None:
        print(ensemble)
    if failed:
        first = next(iter(failed.values()))
        raise type(first)(f"members {format_members(failed)} not delivered, the first because {first}")


def _deliver(config: Config, member: int, storage: Storage) -> Receipt:
    from aifs_ensemble.delivery.member import deliver_member

    name = member_name(member)
    with _Line() as line:
        sent, began = storage.counts.bytes, monotonic()

        def on_progress(done: int, leads: int) -> None:
            moved = storage.counts.bytes - sent
            speed = moved / max(monotonic() - began, 1e-9)
            if done == leads:
                line.clear()  # the log follows
                return
            line.show(f"{name}: {done} of {leads} leads, {size(moved)} sent, {size(speed)}/s")

        return deliver_member(config, member, storage, on_progress)


def _removed(config: Config, member: int, storage: Storage) -> str:
    """Return that the leads of a member, which scratch may still have, went from the destination by retention."""
    from aifs_ensemble.delivery.removed import LEADS
    from aifs_ensemble.delivery.standing import at_destination

    if storage.stat(config.objects.retention(member)) is None:
        return ""
    standing = at_destination(config, storage, member)
    return standing.removed_text if standing.whole and LEADS in standing.removed else ""


def _delivered(receipt: Receipt) -> str:
    """Return one line about a member delivered."""
    text = (
        f"{member_name(receipt.member)}: {size(receipt.bytes)} in {len(receipt.objects)} objects, {_moved([receipt])}"
    )
    return f"{text}, {size(receipt.freed_bytes)} of scratch freed" if receipt.freed_bytes else text


def _summary(receipts: list[Receipt], storage: Storage) -> str:
    """Return one line about all members delivered."""
    total = sum(receipt.bytes for receipt in receipts)
    retries = sum(receipt.retries for receipt in receipts)
    members = format_members(receipt.member for receipt in receipts) or "none"
    text = f"members {members}: {size(total)} at {storage.url}, {_moved(receipts)}"
    return f"{text}, {retries} requests repeated" if retries else text


def _moved(receipts: list[Receipt]) -> str:
    """Return what deliveries sent, and how fast."""
    objects = sum(receipt.sent_objects for receipt in receipts)
    sent = sum(receipt.sent_bytes for receipt in receipts)
    seconds = sum(receipt.seconds for receipt in receipts)
    if not objects:
        return "no bytes moved"
    return f"{size(sent)} in {objects} objects sent in {seconds:.1f} s ({size(sent / seconds)}/s)"


class _Line:
    """One line on a terminal that is written over, at most five times a second; nothing elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = 0.0

    def show(self, text: str) -> None:
        """Write `text` over what was shown before."""
        if self._terminal and monotonic() - self._shown > 0.2:
            self._shown = monotonic()
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Leave the line empty."""
        if self._shown:
            self._shown = 0.0
            print("\r\033[K", end="", file=sys.stderr, flush=True)
