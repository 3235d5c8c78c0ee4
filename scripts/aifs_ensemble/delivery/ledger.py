"""What a streaming delivery knows of one member: which leads and restart states are where.

Not locked: whoever shares a ledger between threads holds a lock around each call.
"""

from __future__ import annotations

from collections.abc import Sequence

from aifs_ensemble.common.manifest import LeadRecord


class Ledger:
    """Leads and restart states of one member, by hour.

    Parameters
    ----------
    leads : leads of the forecast in hours
    points_kept : resume points kept at the destination
    """

    def __init__(self, leads: Sequence[int], points_kept: int):
        self._leads, self._points_kept = leads, points_kept
        self._waiting: dict[int, LeadRecord] = {}
        self._delivered: dict[int, LeadRecord] = {}
        self._removed: set[int] = set()
        self._under_way: set[int] = set()  # restart states without a resume point yet
        self._mirrored: set[int] = set()  # of them, those at the destination
        self._states: set[int] = set()  # restart states to be kept at the destination
        self._points: list[int] = []

    @property
    def sending(self) -> bool:
        """Whether a lead waits for its delivery."""
        return bool(self._waiting)

    @property
    def states(self) -> set[int]:
        """The restart states that are to stay at the destination."""
        return set(self._states)

    def add(self, record: LeadRecord) -> bool:
        """Note a lead to deliver; return False for one that is known."""
        if record in (self._waiting.get(record.lead), self._delivered.get(record.lead)):
            return False
        self._waiting[record.lead] = record
        self._removed.discard(record.lead)
        return True

    def deliver(self, record: LeadRecord) -> None:
        """Note that a lead is at the destination; a newer version of it goes on waiting."""
        self.forget(record)
        self._delivered[record.lead] = record

    def forget(self, record: LeadRecord) -> None:
        """Note that a lead is not going to be sent."""
        if self._waiting.get(record.lead) == record:
            del self._waiting[record.lead]

    def take_removable(self) -> list[LeadRecord]:
        """Return the delivered leads that are still on scratch, and note that they are going to be removed."""
        gone = self._removed | self._waiting.keys()  # of the latter an earlier version was delivered
        records = [record for lead, record in self._delivered.items() if lead not in gone]
        self._removed.update(record.lead for record in records)
        return records

    def add_state(self, lead: int) -> None:
        """Note a restart state to mirror."""
        self._states.add(lead)
        self._under_way.add(lead)

    def mirror(self, lead: int) -> None:
        """Note that a restart state is at the destination."""
        self._mirrored.add(lead)

    def take_points(self) -> list[tuple[int, list[LeadRecord]]]:
        """Return the resume points that have become whole, once each: the lead, and the leads delivered up to it."""
        ready = []
        for lead in sorted(self._mirrored):
            before = [self._delivered.get(hours) for hours in self._leads if hours <= lead]
            if None not in before:
                ready.append((lead, [record for record in before if record is not None]))
        self._mirrored -= {lead for lead, _ in ready}
        return ready

    def leave_point(self, lead: int) -> None:
        """Note that a resume point is at the destination; older restart states are not to stay there."""
        self._under_way = {other for other in self._under_way if other > lead}
        self._points = sorted([*self._points, lead])[-self._points_kept :]
        if len(self._points) == self._points_kept:  # until then an earlier one still on its way has its place
            self._states = {own for own in self._states if own >= self._points[0]}

    def overdue(self, before: int) -> bool:
        """Tell whether a restart state up to `before` hours waits for nothing but its own transfers."""
        known = self._waiting.keys() | self._delivered.keys()
        return any(
            state <= before and known.issuperset(hours for hours in self._leads if hours <= state)
            for state in self._under_way
        )
