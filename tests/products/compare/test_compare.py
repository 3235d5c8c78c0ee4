"""Two models side by side: values against numpy over the delivered GRIB, tables, maps, the record of its members."""

from __future__ import annotations

from pathlib import Path

import eccodes
import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError, VerificationError
from aifs_ensemble.common.manifest import read_member_manifest
from aifs_ensemble.fields.interpolation import interpolation_weights
from aifs_ensemble.products.compare.fields import Compared
from aifs_ensemble.products.compare.files import comparison_files
from aifs_ensemble.products.compare.stamp import PairStamp
from aifs_ensemble.products.compare.tables import side_by_side
from aifs_ensemble.products.compare.write import write_comparison

from products.compare.conftest import MODELS, rows_of

ROWS, COLUMNS = 121, 240
LATITUDES = np.linspace(90, -90, ROWS)


def delivered(config: Config, member: int, lead: int, name: str) -> np.ndarray:
    """Return a field of a delivered lead as ecCodes decodes it, on the products' grid, float64."""
    path = Path(str(config.destination)) / config.objects.lead(member, lead)
    with open(path, "rb") as file:
        while (message := eccodes.codes_grib_new_from_file(file)) is not None:
            found = eccodes.codes_get(message, "shortName")
            values = eccodes.codes_get_values(message) if found == name else None
            eccodes.codes_release(message)
            if values is not None:
                weights = interpolation_weights(config.model.grid, "1.5x1.5", config.cache, "linear")
                return weights.apply(values[None].astype("f4"))[0].reshape(ROWS, COLUMNS).astype(float)
    raise AssertionError(f"{path}: no {name}")


def members_of(config: Config, lead: int, name: str) -> np.ndarray:
    return np.stack([delivered(config, member, lead, name) for member in config.members])


def by_cosine(values: np.ndarray, rows: np.ndarray = np.ones(ROWS, bool)) -> float:  # noqa: B008
    weights = np.cos(np.deg2rad(LATITUDES)) * rows
    return float(np.average(values, axis=None, weights=np.repeat(weights[:, None], COLUMNS, axis=1)))


@pytest.mark.parametrize(("name", "lead"), [("2t", 12), ("msl", 36), ("tp", 48)])
def test_the_data_are_those_that_numpy_computes(pair: Config, compared: Path, name: str, lead: int) -> None:
    first, second = (members_of(one, lead, name) for one in pair.of_each_model)
    with xr.open_dataset(compared / "compare.nc", decode_timedelta=False) as data:
        assert list(data["model"].to_numpy()) == MODELS
        at = data.isel(time=int(np.flatnonzero(data["leadtime"].to_numpy() == lead)[0]))
        np.testing.assert_array_equal(data["latitude"], LATITUDES)
        np.testing.assert_allclose(
            at[f"{name}_difference"], second.mean(axis=0) - first.mean(axis=0), rtol=1e-5, atol=2e-5
        )
        for model, members in zip(MODELS, (first, second), strict=True):
            found = at[f"{name}_spread"].sel(model=model)
            np.testing.assert_allclose(found, members.std(axis=0), rtol=1e-5, atol=2e-5)
    if name == "2t":
        # its shifts are 1, 4 and 5.5, whose mean is 3.5 and whose standard deviation is 1.87
        assert abs(float(at["2t_difference"].mean()) - 3.5) < 0.01
        assert abs(float(at["2t_spread"].sel(model="demo-v2").mean()) - np.std([1, 4, 5.5])) < 0.01


def test_the_file_says_what_it_is(compared: Path) -> None:
    with xr.open_dataset(compared / "compare.nc", decode_timedelta=False) as data:
        assert data.attrs["Conventions"] == "CF-1.11" and "untrained model" in data.attrs["title"]
        assert data.attrs["title"].startswith("demo-v2 less demo, 19 August 2025, 00 UTC")
        assert (data.attrs["first_model"], data.attrs["second_members"]) == ("demo", "1-3")
        assert list(data["leadtime"].to_numpy()) == [12, 24, 36, 48]
        assert str(data["time"].to_numpy()[1]).startswith("2025-08-20T00")
        assert set(data.data_vars) == {
            f"{name}_{kind}" for name in ("2t", "msl", "tp") for kind in ("difference", "spread")
        }
        difference = data["2t_difference"]
        assert difference.dims == ("time", "latitude", "longitude") and difference.attrs["units"] == "K"
        assert difference.attrs["long_name"] == "2t, ensemble mean of demo-v2 less that of demo"
        assert data["tp_difference"].attrs["cell_methods"].startswith("time: sum")
        assert data["2t_spread"].dims == ("time", "model", "latitude", "longitude")


@pytest.mark.parametrize(("area", "south", "north"), [("globe", -90, 90), ("south", -60, -30)])
def test_the_table_has_the_figures_of_areas(pair: Config, compared: Path, area: str, south: int, north: int) -> None:
    first, second = (members_of(one, 24, "2t") for one in pair.of_each_model)
    rows = (south <= LATITUDES) & (north >= LATITUDES)
    (row,) = [
        row
        for row in rows_of(compared / "differences.csv")
        if (row["variable"], row["area"], row["lead_hours"]) == ("2t", area, "24")
    ]
    difference = second.mean(axis=0) - first.mean(axis=0)
    spreads = [np.sqrt(by_cosine(members.var(axis=0), rows)) for members in (first, second)]
    right = {
        "mean_difference": by_cosine(difference, rows),
        "rms_difference": np.sqrt(by_cosine(difference**2, rows)),
        "first_spread": spreads[0],
        "second_spread": spreads[1],
        "spread_ratio": spreads[1] / spreads[0],
    }
    for column, value in right.items():
        assert float(row[column]) == pytest.approx(value, rel=2e-4), column
    assert (row["units"], row["valid_time"]) == ("K", "2025-08-20T00:00Z")


def test_every_variable_area_and_lead_has_a_row(compared: Path) -> None:
    found = [(row["variable"], row["area"], row["lead_hours"]) for row in rows_of(compared / "differences.csv")]
    assert found == [
        (name, area, lead)
        for name in ("2t", "msl", "tp")
        for area in ("globe", "south")
        for lead in ("12", "24", "36", "48")
    ]


def test_where_one_misses_a_value_so_does_the_comparison() -> None:
    first = np.array([[[1, 2]], [[3, np.nan]]], "f4")
    second = np.array([[[2, 2]], [[6, 2]]], "f4")
    found = Compared.of(first, second)
    np.testing.assert_array_equal(found.difference, [[2, np.nan]])
    np.testing.assert_array_equal(found.spreads[0], [[1, np.nan]])
    np.testing.assert_array_equal(found.spreads[1], [[2, 0]])
    assert found.over(np.ones((1, 2)))["rms_difference"] == 2


def test_without_spread_there_is_no_ratio() -> None:
    one = np.zeros((1, 2, 2), "f4")
    assert np.isnan(Compared.of(one, one).over(np.ones((2, 2)))["spread_ratio"])


def test_scores_stand_side_by_side(compared: Path) -> None:
    rows = rows_of(compared / "scores.csv")
    found = {(row["score"], row["lead_hours"], row["period"]): row for row in rows}
    crps, rpss = found["crps", "24", ""], found["rpss", "", "h024"]
    assert [crps[key] for key in ("first", "second", "difference")] == ["1.25", "0.75", "-0.5"]
    assert [rpss[key] for key in ("first", "second", "difference")] == ["0.1", "-0.05", "-0.15"]
    assert found["rmse", "48", ""]["difference"] == "0"
    assert len(rows) == 2 * 4 + 1


def test_scores_are_of_what_both_have() -> None:
    row = {"variable": "2t", "area": "globe", "lead_hours": "24", "period": "", "units": "K", "crps": "1"}
    assert side_by_side([row], None) == side_by_side(None, [row]) == []
    assert side_by_side([row], [row | {"lead_hours": "48"}]) == []
    assert side_by_side([row], [row | {"crps": ""}]) == []
    assert [one["difference"] for one in side_by_side([row], [row | {"crps": "3"}])] == ["2"]


def test_the_files_are_those_that_the_rule_declares(pair: Config, compared: Path) -> None:
    declared = set(comparison_files(pair))
    there = {path.relative_to(compared).as_posix() for path in compared.rglob("*") if path.is_file()}
    assert declared | {"stamp.json"} == there
    # 3 parameters, each model and the difference, 2 areas, 2 themes; 24 h and 48 h
    assert sum(name.startswith("maps/") for name in declared) == 3 * 3 * 2 * 2 * 2


def test_the_same_members_give_the_same_bytes(pair: Config, compared: Path, tmp_path: Path) -> None:
    write_comparison(pair, tmp_path / "again", [pair.members, pair.members])
    for name in comparison_files(pair):
        assert (tmp_path / "again" / name).read_bytes() == (compared / name).read_bytes(), name


def test_its_stamp_has_the_members_of_both(pair: Config, compared: Path) -> None:
    data = (compared / "stamp.json").read_bytes()
    stamp = PairStamp.read(data, "stamp.json")
    digests = {
        one.model.name: {
            member: read_member_manifest(Path(str(one.destination)) / one.objects.manifest(member)).content_digest
            for member in one.members
        }
        for one in pair.of_each_model
    }
    assert set(digests["demo"].values()).isdisjoint(digests["demo-v2"].values())
    asked = {name: ((1, 2, 3), digests[name]) for name in MODELS}
    assert stamp.differs(asked) is None
    other = asked | {"demo-v2": ((1, 2, 3), digests["demo-v2"] | {2: "0" * 64})}
    assert stamp.differs(other) == "demo-v2: members 2 are others than it was made of"
    assert "asked for are 1-2" in str(stamp.differs(asked | {"demo": ((1, 2), digests["demo"])}))
    assert "asked for are demo and other" in str(stamp.differs({"demo": asked["demo"], "other": asked["demo"]}))
    for damaged in (b"{}", b'{"models": {"demo": {"members": {"x": 1}}}}', b'{"models": [1]}', b"no"):
        with pytest.raises(VerificationError, match="stamp"):
            PairStamp.read(damaged, "stamp.json")


def test_a_member_that_is_not_delivered_is_an_error_and_nothing_is_written(pair: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"demo-v2.*member004\.json: missing"):
        write_comparison(pair, tmp_path / "none", [(1, 2, 3), (1, 2, 3, 4)])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("content", "said"), [(b"crps\nmuch\n", "'much'"), (b"crps\n\xff\n", "decode byte 0xff")])
def test_a_table_that_has_no_scores_is_an_error_and_nothing_is_written(
    pair: Config, tmp_path: Path, content: bytes, said: str
) -> None:
    second = pair.of_each_model[1]
    path = Path(str(second.destination)) / second.objects.evaluation("scores.csv")
    kept = path.read_bytes()
    try:
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"^[^\n]*scores\.csv: [^\n]*{said}[^\n]*, expected a table of scores"):
            write_comparison(pair, tmp_path / "none", [pair.members, pair.members])
    finally:
        path.write_bytes(kept)
    assert not (tmp_path / "none").exists()


def test_short_ensembles_are_compared_and_say_so(pair: Config, compared: Path, tmp_path: Path) -> None:
    kept = (compared / "stamp.json").read_bytes()
    try:
        write_comparison(pair, tmp_path / "short", [(1, 3), (1, 2, 3)])
    finally:
        (compared / "stamp.json").write_bytes(kept)
    page = (tmp_path / "short" / "index.html").read_text()
    assert "demo: Short ensemble: without member 2" in page and "demo: 2 of 3 members; demo-v2: 3 members" in page
    row = rows_of(tmp_path / "short" / "differences.csv")[0]
    first, second = (members_of(one, 12, "2t") for one in pair.of_each_model)
    right = by_cosine(second.mean(axis=0) - first[[0, 2]].mean(axis=0))
    assert float(row["mean_difference"]) == pytest.approx(right, rel=2e-4)
