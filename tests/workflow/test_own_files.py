"""Files of the user's that products read are looked for before anything is computed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config, merge, read_files
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.initial.file_names import check_files
from aifs_ensemble.workflow.doctor import examine
from aifs_ensemble.workflow.own_files import INITIAL, problems

from workflow.dry_runs import dry_run
from workflow.project import Project

WEEKLY = {"enabled": True, "hours": 24, "periods": [24, 48]}
CLIMATOLOGY = "config: products.weekly.climatology: "


def config_of(root: Path, tmp_path: Path, **changes: Any) -> Config:
    raw = read_files(root / "config" / "config.yaml") | {"products": {}}
    merge(raw, {"scratch": str(tmp_path / "scratch"), "destination": str(tmp_path / "out"), **changes})
    return Config(raw)


def said(config: Config, *rules: str, rented: bool = False) -> list[tuple[str, bool]]:
    return [tuple(one) for one in problems(dict.fromkeys(config.units, rules), config, rented=rented)]


def names(*days: int) -> list[str]:
    kinds = {"tas": "MEAN", "mslp": "MEAN", "pr": "SUM"}
    return [f"{name}_20yrCLIM_WEEKLY{kinds[name]}_quintiles_202508{day}.nc" for name in kinds for day in days]


def test_a_climatology_that_lacks_a_cycles_files(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "climatology"
    config = config_of(root, tmp_path, products={"weekly": {**WEEKLY, "climatology": str(folder)}})
    assert said(config, "forecast_member") == [], "what does not read it"
    ((text, refuses),) = said(config, "product_quintiles")
    assert refuses and text.startswith(
        f"{CLIMATOLOGY}{folder}: no such folder, expected {names(20)[0]} (nor 5 more) in it"
    )
    folder.mkdir()
    for name in names(20, 21)[:-1]:
        (folder / name).touch()
    ((text, refuses),) = said(config, "product_quintiles")
    assert refuses and text == (
        f"{CLIMATOLOGY}{folder / names(21)[-1]}: no such file, expected climatological quantiles of tp; put it there, "
        "or set the key to null"
    )
    (folder / names(21)[-1]).touch()
    assert said(config, "product_quintiles") == []
    of_two = config_of(
        root, tmp_path, cycle=None, cycles=["20250819_0000", "20250820_0000"], products=config.products.model_dump()
    )
    ((text, _),) = said(of_two, "product_quintiles")
    assert text.startswith(f"{CLIMATOLOGY}{folder / names(22)[0]}: no such file (nor 2 more)")


def test_the_models_own_climate_and_analyses(root: Path, tmp_path: Path) -> None:
    evaluation = {"enabled": True, "source": "file", "path": f"{tmp_path}/{{valid:%Y%m%d_%H}}.grib"}
    config = config_of(
        root, tmp_path, products={"weekly": {**WEEKLY, "model_climatology": str(tmp_path)}, "evaluation": evaluation}
    )
    of_climate, of_analyses = said(config, "product_model_quintiles", "product_evaluation")
    file = tmp_path / "tas_modelCLIM_WEEKLYMEAN_quintiles_h024_w34.nc"
    assert of_climate[1] and of_climate[0].startswith(f"config: products.weekly.model_climatology: {file}: no such")
    # they may come while the run goes on
    assert not of_analyses[1] and f"{tmp_path}/20250820_00.grib: no such file (nor 2 more)" in of_analyses[0]
    (tmp_path / "20250822_00.grib").touch()
    assert len(said(config, "product_evaluation")) == 0, "scores leave out leads without an analysis"


def test_rented_machines_get_what_git_knows(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "climate").mkdir()
    for name in names(20, 21):
        (tmp_path / "climate" / name).touch()

    def told(folder: str) -> list[tuple[str, bool]]:
        config = config_of(root, tmp_path, products={"weekly": {**WEEKLY, "climatology": folder}})
        return said(config, "product_quintiles", rented=True)

    ((text, refuses),) = told("climate")
    assert refuses and text.startswith(f"{CLIMATOLOGY}climate/{names(20)[0]}: git does not know it")
    subprocess.run(["git", "add", "-A"], check=True)
    assert told("climate") == told("./climate/") == []
    ((text, refuses),) = told(str(tmp_path / "climate"))
    assert refuses and "is of this machine, which rented machines share no files with" in text
    ((text, refuses),) = told("/nowhere/climate")
    assert not refuses and "only if the image cloud.cpu_image does" in text
    initial = {"source": "file", "file": {"path": "own/{member:03d}.grib"}}
    config = config_of(root, tmp_path, initial_conditions=initial)
    ((text, refuses),) = said(config, *INITIAL, rented=True)
    assert refuses and text.startswith("config: initial_conditions.file.path: own/001.grib: git does not know it")


def test_initial_files_of_too_few_members(root: Path, tmp_path: Path) -> None:
    initial = {"source": "file", "file": {"path": f"{tmp_path}/{{cycle}}_{{member:03d}}.grib"}}
    config = config_of(root, tmp_path, initial_conditions=initial, min_members=2)
    paths = [tmp_path / f"20250819_0000_{member:03d}.grib" for member in range(1, 5)]
    for path in paths[1:]:
        path.touch()
    with pytest.raises(InputError, match=rf"{paths[0]}: no such file, expected the GRIB of .* without: 1$"):
        check_files(config)  # of the first, from whose grid the weights are made
    paths[0].touch()
    assert check_files(config) is None
    paths[2].unlink()
    assert check_files(config) == f"20250819_0000: {paths[2]}: no such file: members 3 will fail"
    paths[1].unlink()
    paths[3].unlink()
    with pytest.raises(InputError, match="members without: 2-4"):
        check_files(config)


def test_the_doctor_names_the_key(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "climatology"
    config = config_of(root, tmp_path, products={"weekly": {**WEEKLY, "climatology": str(folder)}})

    def line() -> tuple[str, str]:
        (found,) = [one for one in examine(config, "cpu") if one.name == "files"]
        return found.state, found.text

    state, text = line()
    assert state == "failure" and text.startswith(f"products.weekly.climatology: {folder}: no such folder")
    folder.mkdir()
    for name in names(20, 21):
        (folder / name).touch()
    assert line() == ("ok", "products.weekly.climatology: there")


@pytest.mark.workflow
def test_a_run_is_refused_and_a_plan_says_it(tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "p", products={"weekly": {**WEEKLY, "climatology": "climatology"}})
    told = f"{CLIMATOLOGY}climatology: no such folder, expected {names(20)[0]} (nor 5 more) in it"
    planned = dry_run(project.folder)
    assert f"warning: {told}" in planned and "this plans, a run would refuse" in planned
    refused = project.snakemake()
    assert project.code == 1 and told in refused and not project.scratch.exists()
    assert CLIMATOLOGY not in dry_run(project.folder, "forecasts"), "nothing of it is read"
