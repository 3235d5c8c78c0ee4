"""Checkpoints as zip archives: every way of keeping the records gives the same tensors, and a damaged record none."""

from __future__ import annotations

import logging
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.checkpoint.archive import read_archive, torch_may_map, verify_records
from aifs_ensemble.model.checkpoint.load import load_model

from model.checkpoint import archives

WAYS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "stored": (lambda path, to: Path(shutil.copyfile(path, to)), "stored, mapped into memory"),
    "walked": (archives.as_anemoi_utils_0_4_22, "records deflated"),
    "metadata last": (archives.metadata_last, "records deflated"),
    "metadata first": (archives.metadata_first, "records deflated"),
    "stored anywhere": (archives.stored_anywhere, "stored, not at multiples of 64 bytes, read into memory"),
}


def tensors(interface: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of a loaded model, of its graph too."""
    found = dict(interface.state_dict())
    for number, store in enumerate(interface.graph_data.stores):
        found |= {f"graph {number} {key}": value for key, value in store.items() if torch.is_tensor(value)}
    assert len(found) > 60
    return found


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_keeping_records_gives_the_same_tensors(
    demo: Model, demo_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    make, said = WAYS[way]
    path = make(demo_path, tmp_path / "c.ckpt")
    with caplog.at_level(logging.INFO, "aifs_ensemble"):
        found = tensors(load_model(path, demo, device="cpu", trust=True))
    lines = [line for line in caplog.messages if "into memory" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{path}: ") and said in lines[0]
    expected = tensors(load_model(demo_path, demo, device="cpu"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].untyped_storage().data_ptr() % 64 == 0, name


def test_torch_itself_would_map_a_deflated_archive(demo_path: Path, tmp_path: Path) -> None:
    """Why `torch_may_map` is there: torch maps what is deflated as if it were not, and says nothing."""
    weights = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(1))
    torch.save({"weights": weights, "more": torch.randn(60_000)}, tmp_path / "stored.pt")
    path = archives.metadata_last(tmp_path / "stored.pt", tmp_path / "deflated.pt")
    try:
        wrong = torch.load(path, mmap=True)
    except RuntimeError:  # a torch that looks at the compression, or one whose record ends behind the file
        wrong = None
    assert wrong is None or not torch.equal(wrong["weights"], weights)
    with torch_may_map(read_archive(path)) as mapped:
        right = torch.load(mapped, mmap=True)
    assert torch.equal(right["weights"], weights)


@pytest.mark.parametrize("at", [0.3, 0.999])
@pytest.mark.parametrize("way", ["stored", "walked", "stored anywhere"])
def test_a_damaged_record_is_refused_by_name(demo: Model, demo_path: Path, tmp_path: Path, way: str, at: float) -> None:
    whole = WAYS[way][0](demo_path, tmp_path / "whole.ckpt")
    record = archives.largest_tensor(whole)
    path = archives.damaged(whole, tmp_path / "c.ckpt", record, at=at)
    with pytest.raises(CheckpointError) as caught:
        load_model(path, demo, device="cpu", trust=True)
    message = str(caught.value)
    assert message.startswith(f"{path}: damaged: record {record.filename} ")
    assert "\n" not in message
    if way != "walked":
        assert message.endswith(f", expected {record.CRC:08x}")


def test_damage_to_the_pickle_is_found_before_it_is_read(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(demo_path) as archive:
        pickled = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
    path = archives.damaged(demo_path, tmp_path / "c.ckpt", pickled, at=0.5)
    with pytest.raises(CheckpointError, match=r"damaged: record \S+/data\.pkl has CRC-32"):
        load_model(path, demo, device="cpu", trust=True)


@pytest.mark.parametrize("at", [0.1, 0.5])
def test_damage_to_deflated_metadata_is_said_in_a_line(demo: Model, demo_path: Path, tmp_path: Path, at: float) -> None:
    whole = archives.as_anemoi_utils_0_4_22(demo_path, tmp_path / "whole.ckpt")
    with zipfile.ZipFile(whole) as archive:
        metadata = next(info for info in archive.infolist() if info.filename.endswith("/anemoi.json"))
    path = archives.damaged(whole, tmp_path / "c.ckpt", metadata, at=at)
    with pytest.raises(CheckpointError) as caught:
        load_model(path, demo, device="cpu", trust=True)
    assert "truncated or damaged" in str(caught.value) or "cannot be read" in str(caught.value)


def small(path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data/0", bytes(1000))
    return path


def with_directory(path: Path, place: int, value: int) -> Path:
    """Write another number into the first entry of the archive's directory."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + place : start + place + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: small(path, zipfile.ZIP_LZMA), "record archive/data/0 is encrypted or compressed by method 14"),
        (lambda path: small(path, zipfile.ZIP_BZIP2), "compressed by method 12, expected stored or deflated"),
        (
            lambda path: with_directory(small(path), 20, 100_000),
            "record archive/data/0 ends behind the end of the file",
        ),
        (lambda path: with_directory(small(path), 24, 999), "record archive/data/0 has 1000 bytes, expected 999"),
        (
            lambda path: with_directory(small(path, zipfile.ZIP_DEFLATED), 24, 999),
            "record archive/data/0 has 1000 bytes, expected 999",
        ),
        (
            lambda path: with_directory(small(path, zipfile.ZIP_DEFLATED), 24, 1001),
            "record archive/data/0 has 1000 bytes, expected 1001",
        ),
        (lambda path: with_directory(small(path), 42, 8), "record archive/data/0 does not start at byte 8"),
        (lambda path: (path.write_bytes(b"PK\x03\x04") and path) or path, "truncated or damaged"),
    ],
)
def test_archives_that_say_what_is_not_so(tmp_path: Path, make: Callable[[Path], Path], expected: str) -> None:
    path = make(tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError) as caught:
        verify_records(read_archive(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
