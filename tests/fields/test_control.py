"""The control among the members: what its messages and indexes say, who reads them, and members written before."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import cfgrib
import eccodes
import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.cli import main
from aifs_ensemble.common.names import lead_file
from aifs_ensemble.fields.grib_check import check_lead
from aifs_ensemble.fields.grib_index import index_bytes, read_fields, read_index

from fields.members import CYCLE, make_fields, make_spec, write_member

VARIABLES = ("t_500", "t_850", "2t", "tp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lead of the control and of members 1 and 2."""
    folder = tmp_path_factory.mktemp("control")
    for member in (0, 1, 2):
        write_member(make_spec(VARIABLES, member), folder, (6,))
    return folder


def rewrite(path: Path, **keys: int) -> None:
    """Set keys of all messages of a file, in place of it."""
    parts = []
    with open(path, "rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            for key, value in keys.items():
                eccodes.codes_set(handle, key, value)
            parts.append(eccodes.codes_get_message(handle))
            eccodes.codes_release(handle)
    path.write_bytes(b"".join(parts))


def test_the_index_says_control_without_a_number_as_ecmwfs(folder: Path) -> None:
    control, member = (read_index((folder / lead_file(CYCLE, n, 6)).with_suffix(".index"))[0] for n in (0, 1))
    assert control["type"] == "cf" and "number" not in control
    assert member["type"] == "pf" and member["number"] == "1"
    sizes = ("_offset", "_length")
    assert [key for key in member if key != "number"] == list(control)
    assert {k: v for k, v in control.items() if k not in (*sizes, "type")} == {
        k: v for k, v in member.items() if k not in (*sizes, "type", "number")
    }


def test_the_checker_and_the_index_know_the_control(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / lead_file(CYCLE, 0, 6)
    assert check_lead(path, make_spec(VARIABLES, 0), 6) == []
    assert main(["inspect", "--quiet", str(path)]) == 0
    assert "members 0, steps 6 h: right" in capsys.readouterr().out
    (field,) = read_fields(path, type="cf", param="t", levelist=850)
    meant = make_fields(make_spec(VARIABLES, 0), 6)[VARIABLES.index("t_850")]
    assert np.abs(field - meant).max() < 0.01


WRONG = [
    ({"typeOfEnsembleForecast": 6}, "typeOfEnsembleForecast is 6, expected 5"),
    ({"numberOfForecastsInEnsemble": 4}, "numberOfForecastsInEnsemble is 4, expected 5"),
]


@pytest.mark.parametrize(("keys", "problem"), WRONG)
def test_a_control_that_is_told_as_a_member_is_wrong(
    folder: Path, tmp_path: Path, keys: dict[str, int], problem: str
) -> None:
    path = copied(folder, tmp_path, 0)
    rewrite(path, **keys)
    assert any(problem in found for found in check_lead(path, make_spec(VARIABLES, 0), 6))


def test_a_member_under_the_controls_name_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(folder, tmp_path, 1).rename(tmp_path / lead_file(CYCLE, 0, 6))
    assert main(["inspect", "--quiet", str(tmp_path)]) == 9
    out = capsys.readouterr().out
    assert "type is pf, the file name says cf" in out and "number is 1, the file name says 0" in out


def copied(folder: Path, target: Path, member: int) -> Path:
    path = target / lead_file(CYCLE, member, 6)
    for file in (path, path.with_suffix(".index")):
        file.write_bytes((folder / file.name).read_bytes())
    return path


FORMER = [
    ({"typeOfEnsembleForecast": 5, "numberOfForecastsInEnsemble": 4}, True),
    ({"typeOfEnsembleForecast": 5}, False),
    ({"numberOfForecastsInEnsemble": 4}, False),
    ({"typeOfEnsembleForecast": 5, "numberOfForecastsInEnsemble": 3}, False),
]


@pytest.mark.parametrize(("keys", "right"), FORMER)
def test_members_written_before_there_was_a_control_are_right(
    folder: Path, tmp_path: Path, keys: dict[str, int], right: bool
) -> None:
    """They called themselves unperturbed, one of as many as there are members: both or neither."""
    path = copied(folder, tmp_path, 1)
    rewrite(path, **keys)
    assert (check_lead(path, make_spec(VARIABLES, 1), 6) == []) == right


def opened(path: Path, **keys: object) -> list[xr.Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return cfgrib.open_datasets(str(path), backend_kwargs={"filter_by_keys": keys} if keys else {})


def concatenated(folder: Path, path: Path, members: Sequence[int]) -> Path:
    path.write_bytes(b"".join((folder / lead_file(CYCLE, member, 6)).read_bytes() for member in members))
    return path


@pytest.mark.parametrize(("members", "kind"), [((0,), "cf"), ((1, 2), "pf"), ((0, 1, 2), None)])
def test_cfgrib_tells_the_control_from_the_members(
    folder: Path, tmp_path: Path, members: tuple[int, ...], kind: str | None
) -> None:
    """In one file they come as datasets of their own, number 0 and the others; with dataType one of them."""
    path = concatenated(folder, tmp_path / "all.grib2", members)
    found = [ds for ds in opened(path) if "t" in ds]
    numbers = {ds.t.attrs["GRIB_dataType"]: np.atleast_1d(ds.number).tolist() for ds in found}
    assert numbers == {"cf": [0], "pf": [1, 2]} if kind is None else numbers == {kind: list(members)}
    assert {ds.t.attrs["GRIB_totalNumber"] for ds in found} == {5}
    for wanted, expected in numbers.items():
        (only,) = (ds for ds in opened(path, dataType=wanted) if "t" in ds)
        assert np.atleast_1d(only.number).tolist() == expected


def test_an_index_is_read_back_as_it_was(folder: Path) -> None:
    path = (folder / lead_file(CYCLE, 0, 6)).with_suffix(".index")
    assert index_bytes(read_index(path)) == path.read_bytes()
    assert json.loads(path.read_text().splitlines()[0])["type"] == "cf"
