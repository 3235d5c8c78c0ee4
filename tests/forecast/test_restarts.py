"""Restart states: exact, verified, pruned no further than a resume allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.models import Model
from aifs_ensemble.fields.state import read_state
from aifs_ensemble.forecast.restarts import RestartStore, RestartWriter

CYCLE = "20250819_0000"
POINTS = 7


def store_in(folder: Path, model: Model, **changes: object) -> RestartStore:
    usual = {"cycle": CYCLE, "member": 1, "fingerprint": "abc", "sums": True}
    return RestartStore(folder, model, **{**usual, **changes})


def arrays(model: Model) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    fields = rng.standard_normal((2, len(model.prognostic), POINTS)).astype(np.float32)
    return fields, rng.random((len(model.accumulated), POINTS)).astype(np.float32)


def test_what_is_written_is_read_again(tmp_path: Path, model: Model) -> None:
    store = store_in(tmp_path, model)
    fields, sums = arrays(model)
    path = store.write(24, fields, sums)
    assert path == store.path(24) == tmp_path / "h024.safetensors"
    state = store.read(24)
    np.testing.assert_array_equal(state.fields, fields)
    np.testing.assert_array_equal(state.extra["accumulated"], sums)
    assert [time.isoformat() for time in state.times] == ["2025-08-19T18:00:00+00:00", "2025-08-20T00:00:00+00:00"]
    assert state.variables == model.prognostic


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "other"}, "fingerprint abc, expected other"),
        ({"member": 2}, "member 1, expected 2"),
        ({"cycle": "20250819_0600"}, "cycle 20250819_0000, expected 20250819_0600"),
        ({"sums": False}, "arrays .*accumulated.*, expected"),
    ],
)
def test_restart_states_of_another_forecast_are_refused(
    tmp_path: Path, model: Model, changes: dict, message: str
) -> None:
    store_in(tmp_path, model).write(24, *arrays(model))
    with pytest.raises(InputError, match=message):
        store_in(tmp_path, model, **changes).read(24)


def test_one_under_the_wrong_lead_is_refused(tmp_path: Path, model: Model) -> None:
    store = store_in(tmp_path, model)
    store.write(24, *arrays(model)).rename(store.path(30))
    with pytest.raises(InputError, match="times"):
        store.read(30)


def test_damage_anywhere_in_the_header_is_an_input_error(tmp_path: Path, model: Model) -> None:
    store = store_in(tmp_path, model)
    store.write(12, *arrays(model))
    whole = store.path(12).read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    found = 0
    for place in range(8, end, 7):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        store.path(12).write_bytes(data)
        try:
            read_state(store.path(12))
        except InputError:
            found += 1
    assert found > 10


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_state_is_removed_and_the_one_before_it_used(
    tmp_path: Path, model: Model, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_in(tmp_path, model)
    for lead in (12, 24, 36):
        store.write(lead, *arrays(model))
    data = bytearray(store.path(24).read_bytes())
    data[-100] ^= 1
    store.path(24).write_bytes({"flip": data, "cut": data[:-1], "empty": b""}[damage])
    found = store.newest(30)
    assert found is not None and found[0] == 12
    assert "h024.safetensors" in caplog.text
    assert store.leads() == [12, 36]
    assert store.newest(6) is None


@pytest.mark.parametrize(
    ("leads", "keep", "missing", "left"),
    [
        ((12, 24, 36, 48), 2, 54, (36, 48)),
        ((12, 24, 36, 48), 1, 54, (48,)),
        ((12, 24, 36, 48), 1, 42, (36, 48)),  # a lead before the newest is not published yet
        ((12, 24, 36, 48), 2, 18, (12, 36, 48)),
        ((12, 24, 36, 48), 2, 12, (36, 48)),
        ((12, 24), 5, 30, (12, 24)),
        ((12, 24, 36), 1, None, (36,)),
        ((), 2, 6, ()),
    ],
)
def test_pruning_keeps_what_a_resume_needs(
    tmp_path: Path, model: Model, leads: tuple, keep: int, missing: int | None, left: tuple
) -> None:
    store = store_in(tmp_path, model)
    for lead in leads:
        store.path(lead).touch()
    store.prune(keep, missing)
    assert tuple(store.leads()) == left


def test_the_writer_reports_each_state_once(tmp_path: Path, model: Model) -> None:
    store = store_in(tmp_path, model)
    fields, sums = map(torch.from_numpy, arrays(model))
    with RestartWriter(store) as writer:
        assert writer.start(12, (fields, sums)) == []
        assert writer.start(24, (fields, sums)) == [(12, store.path(12))]
        assert writer.finished(wait=True) == [(24, store.path(24))]
        assert writer.finished(wait=True) == []
    assert store.leads() == [12, 24]


def test_the_writers_error_reaches_the_forecast(tmp_path: Path, model: Model) -> None:
    store = store_in(tmp_path / "file" / "folder", model)
    (tmp_path / "file").write_text("in the way")
    with RestartWriter(store) as writer:
        writer.start(12, tuple(map(torch.from_numpy, arrays(model))))
        with pytest.raises(OSError, match="file") as caught:
            writer.finished(wait=True)
    assert "while writing the restart state after 12 h" in caught.value.__notes__
