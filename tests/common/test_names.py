"""Names are read back as they are written, and other names are told apart."""

from __future__ import annotations

import pytest
from aifs_ensemble.common.names import (
    Keys,
    Scratch,
    block_file,
    count_members,
    format_members,
    index_file,
    lead_file,
    member_in,
    member_name,
    parse_lead_file,
    parse_member_name,
    parse_members,
    parse_restart_file,
    restart_file,
)
from hypothesis import given
from hypothesis import strategies as st

CYCLE = "20250819_0000"
MEMBERS = st.integers(0, 999)
LEADS = st.integers(1, 160).map(lambda step: 6 * step)


@given(member=MEMBERS, lead=LEADS)
def test_names_are_read_back(member: int, lead: int) -> None:
    assert parse_lead_file(lead_file(CYCLE, member, lead)) == (CYCLE, member, lead)
    assert parse_member_name(member_name(member)) == member
    assert parse_restart_file(restart_file(lead)) == lead


@pytest.mark.parametrize(
    "name",
    [
        index_file(lead_file(CYCLE, 1, 6)),
        block_file(CYCLE, 1, 0, 24),
        f"part.{lead_file(CYCLE, 1, 6)}",
        f"{lead_file(CYCLE, 1, 6)}.part",
    ],
)
def test_other_files_are_no_lead(name: str) -> None:
    assert parse_lead_file(name) is None


@pytest.mark.parametrize("name", ["h006.json", "h06.safetensors", ".h006.safetensors.1.part", "member001.safetensors"])
def test_other_files_are_no_restart_state(name: str) -> None:
    assert parse_restart_file(name) is None


@given(member=MEMBERS, lead=LEADS)
def test_every_object_of_a_member_says_whose_it_is(member: int, lead: int) -> None:
    keys = Keys(CYCLE)
    named = [
        keys.lead(member, lead),
        keys.index(member, lead),
        keys.block(member, 0, lead),
        keys.manifest(member),
        keys.receipt(member),
        keys.status(member),
        keys.metrics(member),
        keys.restart(member, lead),
        keys.resume_point(member, lead),
        keys.initial(member),
        keys.initial_summary(member),
    ]
    assert {member_in(key) for key in named} == {member_name(member)}


@pytest.mark.parametrize("key", ["20250819_0000/manifest.json", "members/a.json", "20250819_0000/initial/members.json"])
def test_an_object_of_no_member_names_none(key: str) -> None:
    assert member_in(key) is None


def test_a_wildcard_stands_for_a_member(tmp_path) -> None:
    """A rule's names with the wildcard filled are the names that the library uses."""
    keys, scratch = Keys(CYCLE), Scratch(tmp_path, CYCLE)
    for name in (keys.manifest, keys.receipt, keys.initial, keys.initial_summary, scratch.manifest, scratch.delivered):
        assert str(name("{member}")).format(member="007") == str(name(7))
    assert keys.lead("{member}", 6).format(member="007") == keys.lead(7, 6)


@pytest.mark.parametrize("value", ["0-50", "0,1-50", 0, "0", [0, "1-3"], "000", "5,0"])
def test_member_0_is_a_member(value: str | int | list[int | str]) -> None:
    members = parse_members(value, 50)
    assert members[0] == 0 and parse_members(format_members(members)) == members


COUNTS = [
    (range(1, 51), range(1, 51), "50 of 50 members"),
    (range(51), range(51), "50 of 50 members and the control"),
    (range(51), range(1, 51), "50 of 50 members without the control"),
    (range(51), [0, 7], "1 of 50 members and the control"),
    (range(51), None, "50 members and the control"),
    ([1, 2], [0, 1], "1 of 2 members"),
    ([3], None, "1 members"),
    ([0], [0], "the control"),
    ([0], [], "not the control"),
]


@pytest.mark.parametrize(("wanted", "found", "text"), COUNTS)
def test_the_control_is_counted_by_itself(wanted: list[int], found: list[int] | None, text: str) -> None:
    assert count_members(wanted, found) == text
