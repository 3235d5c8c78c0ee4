"""The checker finds each kind of damage, and the inspect command prints it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import eccodes
import numpy as np
import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common.areas import PRESETS, Box
from aifs_ensemble.common.names import index_file, lead_file
from aifs_ensemble.fields.area import cut_of
from aifs_ensemble.fields.grib_check import check_lead, check_messages, messages
from aifs_ensemble.fields.grib_encoder import FieldEncoder
from aifs_ensemble.fields.grids import grid_coordinates

from fields.members import CYCLE, FEW, make_spec, write_member


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one good lead of a few variables."""
    folder = tmp_path_factory.mktemp("written")
    write_member(make_spec(FEW, member=1), folder, (12,))
    return folder


@pytest.fixture
def lead(written: Path, tmp_path: Path) -> Path:
    """A copy of that lead with its index, to be damaged."""
    path = tmp_path / lead_file(CYCLE, 1, 12)
    for name in (path.name, index_file(path.name)):
        shutil.copy(written / name, tmp_path / name)
    return path


def change(path: Path, which: int, **keys: object) -> None:
    """Set keys of one message, in place of it; `values` replaces its field."""
    parts = []
    with open(path, "rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            if len(parts) == which:
                for key, value in keys.items():
                    if key == "values":
                        eccodes.codes_set(handle, "bitmapPresent", 1)
                        eccodes.codes_set_values(handle, value)
                    else:
                        eccodes.codes_set(handle, key, value)
            parts.append(eccodes.codes_get_message(handle))
            eccodes.codes_release(handle)
    path.write_bytes(b"".join(parts))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_good_leads_have_nothing_wrong(ensemble: Path) -> None:
    for member in (1, 2):
        for hours in (6, 12):
            path = ensemble / lead_file(CYCLE, member, hours)
            assert check_lead(path, make_spec(member=member), hours) == []


def with_gap() -> np.ndarray:
    values = np.ones(6114)
    values[:5] = 9999  # ecCodes' missing value
    return values


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("truncated", lambda p: p.write_bytes(p.read_bytes()[:-9]), "no whole GRIB message at byte"),
    ("empty", lambda p: p.write_bytes(b""), "no GRIB message"),
    ("garbage before", lambda p: p.write_bytes(b"xyz" + p.read_bytes()), "3 bytes at byte 0 are no GRIB message"),
    ("garbage after", lambda p: p.write_bytes(p.read_bytes() + b"xyz"), "3 bytes at byte"),
    ("absent", lambda p: p.unlink(), "No such file or directory, expected a GRIB file"),
    ("other member", lambda p: change(p, 3, perturbationNumber=2), "sot 1: number is 2, expected 1"),
    ("other class", lambda p: change(p, 0, **{"class": "od"}), "class is 'od', expected 'ai'"),
    ("other step", lambda p: change(p, 2, step=18), "step 18 not expected"),
    ("other date", lambda p: change(p, 2, dataDate=20250820), "dataDate is 20250820, expected 20250819"),
    (
        "packing changed in the header alone",
        lambda p: change(p, 1, packingType="grid_simple"),
        "values cannot be unpacked",
    ),
    ("missing values", lambda p: change(p, 5, values=with_gap()), "5 values missing or not finite"),
    ("no index", lambda p: p.with_suffix(".index").unlink(), "no such file, expected an index"),
    ("index of another", lambda p: edit(p.with_suffix(".index"), '"step": "12"', '"step": "6"'), "step is '6'"),
    ("index shifted", lambda p: edit(p.with_suffix(".index"), '"_offset": 0', '"_offset": 1'), "_offset is 1"),
    ("short index", lambda p: edit(p.with_suffix(".index"), "\n", ""), "line 1: not an index entry"),
]


@pytest.mark.parametrize(("damage", "text"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_damage_is_found(lead: Path, damage: Callable[[Path], None], text: str) -> None:
    damage(lead)
    assert any(text in problem for problem in check_lead(lead, make_spec(FEW, member=1), 12))


def test_a_field_missing_or_in_the_wrong_place_is_found(ensemble: Path, tmp_path: Path) -> None:
    spec = make_spec(member=1)
    path = ensemble / lead_file(CYCLE, 1, 12)
    fewer = make_spec([v for v in spec.variables if v != "tp"], member=1)
    assert check_lead(path, fewer, 12) == [f"{path}: 100 messages, expected 99"]
    swapped = make_spec(["t_500" if v == "t_850" else "t_850" if v == "t_500" else v for v in spec.variables], member=1)
    assert any("t_500: level is 850, expected 500" in problem for problem in check_lead(path, swapped, 12))


def test_check_of_any_grib(ensemble: Path) -> None:
    path = ensemble / lead_file(CYCLE, 1, 6)
    found = list(messages(path, values=True))
    assert {"t 500", "sot 1", "tp", "100u"} <= {message.name for message in found}
    assert check_messages(path, found, {"stream": "enfo"}) == []
    assert check_messages(path, found[:1], {"stream": "oper"}) == [
        f"{path}: {found[0].name}: stream is 'enfo', expected 'oper'"
    ]
    assert check_messages(path, [], {}) == [f"{path}: no GRIB message"]


@pytest.mark.parametrize(
    ("box", "latitudes", "told"),
    [
        (None, (90, -90), "6114 of 6114 values are missing, expected 0 to 6113"),
        (None, (90, -80), None),
        (PRESETS["europe"].box, (90, -90), None),
        (PRESETS["europe"].box, (0, -90), None),
    ],
    ids=["all", "nearly all", "all of an area", "none of an area"],
)
def test_not_all_values_of_the_globe_are_missing(
    box: Box | None, latitudes: tuple[int, int], told: str | None, tmp_path: Path
) -> None:
    spec = make_spec(["swh"], model="demo-v2", area=box)
    north, south = latitudes
    where = grid_coordinates("N32").latitudes
    field = np.where((where <= north) & (where >= south), np.nan, 1).astype(np.float32)
    path = tmp_path / lead_file(CYCLE, 3, 12)
    path.write_bytes(FieldEncoder(spec).encode("swh", 12, field))
    wrong = check_lead(path, spec, 12, data=path.read_bytes())
    assert wrong == ([f"{path}: swh: {told}"] if told else [])


def test_an_area_lacks_what_is_outside_of_it(tmp_path: Path) -> None:
    """A wave field with values in a neighbour's place: the same rows, and fewer are missing than must be."""
    narrow, wide = (make_spec(["swh"], model="demo-v2", area=(72.0, -25.0, 33.0, east)) for east in (40.0, 45.0))
    path = tmp_path / lead_file(CYCLE, 3, 12)
    path.write_bytes(FieldEncoder(wide).encode("swh", 12, np.ones(6114, np.float32)))
    assert check_lead(path, wide, 12, data=path.read_bytes()) == []
    [line] = check_lead(path, narrow, 12, data=path.read_bytes())
    least, points = cut_of("N32", narrow.area).outside, cut_of("N32", narrow.area).grid.points
    found = cut_of("N32", wide.area).outside
    assert line == f"{path}: swh: {found} of {points} values are missing, expected {least} to {points}"


def test_twice_the_same_field_is_found(lead: Path) -> None:
    index = lead.with_name(index_file(lead.name))
    entries = f"{index}: 7 entries, expected the 14 messages of {lead.name}"
    data, spec = 2 * lead.read_bytes(), make_spec(FEW, member=1)
    assert check_lead(lead, spec, 12, data=data, index=index.read_bytes()) == [entries]
    assert check_lead(lead, spec, 12, data=data) == [f"{lead}: 14 messages, expected 7"]


def test_inspect_shows_a_lead(ensemble: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ensemble / lead_file(CYCLE, 2, 12)
    assert main(["inspect", str(path), "--param", "tp", "sot"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:-1]] == [["sot", "1", "12"], ["sot", "2", "12"], ["tp", "0-12", "2"]]
    assert lines[-1].startswith(f"{path}: 100 fields")
    assert lines[-1].endswith("members 2, steps 12 h: right")


def test_inspect_reads_the_real_message(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(shared_data / "aifs-output")]) == 0
    assert "t 500             0      0   12      225.354      252.506" in capsys.readouterr().out


def test_inspect_tells_what_is_wrong(lead: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(lead, 5, values=with_gap())
    renamed = lead.rename(lead.with_name(lead_file(CYCLE, 1, 18)))
    assert main(["inspect", "--quiet", str(lead.parent)]) == 9
    out, err = capsys.readouterr()
    assert "5 values missing or not finite" in out
    assert "endStep is 12, the file name says 18" in out
    assert f"{renamed.with_suffix('.index')}: no such file" in out
    assert err.startswith("error: ")
