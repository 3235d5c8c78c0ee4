"""Records at the door: what is not of its type, or was edited, is refused in one short line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.errors import DiskFullError, VerificationError
from aifs_ensemble.common.files import crc32c_bytes, json_bytes
from aifs_ensemble.common.manifest import (
    OLD_MEMBER_SCHEMA,
    FileRecord,
    LeadRecord,
    MemberManifest,
    parse_member_manifest,
    read_member_manifest,
    write_member_manifest,
)
from aifs_ensemble.common.names import index_file, lead_file, sound_key
from aifs_ensemble.common.records import Count, JsonLines, read_record, sealed
from aifs_ensemble.common.text import foreign

CYCLE = "20250819_0000"


@dataclass(frozen=True)
class Piece:
    """A record of a test."""

    lead: Count
    name: str


def made(**over: Any) -> MemberManifest:
    """Return a manifest of one lead."""
    name = lead_file(CYCLE, 1, 6)
    lead = LeadRecord(6, FileRecord(name, 3, crc32c_bytes(b"abc")), FileRecord(index_file(name), 1, "AAAAAA=="), 98)
    return MemberManifest(**{"model": "demo", "untrained": True, "cycle": CYCLE, "member": 1, "ensemble_size": 50,
                             "grid": "N32", "leads": (lead,), "timings": {"total": 1.5}} | over)  # fmt: skip


def written(tmp_path: Path, **over: Any) -> dict[str, Any]:
    """Return the JSON of a manifest as it is written."""
    path = tmp_path / "m.json"
    write_member_manifest(path, made(**over))
    return json.loads(path.read_bytes())


def test_a_manifest_reads_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "member001.json"
    write_member_manifest(path, made(attempts=({"attempt": 1, "began": "2025-08-19T00:00:00+00:00", "more": [1]},)))
    assert asdict(read_member_manifest(path)) == asdict(
        made(attempts=({"attempt": 1, "began": "2025-08-19T00:00:00+00:00", "more": [1]},))
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("member", 2), ("cycle", "20250820_0000"), ("untrained", False), ("checkpoint", {"sha256": "0"}), ("grid", "N320"),
     ("ensemble_size", 51), ("timings", {}), ("device", "x"),
     ("attempts", [{"attempt": 1}]), ("schema", "x"), ("new", 1)],
)  # fmt: skip
def test_the_digest_covers_all_of_a_manifest(key: str, value: Any, tmp_path: Path) -> None:
    content = written(tmp_path) | {key: value}
    with pytest.raises(VerificationError, match=r"^m: (differs from its own digest|schema 'x')"):
        parse_member_manifest(json_bytes(content), "m")


def test_keys_of_a_newer_version_do_not_make_a_manifest_unreadable(tmp_path: Path) -> None:
    content = sealed(written(tmp_path) | {"accelerated": {"kernels": ["a"]}})
    assert parse_member_manifest(json_bytes(content), "m") == made()


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    content = written(tmp_path) | {"schema": OLD_MEMBER_SCHEMA}
    del content["digest"]
    assert parse_member_manifest(json_bytes(content), "m") == made()
    content["leads"][0]["grib"]["size"] = 4
    with pytest.raises(VerificationError, match="content_digest differs from the leads listed"):
        parse_member_manifest(json_bytes(content), "m")


@pytest.mark.parametrize("odd", [None, True, 1.5, "6", [], {}, -1, 10**400, [[]]], ids=lambda odd: repr(odd)[:10])
@pytest.mark.parametrize(
    "place", ["member", "cycle", "leads", "leads.0", "leads.0.lead", "leads.0.messages", "leads.0.grib",
              "leads.0.grib.size", "leads.0.grib.crc32c", "leads.0.index.name", "timings.total", "attempts",
              "attempts.0", "attempts.0.began", "step_seconds", "settings.packing", "initial_conditions"],
)  # fmt: skip
def test_a_value_of_another_type_is_one_line(place: str, odd: Any, tmp_path: Path) -> None:
    began = {"attempt": 1, "began": "2025-08-19T00:00:00+00:00"}
    content = written(tmp_path, attempts=(began,), step_seconds=(1.0,), settings={"packing": {}},
                      initial_conditions={"source": {"kind": "x"}})  # fmt: skip
    *above, last = place.split(".")
    node: Any = content
    for part in above:
        node = node[int(part)] if part.isdigit() else node[part]
    key: Any = int(last) if last.isdigit() else last
    before = node[key]
    node[key] = odd
    right = type(odd) is type(before) and (odd in ({}, []) or place == "timings.total")
    absent_is_fine = odd is None and place == "settings.packing"
    try:
        parse_member_manifest(json_bytes(sealed(content)), "m", cycle=CYCLE, member=1)
    except VerificationError as error:
        assert len(str(error)) < 200
        assert str(error).isprintable()
    else:
        assert right or absent_is_fine or place == "timings.total"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"5", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"a": NaN}', b'{"a": ' + b"9" * 9000 + b"}"],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_json_is_one_line(data: bytes) -> None:
    with pytest.raises(VerificationError, match=r"^a: .{1,120}$"):
        read_record(Piece, data, "a", schema="x")


def test_foreign_text_is_short_and_printable() -> None:
    assert foreign("a" * 11_000_000) == "a" * 97 + "..."
    assert foreign("a\n\x1b[2J\tb") == "a ?[2J b"
    assert foreign(10**5000) == "int"


def test_a_line_that_differs_from_its_checksum_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = JsonLines(tmp_path / "lines", Piece, "lead")
    lines.append({"lead": 6, "name": "a"})
    lines.append({"lead": 12, "name": "b"})
    whole = lines.path.read_bytes()
    assert lines.read() == [Piece(6, "a"), Piece(12, "b")]
    end = whole.index(b"\n")
    for bit in range(8 * end):
        bad = bytearray(whole)
        bad[bit // 8] ^= 1 << bit % 8
        lines.path.write_bytes(bad)
        assert lines.read()[-1] == Piece(12, "b")
        assert Piece(6, "a") not in lines.read()
        assert len(lines.read()) == 1
    lines.path.write_bytes(
        b'{"lead": 6, "name": "a"}\n5\n{"lead": "6", "name": "a"}\n{"lead": 6}\n{"name": "a", "lead": 6}\n'
    )
    assert lines.read() == [Piece(6, "a")]  # of an earlier version
    assert "and 3 more" in caplog.text


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "lines").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="lines: no space left on device"):
        JsonLines(tmp_path / "lines", Piece, "lead").append({"lead": 6, "name": "a"})


@pytest.mark.parametrize(("key", "sound"), [("a/b.json", True), ("a/../b", False), ("a//b", False), ("/a", False),
                                            ("a/", False), ("", False), ("a/.", False), ("a\n", False)])  # fmt: skip
def test_a_key_is_relative_and_plain(key: str, sound: bool) -> None:
    assert sound_key(key) == sound
