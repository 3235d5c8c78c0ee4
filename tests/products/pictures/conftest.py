"""Pictures of the delivered ensemble that all tests of products read."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.products.pictures.draw import draw_pictures
from aifs_ensemble.products.weekly import write_weekly_file

PLACES = {"Nairobi": [-1.29, 36.82], "Zürich": [47.37, 8.54]}
PICTURES: dict[str, Any] = {
    "enabled": True,
    "variables": ["2t", "tp", "10si"],
    "step_hours": 24,
    "areas": ["globe", "pacific"],
    "own_areas": {"pacific": [30, 150, -40, 230]},
    "places": PLACES,
}


def with_pictures(config: Config, **over: Any) -> Config:
    """Return a configuration with pictures."""
    raw = config.to_dict()
    raw["products"]["pictures"] = deepcopy(PICTURES)
    merge(raw, over)
    return Config(raw)


def changed(config: Config, **over: Any) -> Config:
    """Return a configuration with `over` over it."""
    raw = config.to_dict()
    merge(raw, over)
    return Config(raw)


@pytest.fixture(scope="session")
def pictured(ensemble: Config) -> Config:
    return with_pictures(ensemble)


@pytest.fixture(scope="session")
def weekly_files(ensemble: Config, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("weekly")
    files = [folder / f"member{member:03d}.nc" for member in ensemble.members]
    for member, path in zip(ensemble.members, files, strict=True):
        write_weekly_file(ensemble, member, path)
    return files


@pytest.fixture(scope="session")
def pictures(pictured: Config, weekly_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every picture, in folders ``maps`` and ``meteograms``. Don't change them."""
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(pictured, pictured.members, folder, weekly_files, None)
    return folder
