"""Forcings: anemoi-inference's own numbers, in order, ahead of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from aifs_ensemble.forecast import engine
from aifs_ensemble.model.forcings import ComputedForcings, ForcingsAhead
from anemoi.inference.runners.simple import SimpleRunner

TIMES = [
    datetime(2025, 8, 19, 6),
    datetime(2024, 2, 29, 18),
    datetime(2024, 12, 31, 18),
    datetime(2025, 1, 1, 0),
    datetime(2025, 3, 20, 12),
]


@pytest.mark.parametrize("time", TIMES, ids=str)
def test_equal_to_those_of_the_runner_to_the_bit(checkpoint: Path, loaded: engine.Loaded, time: datetime) -> None:
    handler = next(iter(SimpleRunner(str(checkpoint), device="cpu").tensor_handlers.values()))
    state = {"latitudes": handler.metadata.latitudes, "longitudes": handler.metadata.longitudes}
    forcings: ComputedForcings = loaded.forcings
    for names, index, providers in (
        (forcings.dynamic, forcings.dynamic_index, handler.dynamic_forcings_providers),
        (forcings.constant, forcings.constant_index, handler.constant_forcings_providers),
    ):
        (theirs,) = providers
        expected = theirs.load_forcings_array([time], state)[:, 0]
        found = forcings.compute(names, time.replace(tzinfo=UTC))
        assert found.dtype == np.float32
        assert list(names) == theirs.variables and list(index) == list(theirs.mask)
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_ahead_of_time_they_come_in_order(loaded: engine.Loaded, ahead: int) -> None:
    forcings = loaded.forcings
    start = datetime(2025, 8, 19, tzinfo=UTC)
    times = [start + timedelta(hours=6 * step) for step in range(4)]
    target = torch.zeros(forcings.points, 30)
    index = torch.as_tensor(forcings.dynamic_index)
    with ForcingsAhead(forcings, times, torch.device("cpu"), ahead) as source:
        for time in times:
            source.copy_into(target, index)
            expected = forcings.compute(forcings.dynamic, time)
            np.testing.assert_array_equal(target[:, index].numpy().T, expected)
    others = np.setdiff1d(np.arange(30), forcings.dynamic_index)
    assert not target[:, torch.as_tensor(others)].any()


def test_an_error_in_the_thread_reaches_the_rollout(loaded: engine.Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no sun")

    monkeypatch.setattr(loaded.forcings, "compute", fail)
    with (
        ForcingsAhead(loaded.forcings, [datetime(2025, 8, 19)], torch.device("cpu")) as source,
        pytest.raises(ValueError, match="no sun"),
    ):
        source.copy_into(torch.zeros(loaded.forcings.points, 30), torch.as_tensor(loaded.forcings.dynamic_index))
