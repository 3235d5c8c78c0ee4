"""Members with the same fields are refused by name before forecasts are paid for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.fields.state import State
from aifs_ensemble.initial.summaries import check_members_differ, refuse_twin, write_summary


def summary(folder: Path, member: int, value: float) -> Path:
    times = (datetime(2025, 8, 18, 18, tzinfo=UTC), datetime(2025, 8, 19, tzinfo=UTC))
    fields = np.full((2, 1, 3), value, np.float32)
    path = folder / f"member{member:03d}.json"
    write_summary(path, State(fields, times, ("t_500",), ("K",), "N32", "20250819_0000", member))
    return path


def test_members_that_differ_are_counted(tmp_path: Path) -> None:
    paths = [summary(tmp_path, member, 250.0 + member) for member in (1, 2, 3)]
    check_members_differ(paths, tmp_path / "members.json")
    assert json.loads((tmp_path / "members.json").read_text()) == {"members": [1, 2, 3], "distinct": 3}


@pytest.mark.parametrize(("values", "named"), [((1.0, 1.0, 1.0), "1-3"), ((1.0, 2.0, 1.0), "1,3")])
def test_identical_members_are_named(tmp_path: Path, values: tuple[float, ...], named: str) -> None:
    paths = [summary(tmp_path, member, value) for member, value in enumerate(values, 1)]
    with pytest.raises(InputError, match=f"members {named} have identical fields"):
        check_members_differ(paths, tmp_path / "members.json")
    assert not (tmp_path / "members.json").exists()


def test_a_twin_is_refused_when_it_is_made(tmp_path: Path) -> None:
    first, second, twin = (summary(tmp_path, member, value) for member, value in ((1, 1.0), (2, 2.0), (7, 1.0)))
    (tmp_path / "members.json").write_text("{}")
    refuse_twin(second)
    for path in (first, twin):
        with pytest.raises(InputError, match="members 1,7 have identical fields"):
            refuse_twin(path)


def test_something_else_is_no_summary(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InputError, match=r"x\.json: not the summary"):
        check_members_differ([tmp_path / "x.json"], tmp_path / "members.json")
