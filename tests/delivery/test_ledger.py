"""The ledger and the queue of a streaming delivery, without a destination."""

from __future__ import annotations

import threading

import pytest
from aifs_ensemble.common.manifest import FileRecord, LeadRecord
from aifs_ensemble.delivery.ledger import Ledger
from aifs_ensemble.delivery.send_queue import SendQueue

LEADS = (6, 12, 18, 24, 30)


def record(lead: int, version: int = 0) -> LeadRecord:
    files = (FileRecord(f"h{lead:03d}.{kind}", 10 + version, "AAAAAA==") for kind in ("grib2", "index"))
    return LeadRecord(lead, *files, 1)


def ledger_of(*delivered: int, points_kept: int = 2) -> Ledger:
    ledger = Ledger(LEADS, points_kept)
    for lead in delivered:
        assert ledger.add(record(lead))
        ledger.deliver(record(lead))
    return ledger


def test_a_lead_is_sent_once_and_again_when_it_was_made_again() -> None:
    ledger = ledger_of(6)
    assert not ledger.add(record(6)) and not ledger.sending
    assert ledger.add(record(6, 1)) and not ledger.add(record(6, 1)) and ledger.sending
    ledger.deliver(record(6))  # the earlier version, late: the newer one still waits
    assert ledger.sending
    ledger.forget(record(6, 1))
    assert not ledger.sending


def test_delivered_leads_are_removed_once_and_not_while_a_newer_version_waits() -> None:
    ledger = ledger_of(6, 12)
    assert ledger.add(record(6, 1))
    assert ledger.take_removable() == [record(12)] and ledger.take_removable() == []
    ledger.deliver(record(6, 1))
    assert ledger.take_removable() == [record(6, 1)]


def test_a_resume_point_needs_its_state_and_every_lead_before_it() -> None:
    ledger = ledger_of(6, 18)
    ledger.add_state(18)
    assert ledger.take_points() == []
    ledger.mirror(18)
    assert ledger.take_points() == []
    ledger.add(record(12))
    ledger.deliver(record(12))
    assert ledger.take_points() == [(18, [record(6), record(12), record(18)])]
    assert ledger.take_points() == []


@pytest.mark.parametrize(("points_kept", "kept"), [(1, {18, 24}), (2, {12, 18, 24}), (3, {6, 12, 18, 24})])
def test_states_older_than_the_points_kept_go_and_newer_ones_stay(points_kept: int, kept: set[int]) -> None:
    ledger = ledger_of(points_kept=points_kept)
    for state in (6, 12, 18, 24):
        ledger.add_state(state)
    for point in (12, 18):
        ledger.leave_point(point)
    assert ledger.states == kept


def test_a_state_is_overdue_while_it_waits_for_its_own_transfers_alone() -> None:
    ledger = ledger_of(6)
    ledger.add_state(12)
    assert not ledger.overdue(12)  # lead 12 is not published: only the forecast can make it
    ledger.add(record(12))
    assert ledger.overdue(12) and not ledger.overdue(11)
    ledger.leave_point(12)
    assert not ledger.overdue(12)


def test_the_queue_takes_the_earliest_hour_first_and_stops_after_an_error() -> None:
    queue, go_on, done = SendQueue(1), threading.Event(), []
    opened = queue.first(lambda: go_on.wait(30))

    def fail() -> None:
        raise OSError("gone")

    for hours, task in (
        (24, fail),
        (30, lambda: done.append(30)),
        (6, lambda: done.append(6)),
        (6, lambda: done.append(7)),
    ):
        queue.submit(hours, task)
    queue.wait(0.01)
    assert done == [] and queue.error is None
    go_on.set()
    queue.wait()
    queue.close(wait=True)
    assert opened.result() and done == [6, 7] and str(queue.error) == "gone"
