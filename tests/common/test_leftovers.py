"""What a killed process left beside a file that is made again."""

from __future__ import annotations

from pathlib import Path

from aifs_ensemble.common.files import remove_leftovers_of, temporary


def test_leftovers_of_a_file_go_and_nothing_else(tmp_path: Path) -> None:
    mine, others = tmp_path / "a.b.nc", tmp_path / "b.nc"
    for path in (mine, others):
        temporary(path).write_bytes(b"half")
        path.write_bytes(b"whole")
    earlier = tmp_path / ".a.b.nc.17.42.part"
    earlier.write_bytes(b"half of another process")
    remove_leftovers_of([mine, tmp_path / "no" / "such.nc"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([temporary(others).name, "a.b.nc", "b.nc"])
