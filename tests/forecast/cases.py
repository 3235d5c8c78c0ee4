"""Requests, initial states and comparisons for the tests of the forecast engine."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from aifs_ensemble.common.models import Model
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.state import State, write_state
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.settings import ForecastSettings
from aifs_ensemble.model.checkpoint.statistics import mean_and_deviation
from tested import MODEL

CYCLE = "20250819_0000"
LEADS = (6, 12, 18, 24, 30)


def initial_state(model: Model, member: int = 1) -> State:
    """A smooth wave in every variable, with a little noise, around the variable's usual values.

    What may be missing over sea or land is, where the wave is low or high.
    """
    grid = grid_coordinates(model.grid)
    latitude, longitude = np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes)
    wave = np.sin(2 * latitude) + 0.5 * np.sin(3 * longitude) * np.cos(latitude)
    noise = np.random.default_rng(member).standard_normal((2, len(model.inputs), grid.points))
    fields = np.empty_like(noise, dtype=np.float32)
    for row, name in enumerate(model.inputs):
        mean, deviation = mean_and_deviation(name)
        fields[:, row] = mean + deviation * (0.5 * wave + 0.02 * noise[:, row])
        if name in model.constant:
            fields[1, row] = fields[0, row]
    sea = wave < 0
    for name, place in model.missing.items():
        if name in model.inputs:
            fields[:, model.inputs.index(name), sea if place == "sea" else ~sea] = np.nan
    now = datetime.strptime(CYCLE, "%Y%m%d_%H%M").replace(tzinfo=UTC)
    return State(
        fields=fields,
        times=(now - timedelta(hours=6), now),
        variables=model.inputs,
        units=("",) * len(model.inputs),
        grid=model.grid,
        cycle=CYCLE,
        member=member,
        provenance={"source": "waves"},
    )


def write_initial(path: Path, model: Model, member: int = 1, **changes: object) -> None:
    """Write `initial_state`, with attributes changed."""
    write_state(path, replace(initial_state(model, member), **changes))


def make_request(checkpoint: Path, initial: Path, folder: Path, **settings: object) -> ForecastRequest:
    """Return a request for member 1 that keeps everything in `folder`."""
    usual = ForecastRequest(
        model=MODEL,
        checkpoint=checkpoint,
        initial=initial,
        cycle=CYCLE,
        member=1,
        leads=LEADS,
        work=folder / "work",
        forecasts=folder / "forecasts",
        manifest=folder / "manifests" / "member001.json",
        device="cpu",
        encoders=1,
        restart_hours=12,
        trust=True,
    )
    return with_settings(usual, **settings)


def with_settings(request: ForecastRequest, **settings: object) -> ForecastRequest:
    """Return a request with other settings, those that decide the bytes among them."""
    deciding = {field.name for field in fields(ForecastSettings)} & settings.keys()
    of_bytes = replace(request.settings, **{name: settings.pop(name) for name in deciding})
    return replace(request, settings=of_bytes, **settings)


def content(request: ForecastRequest) -> dict[str, bytes]:
    """Return the published files by name."""
    return {path.name: path.read_bytes() for path in sorted(request.forecasts.iterdir())}
