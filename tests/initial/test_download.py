"""The fault table: whatever a source does, a good field from it or the next, or one clear line.

docs/initial-conditions.md shows the same table; a case here is a row there.
"""

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from aifs_ensemble.common.config.sections import EcmwfOpenData
from aifs_ensemble.common.errors import ConfigError, DownloadError, InputError
from aifs_ensemble.common.names import parse_cycle
from aifs_ensemble.common.parameters import FieldName
from aifs_ensemble.fields.grib_reader import decode, split_messages
from aifs_ensemble.initial.download import Downloader, FieldRequest, UnreachedSourcesError
from doubles.opendata_server import Fault, serve
from ecmwf.opendata import utils

SETTINGS = EcmwfOpenData(attempts=2, deadline_seconds=30, stall_seconds=0.5)
NAMES = ("10u", "2t", "msl", "sp", "tcw")
REQUEST = FieldRequest(parse_cycle("20250819_0000"), "enfo", "pf", tuple(FieldName(n, "sfc") for n in NAMES), 1)
GRIB, INDEX = r"\.grib2$", r"\.index$"

# name, fault of the first source, what it says when it is the only one, whether it mends with a second try
FAULTS = [
    ("403", Fault(GRIB, status=403), "HTTP 403", False),
    ("404 index", Fault(INDEX, status=404), "HTTP 404", False),
    ("404", Fault(GRIB, status=404), "HTTP 404", False),
    ("429", Fault(GRIB, status=429), "HTTP 429", True),
    ("429 Retry-After", Fault(GRIB, status=429, headers={"Retry-After": "1"}), "HTTP 429", True),
    ("429 long Retry-After", Fault(GRIB, status=429, headers={"Retry-After": "3600"}), "HTTP 429", False),
    ("500", Fault(GRIB, status=500), "HTTP 500", True),
    ("503", Fault(GRIB, status=503), "HTTP 503", True),
    ("503 index", Fault(INDEX, status=503), "HTTP 503", True),
    ("reset", Fault(GRIB, reset=True), "no connection|broke off", True),
    ("reset index", Fault(INDEX, reset=True), "no connection|broke off", True),
    ("truncated body", Fault(GRIB, cut=0.6), "broke off after", True),
    ("short range", Fault(GRIB, shorten=0.6), "no whole GRIB message", True),
    ("truncated index", Fault(INDEX, cut=0.6), "broke off after", True),
    ("short index", Fault(INDEX, shorten=0.6), "index is truncated or damaged at line", True),
    ("empty index", Fault(INDEX, shorten=1e-9), "empty index", True),
    ("whole file to a range", Fault(GRIB, whole=True), "answers 200 with the whole file", False),
    ("zeroed bytes", Fault(GRIB, zeros=True), "no whole GRIB message", True),
    ("stall", Fault(GRIB, stall=5), r"no new byte in 0\.5 s", True),
    ("stall index", Fault(INDEX, stall=5), r"no new byte in 0\.5 s", True),
]
IDS = [case[0].replace(" ", "-") for case in FAULTS]


def sources(*servers):
    return [server.url for server in servers]


def reference(replica, tmp_path):
    with serve(replica) as good:
        return Downloader(sources(good), SETTINGS, tmp_path / "reference").fetch(REQUEST)


def assert_same_fields(delivery, expected):
    assert [f.header for f in delivery.fields] == [f.header for f in expected.fields]
    assert [f.digest for f in delivery.fields] == [f.digest for f in expected.fields]
    for one, other in zip(delivery.fields, expected.fields, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


def assert_cache_is_sound(cache):
    for path in (cache / "ranges").rglob("*"):
        if path.is_file():
            for _, message in split_messages(path.read_bytes(), str(path)):
                decode(message, str(path))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("name", "fault", "line", "mends"), FAULTS, ids=IDS)
def test_fault_goes_on_to_the_next_source(replica, tmp_path, name, fault, line, mends):
    expected = reference(replica, tmp_path)
    with serve(replica, replace(fault)) as bad, serve(replica) as good:
        delivery = Downloader(sources(bad, good), SETTINGS, tmp_path / "cache").fetch(REQUEST)
    assert delivery.source == good.url
    assert_same_fields(delivery, expected)
    assert_cache_is_sound(tmp_path / "cache")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("name", "fault", "line", "mends"), FAULTS, ids=IDS)
def test_fault_of_the_only_source_is_one_line(replica, tmp_path, name, fault, line, mends):
    with (
        serve(replica, replace(fault)) as bad,
        pytest.raises(DownloadError, match=line) as caught,
    ):
        Downloader(sources(bad), SETTINGS, tmp_path / "cache").fetch(REQUEST)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"open data {REQUEST}: {bad.url}: ")
    assert_cache_is_sound(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.part"))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "fault", "line", "mends"),
    [case for case in FAULTS if case[3]],
    ids=[case[0].replace(" ", "-") for case in FAULTS if case[3]],
)
def test_passing_fault_is_tried_again(replica, tmp_path, name, fault, line, mends):
    expected = reference(replica, tmp_path)
    with serve(replica, replace(fault, times=1)) as passing:
        delivery = Downloader(sources(passing), SETTINGS, tmp_path / "cache").fetch(REQUEST)
    assert delivery.source == passing.url
    assert_same_fields(delivery, expected)


@pytest.mark.timeout(30)
def test_source_that_is_down_is_left(replica, tmp_path):
    with serve(replica) as down:
        pass  # closed: its address refuses connections
    with serve(replica) as good:
        downloader = Downloader(sources(down, good), SETTINGS, tmp_path / "cache")
        assert downloader.fetch(REQUEST).source == good.url
        assert downloader.sources == [good.url, down.url], "a dead source must not be tried first again"


@pytest.mark.timeout(30)
def test_of_many_requests_a_source_that_is_down_is_asked_once(replica, tmp_path, caplog):
    with serve(replica) as down:
        pass
    with serve(replica) as good:
        downloader = Downloader(sources(down, good), SETTINGS, tmp_path / "cache", once=True)
        for number in (1, 2):
            assert downloader.fetch(replace(REQUEST, number=number)).source == good.url
    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith(f"{down.url}: no connection (") and said.endswith("; it is not asked again")
    cached = Downloader(sources(good), SETTINGS, tmp_path / "cache", once=True)
    assert cached.fetch(REQUEST).source == good.url, "what is in the cache needs nobody"
    with pytest.raises(UnreachedSourcesError, match="no connection"):
        cached.fetch(replace(REQUEST, parameters=(FieldName("skt", "sfc"),), time=REQUEST.time + timedelta(days=1)))


def test_paragraphs_of_the_client_are_not_printed(caplog, capsys):
    utils.warning_once("To ensure the stability of our systems, as of this test")
    assert not caplog.records and capsys.readouterr() == ("", "")


def without(replica, tmp_path, text):
    """Return a copy of the replica whose index does not list lines with `text`."""
    copy = tmp_path / "lacking"
    shutil.copytree(replica, copy)
    for index in copy.rglob("*.index"):
        kept = [line for line in index.read_text().splitlines(keepends=True) if text not in line]
        index.write_text("".join(kept))
    return copy


@pytest.mark.parametrize(
    ("lacks", "line"),
    [
        ('"param": "sp"', "lacks 1 of 5 fields: sp"),
        ('"number": "1"', "lacks 5 of 5 fields: 10u, 2t, msl, sp, tcw"),
    ],
    ids=["parameter", "member"],
)
def test_missing_fields_are_named_or_come_from_the_next_source(replica, tmp_path, lacks, line):
    with serve(without(replica, tmp_path, lacks)) as lacking, serve(replica) as good:
        with pytest.raises(InputError, match=line):
            Downloader(sources(lacking), SETTINGS, tmp_path / "a").fetch(REQUEST)
        delivery = Downloader(sources(lacking, good), SETTINGS, tmp_path / "b").fetch(REQUEST)
    assert delivery.source == good.url
    assert_same_fields(delivery, reference(replica, tmp_path))


def test_index_of_another_file_is_caught(replica, tmp_path):
    copy = tmp_path / "shifted"
    shutil.copytree(replica, copy)
    for index in copy.rglob("*.index"):
        text = index.read_text()
        index.write_text(text.replace('"number": "1"', '"number": "x"').replace('"number": "2"', '"number": "1"'))
    with serve(copy) as wrong, pytest.raises(DownloadError, match="member 2 at 2025-08-19 00 UTC, expected"):
        Downloader(sources(wrong), SETTINGS, tmp_path / "cache").fetch(REQUEST)
    assert not list((tmp_path / "cache").rglob("*.grib2"))


def test_an_index_that_names_a_field_twice_is_refused(replica, tmp_path):
    copy = tmp_path / "twice"
    shutil.copytree(replica, copy)
    for index in copy.rglob("*.index"):
        lines = index.read_text().splitlines(keepends=True)
        one = next((line for line in lines if '"param": "sp"' in line and '"number": "1"' in line), None)
        if one:
            entry = json.loads(one) | {"_offset": 0}
            index.write_text("".join([*lines, json.dumps(entry) + "\n"]))
    with serve(copy) as wrong, pytest.raises(DownloadError, match=r"its index names sp twice, \d+ bytes at byte"):
        Downloader(sources(wrong), SETTINGS, tmp_path / "cache").fetch(REQUEST)


@pytest.mark.timeout(30)
def test_trickle_ends_at_the_deadline(replica, tmp_path):
    settings = SETTINGS.model_copy(update={"deadline_seconds": 1.5})
    with (
        serve(replica, Fault(GRIB, trickle=0.1)) as slow,
        pytest.raises(DownloadError, match=r"deadline of 1\.5 s passed"),
    ):
        Downloader(sources(slow), settings, tmp_path / "cache").fetch(REQUEST)


def test_only_the_ranges_needed_are_sent(replica, tmp_path):
    with serve(replica) as server:
        delivery = Downloader(sources(server), SETTINGS, tmp_path / "cache").fetch(REQUEST)
        index = next(replica.rglob("20250819*-enfo-ef.index")).stat().st_size
        assert server.bytes_sent == index + sum(f.size for f in delivery.fields)
        assert all(asked for path, asked in server.log if path.endswith(".grib2"))


def test_whole_file_is_never_read(replica, tmp_path):
    with serve(replica, Fault(GRIB, whole=True)) as server, pytest.raises(DownloadError):
        Downloader(sources(server), SETTINGS, tmp_path / "cache").fetch(REQUEST)
    assert not list((tmp_path / "cache").rglob("*.grib2"))


def test_cached_fields_cost_no_request_even_when_all_sources_are_down(replica, tmp_path):
    with serve(replica) as server:
        first = Downloader(sources(server), SETTINGS, tmp_path / "cache").fetch(REQUEST)
    again = Downloader(["http://127.0.0.1:9", server.url], SETTINGS, tmp_path / "cache").fetch(REQUEST)
    assert_same_fields(again, first)
    assert again.provenance == first.provenance


def test_damaged_cache_is_fetched_again(replica, tmp_path):
    with serve(replica) as server:
        first = Downloader(sources(server), SETTINGS, tmp_path / "cache").fetch(REQUEST)
        victim = sorted((tmp_path / "cache").rglob("*.grib2"))[0]
        victim.write_bytes(victim.read_bytes()[:-40] + bytes(36) + b"7777")
        before = len(server.log)
        again = Downloader(sources(server), SETTINGS, tmp_path / "cache").fetch(REQUEST)
        assert len(server.log) == before + 1
    assert_same_fields(again, first)


def test_retry_fetches_only_what_is_missing(replica, tmp_path):
    with serve(replica, Fault(GRIB, skip=2, times=1, status=503)) as server:
        Downloader(sources(server), SETTINGS, tmp_path / "cache").fetch(REQUEST)
        ranges = [asked for path, asked in server.log if path.endswith(".grib2")]
    assert len(set(ranges)) == len(NAMES)
    assert len(ranges) <= len(NAMES) + 1 + len(NAMES) - 3, "ranges that had arrived were asked for again"


@pytest.mark.parametrize("source", ["goggle", "ftp://host", "", "/data"])
def test_unknown_source_is_refused_by_name(source, tmp_path):
    with pytest.raises(ConfigError, match="expected a base URL or one of aws, azure"):
        Downloader([source], SETTINGS, tmp_path)


@pytest.mark.parametrize(
    ("date", "stream", "expected"),
    [
        ("20260511_1800", "oper", "20260511/18z/ifs/0p25/scda/20260511180000-0h-scda-fc.grib2"),
        ("20260512_0600", "oper", "20260512/06z/ifs/0p25/oper/20260512060000-0h-oper-fc.grib2"),
        ("20260512_1800", "oper", "20260512/18z/ifs/0p25/oper/20260512180000-0h-oper-fc.grib2"),
        ("20260511_0600", "enfo", "20260511/06z/ifs/0p25/enfo/20260511060000-0h-enfo-ef.grib2"),
        ("20261101_1800", "enfo", "20261101/18z/ifs/0p25/enfo/20261101180000-0h-enfo-ef.grib2"),
    ],
)
def test_streams_and_file_names_across_the_change_of_may_2026(date, stream, expected, tmp_path):
    kind, number = ("fc", None) if stream == "oper" else ("pf", 1)
    request = FieldRequest(parse_cycle(date), stream, kind, (FieldName("lsm", "sfc"),), number)
    with serve(tmp_path) as server:
        with pytest.raises(DownloadError, match="HTTP 404"):
            Downloader(sources(server), SETTINGS, tmp_path / "cache").fetch(request)
        assert [path for path, _ in server.log] == ["/" + expected.replace(".grib2", ".index")]
