"""A cycle's folder with everything that its page shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.products.member_file import write_member_file
from aifs_ensemble.products.page.write import write_page
from aifs_ensemble.products.pictures.draw import draw_pictures
from aifs_ensemble.products.quantile_classes import write_weekly_ensemble
from chromium import browser  # noqa: F401 - a fixture

from products.pictures.conftest import pictured, weekly_files, with_pictures  # noqa: F401 - fixtures

SUMMARY = ([("Members", "3"), ("Cost", "$1.20, $0.40 a member")], [["member", "size"], ["1", "17 MB"], ["2", "<b>"]])


@pytest.fixture(scope="session")
def site(ensemble: Config, weekly_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Config:  # noqa: F811
    """The ensemble with products, pictures and its page, in a folder of its own. Don't change it."""
    results = tmp_path_factory.mktemp("site") / "results"
    # without the data sets that other tests of the session make of it
    shutil.copytree(str(ensemble.destination), results, ignore=shutil.ignore_patterns("products", "products.json"))
    one = {"variables": ["2t", "tp"], "step_hours": 12, "areas": ["globe", "east-africa"]}
    config = with_pictures(ensemble, destination=str(results), products={"pictures": one, "page": {"enabled": True}})
    keys = config.objects
    folder = results / config.cycle
    for member, path in zip(config.members, weekly_files, strict=True):
        (results / keys.weekly(member)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, results / keys.weekly(member))
    write_weekly_ensemble(config, weekly_files, results / keys.product("weekly/ensemble.nc"))
    write_member_file(config, 1, results / keys.member_netcdf(1, config.products.grid))
    draw_pictures(config, config.members, folder / "products", weekly_files, None)
    evaluation = folder / "products/evaluation"
    evaluation.mkdir()
    for theme in ("light", "dark"):
        shutil.copy(folder / f"products/meteograms/nairobi-{theme}.png", evaluation / f"crps-{theme}.png")
    write_page(config, folder / "index.html", SUMMARY)
    return config
