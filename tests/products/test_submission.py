"""The files of a submission pass the checks of AI Weather Quest's own package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from AI_WQ_package import check_fc_submission
from aifs_ensemble.common.config import Config
from aifs_ensemble.products.quantile_classes import write_quintiles
from aifs_ensemble.products.submission import submission_names
from delivery.members import make_config

TEAM, MODEL = "ECMWFtest", "AIFSens"  # of this team the package does not ask which day it is
LINES = {"latitude": np.linspace(90, -90, 121), "longitude": np.arange(0, 360, 1.5)}
BASE = {"tas": 280.0, "mslp": 1e5, "pr": 20.0}


@pytest.fixture(scope="module")
def submission(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Path]]:
    """Write the six files from made-up weeks of five members; a desert has no rain in any year."""
    folder = tmp_path_factory.mktemp("submission")
    weekly = {"enabled": True, "climatology": str(folder), "team": TEAM, "submission_model": MODEL}
    over = {"members": "1-5", "lead_hours": 792, "products": {"weekly": weekly}}
    config = make_config(folder / "scratch", str(folder / "results"), **over)
    rng = np.random.default_rng(2)
    desert = np.zeros((121, 240), bool)
    desert[40:45, 10:30] = True
    for name, base in BASE.items():
        kind = config.products.weekly.variables[name].statistic.upper()
        for day in ("20250906", "20250913"):
            bounds = base * (1 + np.arange(4)[:, None, None] * 0.01 + np.zeros((121, 240)))
            bounds[:, desert] = 0 if name == "pr" else bounds[:, desert]
            field = xr.DataArray(bounds, {"quantile": [0.2, 0.4, 0.6, 0.8], **LINES}, ("quantile", *LINES), name)
            field.to_netcdf(folder / f"{name}_20yrCLIM_WEEKLY{kind}_quintiles_{day}.nc")
    paths = []
    for member in config.members:
        weeks = {
            name: (("period", "number", *LINES), (base * rng.normal(1.015, 0.02, (2, 1, 121, 240))).astype("f4"))
            for name, base in BASE.items()
        }
        coordinates = {"period": ["p1", "p2"], "number": [member], **LINES}
        paths.append(folder / f"member{member}.nc")
        xr.Dataset(weeks, coordinates, {"member_digest": f"{member:064d}"}).to_netcdf(paths[-1])
    files = {file: folder / file for _, _, file in submission_names(config)}
    write_quintiles(config, paths, folder / "quintiles.nc", files)
    return config, files


def test_six_files_pass_every_check(
    submission: tuple[Config, dict[str, Path]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, files = submission
    # the one thing that it asks of a service: who has registered
    registered = pd.DataFrame({"Team name": [TEAM], "Models_model_name": [MODEL], "Status": ["Active"]})
    monkeypatch.setattr(check_fc_submission.pd, "read_csv", lambda url: registered)
    assert len(files) == 6
    for variable, period, file in submission_names(config):
        with xr.open_dataarray(files[file]) as data:
            number = period.removeprefix("p")
            checked, name = check_fc_submission.all_checks(data, variable, "20250819", number, TEAM, MODEL)
            assert name == file
            # it turns nothing round: rows and columns are as it wants them
            xr.testing.assert_identical(checked, data)
            np.testing.assert_allclose(data.sum("quintile"), 1, atol=1e-6)
    capsys.readouterr()


def test_its_checks_find_what_is_wrong(submission: tuple[Config, dict[str, Path]]) -> None:
    """A check that cannot fail shows nothing."""
    _, files = submission
    with xr.open_dataarray(files[f"tas_20250819_p1_{TEAM}_{MODEL}.nc"]) as data:
        for spoiled in (data * 1.5, data.isel(quintile=slice(4)), data.isel(latitude=slice(120)), data * 0.5):
            with pytest.raises(ValueError, match=r"."):
                check_fc_submission.check_data_characteristics(spoiled, "tas", "20250819", "1")
