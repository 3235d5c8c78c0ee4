"""Room on scratch, and where bucket, images and machines are."""

from __future__ import annotations

from pathlib import Path

import pytest
from aifs_ensemble.common import environment
from aifs_ensemble.common.errors import ConfigError, PlanError, StorageError
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.manifest import FileRecord
from aifs_ensemble.delivery import scratch
from aifs_ensemble.delivery.blocks import combine_crc32c, make_blocks
from aifs_ensemble.delivery.scratch import FileSystem, MemberSizes, check_scratch, file_system, room_needed, tree_bytes
from aifs_ensemble.planning.regions import check_regions, continent, image_region, near
from aifs_ensemble.workflow import preflight
from aifs_ensemble.workflow.members_here import MembersHere
from doubles.gcs_fault_proxy import FaultProxy
from hypothesis import given
from hypothesis import strategies as st

from delivery.members import make_config, make_member

GB = 10**9


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_checksums_combine(parts: list[bytes]) -> None:
    files = [FileRecord("", len(part), crc32c_bytes(part)) for part in parts]
    assert combine_crc32c(files) == crc32c_bytes(b"".join(parts))


def test_checksums_combine_over_large_files() -> None:
    one, two = bytes(range(256)) * 40_000, b"x" * 12_345_678
    files = [FileRecord("", len(part), crc32c_bytes(part)) for part in (one, two)]
    assert combine_crc32c(files) == crc32c_bytes(one + two)


def test_blocks_have_the_names_that_users_know(tmp_path: Path) -> None:
    config = make_config(tmp_path, "x", lead_hours=162, members="1")
    manifest = make_member(config, 1, size=30)
    blocks = make_blocks(config.cycle, 1, manifest.leads, 72)
    assert [(b.grib.name.rpartition("_")[2], [r.lead for r in b.leads][:: len(b.leads) - 1]) for b in blocks] == [
        ("h000-072.grib", [6, 72]),
        ("h072-144.grib", [78, 144]),
        ("h144-162.grib", [150, 162]),
    ]


def test_a_block_of_too_many_leads_is_refused(tmp_path: Path) -> None:
    delivery = {"layout": "both", "block_hours": 240}
    with pytest.raises(ConfigError, match=r"delivery\.block_hours: 240, expected integer, at least 6, at most 192"):
        make_config(tmp_path, str(tmp_path / "x"), lead_hours=240, members="1", delivery=delivery)


MOUNTS = """overlay / overlay rw 0 0
/dev/nvme0n1 {disk} ext4 rw 0 0
tmpfs {memory} tmpfs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    """A table of mounts: the container's layer, a disk and memory."""
    for name in ("disk", "memory"):
        (tmp_path / name).mkdir()
    path = tmp_path / "mounts"
    path.write_text(MOUNTS.format(disk=tmp_path / "disk", memory=tmp_path / "memory"))
    return path


def test_file_systems_are_told_apart(mounts: Path) -> None:
    here = mounts.parent
    assert file_system(here / "disk" / "not" / "there", mounts).kind == "ext4"
    assert file_system(here / "memory", mounts).memory
    assert file_system(here / "else", mounts).overlay
    own = file_system(here)
    assert 0 < own.free <= own.total


def test_a_containers_layer_is_refused_by_name(mounts: Path) -> None:
    config = make_config(mounts.parent / "scratch", "x")
    with pytest.raises(PlanError, match=r"config: scratch: .*/scratch is on the container's own layer \(overlay"):
        check_scratch(config, 5 << 30, mounts=mounts)
    assert check_scratch(config, 1 << 20, mounts=mounts).overlay


def test_a_containers_layer_on_a_rented_disk_counts_as_that_disk(mounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the run said that the disk below was rented for scratch, its room decides, and nothing else."""
    monkeypatch.setenv(environment.LAYER_ON_RENTED_DISK, "1")
    config = make_config(mounts.parent / "scratch", "x")
    room = file_system(mounts.parent)
    assert check_scratch(config, 3 << 30, held=3 << 30, mounts=mounts).overlay
    with pytest.raises(PlanError, match=r"to give on / \(overlay\), expected"):
        check_scratch(config, room.total + (3 << 30), mounts=mounts)


def test_memory_is_no_larger_than_the_memory_that_is_free(mounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = mounts.parent / "meminfo"
    meminfo.write_text("MemTotal: 4000 kB\nMemFree: 100 kB\nMemAvailable: 300 kB\n")
    monkeypatch.setattr(scratch, "MEMORY", meminfo)
    assert file_system(mounts.parent / "memory", mounts).free == 300 << 10
    assert file_system(mounts.parent / "disk", mounts).free > 300 << 10
    config = make_config(mounts.parent / "memory", "x")
    with pytest.raises(PlanError, match=r"has \d+ k?B to give on .*/memory \(tmpfs\), expected 1 MB"):
        check_scratch(config, 1_000_000, mounts=mounts)


def test_too_little_room_is_refused(mounts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "file_system", lambda *_: FileSystem("/d", "ext4", 100 * GB, 50 * GB))
    config = make_config(mounts.parent / "disk", "x", delivery={"scratch_budget_mb": 20_000})
    assert check_scratch(config, 20 * GB)
    with pytest.raises(PlanError, match=r"has 47\.9 GB to give on /d \(ext4\), expected 49 GB"):
        check_scratch(config, 49 * GB)
    with pytest.raises(PlanError, match=r"delivery\.scratch_budget_mb: 20000, expected at least 30000"):
        check_scratch(config, 30 * GB)


@pytest.mark.parametrize(
    ("over", "members", "rented", "needed"),
    [
        ({"keep_scratch": True}, 2, False, 2 * 132 * 10 + 2 * 8),
        ({"keep_scratch": True, "delivery": {"streaming": True}}, 7, True, 7 * 132 * 10 + 2 * 8),
        ({"keep_scratch": False}, 2, False, 2 * (132 * 10 + 8)),
        ({"keep_scratch": False}, 50, False, 4 * 132 * 10 + 2 * 8),
        ({"keep_scratch": False}, 7, True, 7 * 132 * 10 + 2 * 8),
        ({"keep_scratch": False, "delivery": {"streaming": True}}, 7, True, 2 * (8 * 10 + 8)),
        ({"keep_scratch": False, "delivery": {"streaming": True}}, 1, True, 8 * 10 + 8),
    ],
    ids=["kept", "streaming and kept", "delivered afterwards", "many", "delivered elsewhere", "streaming", "the last"],
)
def test_room_needed(tmp_path: Path, over: dict[str, object], members: int, rented: bool, needed: int) -> None:
    """Two members at once: leads of 10 bytes, three restart states of 1, an initial state of 5."""
    config = make_config(tmp_path, "x", lead_hours=792, **over)
    assert room_needed(config, MemberSizes(10, 1, 5), members, 2, rented=rented) == needed
    assert room_needed(config, MemberSizes(10, 1, 5), members, 2, rented=rented, to_make=1) == 10 + min(2, members) * 8


@pytest.mark.parametrize("made", [0, 1, 2])
def test_a_run_half_made_needs_only_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: int) -> None:
    """A disk of 1.2 times what is needed takes a run again at any stage; another member more it does not."""
    config = make_config(tmp_path / "scratch", str(tmp_path / "out"))
    sizes = MemberSizes(50_000, 0)
    monkeypatch.setattr(preflight, "member_sizes", lambda _config: sizes)
    needed = int(room_needed(config, sizes, 2, 1))
    for member in (1, 2)[:made]:
        make_member(config, member, size=50_000)
    disk = FileSystem("/", "ext4", 0, int(1.2 * needed) - made * needed // 2)
    monkeypatch.setattr(scratch, "file_system", lambda *_: disk)
    preflight.check_room(config, MembersHere(2, 1))
    with pytest.raises(PlanError, match="to give on /"):
        preflight.check_room(config, MembersHere(3, 1))


def test_links_count_once(tmp_path: Path) -> None:
    config = make_config(tmp_path, "x", members="1")
    manifest = make_member(config, 1)
    other = sum(path.stat().st_size for path in tmp_path.rglob("*.json*"))
    assert tree_bytes(tmp_path) == manifest.bytes + other


@pytest.mark.parametrize(
    ("image", "region"),
    [
        ("us-central1-docker.pkg.dev/p/r/i:1", "us-central1"),
        ("europe-docker.pkg.dev/p/r/i", "europe"),
        ("gcr.io/p/i", "us"),
        ("eu.gcr.io/p/i", "eu"),
        ("docker.io/library/python", None),
        ("aifs-environment", None),
        (None, None),
    ],
)
def test_regions_in_image_names(image: str | None, region: str | None) -> None:
    assert image_region(image) == region


@pytest.mark.parametrize(
    ("place", "region", "free"),
    [
        ("US-CENTRAL1", "us-central1", True),
        ("US", "us-east4", True),
        ("US", "northamerica-northeast1", False),
        ("EU", "europe-west4", True),
        ("NAM4", "us-central1", True),
        ("NAM4", "us-west1", False),
        ("US-EAST4+US-CENTRAL1", "us-east4", True),
        ("US-EAST4+US-CENTRAL1", "us-east1", False),
        ("US-EAST1", "us-east", False),
        ("EUROPE-WEST4", "us-central1", False),
        ("europe", "europe-west4", True),
    ],
)
def test_near(place: str, region: str, free: bool) -> None:
    assert near(place, region) == free


def test_continents() -> None:
    assert continent("NAM4") == continent("northamerica-northeast1") == continent("US") == "america"
    assert continent("EUR4") == continent("europe-west4") == "europe"
    assert continent("asia-east1") != continent("australia-southeast1")


def test_a_bucket_in_another_region_stops_the_run_and_says_what_it_costs(tmp_path: Path, gcs: FaultProxy) -> None:
    gcs.locations["ensembles"] = "EUROPE-WEST4"
    cloud = {"regions": ["us-central1"], "gpu_image": "us-central1-docker.pkg.dev/p/r/i"}
    config = make_config(tmp_path, "gs://ensembles/x", cloud=cloud)
    with pytest.raises(PlanError, match=r"the bucket is in europe-west4, machines in us-central1: 800\.0 GB") as caught:
        check_regions(config, 800 * GB)
    assert "cost $40.00 a run" in str(caught.value)
    assert "allow_cross_region" in str(caught.value)
    allowed = make_config(tmp_path, "gs://ensembles/x", cloud=cloud, delivery={"allow_cross_region": True})
    assert check_regions(allowed, 800 * GB)[0].dollars == pytest.approx(40)
    home = make_config(tmp_path, "gs://ensembles/x", cloud={"regions": ["europe-west4"]})
    assert check_regions(home, 800 * GB) == []
    both = {"regions": ["us-central1", "europe-west4"], "gpu_image": "europe-west4-docker.pkg.dev/p/r/i"}
    assert check_regions(make_config(tmp_path, "gs://ensembles/x", cloud=both), 800 * GB) == [], "one is left out"
    assert check_regions(make_config(tmp_path, str(tmp_path)), 800 * GB) == []


def test_an_image_in_another_region_says_what_its_pulls_cost(tmp_path: Path) -> None:
    cloud = {"regions": ["us-central1"], "gpu_image": "europe-docker.pkg.dev/p/r/i", "vms": 10}
    with pytest.raises(PlanError, match=r"cloud\.gpu_image is in europe, .*: 60\.0 GB between them cost \$3\.00 a run"):
        check_regions(make_config(tmp_path, str(tmp_path), cloud=cloud), 800 * GB)


def test_a_bucket_that_may_not_be_asked_where_it_is(tmp_path: Path, gcs: FaultProxy) -> None:
    gcs.undescribed.add("ensembles")
    config = make_config(tmp_path, "gs://ensembles/x")
    with pytest.raises(StorageError, match=r"storage\.buckets\.get.*bucketViewer; or set cloud\.bucket_region"):
        check_regions(config, 800 * GB)
    said = make_config(tmp_path, "gs://ensembles/x", cloud={"bucket_region": "europe-west4"})
    with pytest.raises(PlanError, match=r"the bucket is in europe-west4, machines in us-central1"):
        check_regions(said, 800 * GB)
    home = make_config(tmp_path, "gs://ensembles/x", cloud={"bucket_region": "us-central1"})
    assert check_regions(home, 800 * GB) == []
