"""The ensemble as one data set: values against ecCodes' own, in a folder and in a bucket."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError, InputError, VerificationError
from aifs_ensemble.common.files import crc32c_file
from aifs_ensemble.common.parameters import split_variable
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.fields.ccsds import pack_with_eccodes, read_values
from aifs_ensemble.fields.grib_encoder import FieldEncoder
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.products.cube.codec import NAME, GribCodec
from aifs_ensemble.products.cube.open import open_virtual
from aifs_ensemble.products.cube.record import check_cube, record_problems, require_whole
from aifs_ensemble.products.cube.virtual import find_references, write_virtual
from aifs_ensemble.products.cube.write import write_cube
from aifs_ensemble.products.delivered_fields import DeliveredFields
from doubles.gcs_xml_front import xml_front
from fields.members import make_spec

from products.conftest import HOURS, make_ensemble, true_fields
from products.test_weekly import regridded

CUBE: dict[str, Any] = {"enabled": True, "regular": ["2t", "tp"]}


def with_cube(config: Config, **over: Any) -> Config:
    raw = config.to_dict()
    merge(raw, {"products": {"cube": {**CUBE, **over}}})
    return Config(raw)


def small(tmp_path: Path, destination: str, cache: Path, **over: Any) -> Config:
    over = {"members": "1-2", "lead_hours": 12, "products": {"cube": CUBE}, **over}
    return make_ensemble(
        tmp_path / "scratch",
        destination,
        initial_conditions={"source": "idealised", "cache": str(cache)},
        **over,
    )


def by_eccodes(config: Config, member: int, lead: int, variable: str) -> np.ndarray:
    """Return a field of a lead in a folder as ecCodes decodes it, float32 ``(value,)``."""
    name, level = split_variable(variable)
    request = {"levtype": "pl", "levelist": level, "param": name} if level else {"param": name}
    if variable.startswith("stl"):
        request = {"param": "sot", "levelist": variable[-1]}
    if variable == "ro":
        request = {"param": "rowe"}
    return read_fields(Path(config.destination or "") / config.objects.lead(member, lead), **request)[0]


def of_cube(data: xr.Dataset, member: int, lead: int, variable: str) -> np.ndarray:
    name, level = split_variable(variable)
    chosen = data[name].sel(number=member, step=lead)
    return (chosen.sel(isobaricInhPa=level) if level else chosen).to_numpy()


@pytest.fixture(scope="module")
def cube(ensemble: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """The record of the ensemble's data sets. They lie beside its leads."""
    config = with_cube(ensemble)
    record = tmp_path_factory.mktemp("cube") / "cube.json"
    write_cube(config, record)
    return config, record


def cycle_url(config: Config) -> str:
    return f"{config.destination}/{config.cycle}"


def test_every_variable_has_ecCodes_values(cube: tuple[Config, Path]) -> None:  # noqa: N802
    """A chunk whose place has the wrong rank reads NaN without a word: so values, of every array and level."""
    config, _ = cube
    data = open_virtual(cycle_url(config))
    assert dict(data.sizes) == {"number": 3, "step": 8, "isobaricInhPa": 13, "values": 6114}
    for number, variable in enumerate(config.model.outputs):
        member, lead = 1 + number % 3, 6 * (1 + number % 8)
        found = of_cube(data, member, lead, variable)
        expected = by_eccodes(config, member, lead, variable)
        assert found.dtype == np.float32 and not np.isnan(found).any()
        np.testing.assert_array_equal(found, expected, err_msg=variable)


def test_what_it_says_of_itself(cube: tuple[Config, Path]) -> None:
    config, path = cube
    data, record = open_virtual(f"file://{cycle_url(config)}/"), json.loads(path.read_text())
    assert data.attrs["source"] == "demo, an untrained model: its values mean nothing"
    assert data.attrs["ensemble"] == "3 of 3 members" and "untrained" in record["source"]
    assert data["t"].dims == ("number", "step", "isobaricInhPa", "values") and data["tp"].attrs["units"] == "kg m-2"
    assert "from the start" in data["tp"].attrs["cell_methods"]
    assert data["valid_time"].to_numpy()[1] == np.datetime64("2025-08-19T12:00")
    assert (data["latitude"][0], data["longitude"][1]) == (pytest.approx(87.86, abs=0.01), 18)
    assert record["references"] == 3 * 8 * len(config.model.outputs) and record["missing_messages"] == 0
    assert record["members"] == "1-3" and len(record["member_digests"]) == 3


def test_files_are_those_of_the_record(cube: tuple[Config, Path], tmp_path: Path) -> None:
    config, path = cube
    write_cube(config, tmp_path / "again.json")  # in place of the first
    first, record = json.loads(path.read_text()), json.loads((tmp_path / "again.json").read_text())
    for part in ("virtual", "regular"):
        folder = Path(config.destination or "") / record[part]["key"]
        there = {file.relative_to(folder).as_posix(): crc32c_file(file) for file in folder.rglob("*") if file.is_file()}
        assert there == {name: file["crc32c"] for name, file in record[part]["files"].items()}
    assert first["regular"] == record["regular"]  # the same bytes
    np.testing.assert_array_equal(
        of_cube(open_virtual(cycle_url(config)), 3, 24, "t_500"), by_eccodes(config, 3, 24, "t_500")
    )


def test_the_regular_one_holds_the_members(cube: tuple[Config, Path]) -> None:
    config, _ = cube
    with xr.open_zarr(f"{cycle_url(config)}/products/ensemble.zarr", chunks=None) as data:
        assert data["2t"].dims == ("number", "step", "latitude", "longitude") and "valid_time" in data.coords
        assert "untrained" in data.attrs["source"] and "linear" in data["tp"].attrs["interpolation"]
        for member, lead, name in ((1, 6, "2t"), (3, HOURS, "tp"), (2, 24, "2t")):
            expected = regridded(config, true_fields(config, member, lead)[name])
            found = data[name].sel(number=member, step=lead)
            assert np.abs(found - expected).max() <= max(float(np.ptp(expected)), 1e-3) / 2**14


def test_a_message_that_is_missing_reads_nan_and_no_other(ensemble: Config, tmp_path: Path) -> None:
    config, storage = with_cube(ensemble), open_destination(ensemble)
    references = find_references(config, [DeliveredFields(config, member, storage) for member in (1, 2)])
    gone = references.variables.index("t_500")
    references.places[1, 2, gone] = 0
    assert references.missing == 1
    folder = tmp_path / config.cycle / "products" / "ensemble.icechunk"
    folder.mkdir(parents=True)
    write_virtual(config, references, storage, folder, {"title": "test"})
    with pytest.raises(InputError, match=r"refers to leads at file:///.*make it again here"):
        open_virtual(str(tmp_path / config.cycle))  # which lies elsewhere than the leads
    data = open_virtual(str(tmp_path / config.cycle), leads_at=config.destination)
    assert np.isnan(of_cube(data, 2, 18, "t_500")).all()
    for member, lead, variable in ((2, 18, "t_600"), (1, 18, "t_500"), (2, 24, "t_500")):
        np.testing.assert_array_equal(of_cube(data, member, lead, variable), by_eccodes(config, member, lead, variable))


def test_members_that_are_missing_are_named_and_not_there(ensemble: Config, tmp_path: Path) -> None:
    raw = with_cube(ensemble, regular=[]).to_dict()
    raw["members"] = "1-4"
    config = Config(raw)
    with pytest.raises(InputError, match=r"member004.*expected a delivered member"):
        write_cube(config, tmp_path / "cube.json")
    assert not (tmp_path / "cube.json").exists()
    write_cube(config, tmp_path / "cube.json", members=[1, 3])
    data = open_virtual(cycle_url(config))
    assert data["number"].to_numpy().tolist() == [1, 3]
    assert data.attrs["ensemble"] == "2 of 4 members, short: without members 2,4"
    np.testing.assert_array_equal(of_cube(data, 3, 6, "2t"), by_eccodes(config, 3, 6, "2t"))


def test_a_lost_or_damaged_file_is_found_and_mending_has_all_made_anew(
    destination: str, tmp_path: Path, weights_cache: Path
) -> None:
    config = small(tmp_path, destination, weights_cache)
    storage, keys, record = open_destination(config), config.objects, tmp_path / "cube.json"
    assert check_cube(config, mend=True) == ()  # there is none
    write_cube(config, record)
    storage.put_bytes(record.read_bytes(), keys.cube)
    assert check_cube(config, mend=True) == ()
    chunks = [info for info in storage.list(f"{keys.regular_cube}/") if "/c/" in info.key]
    lost, other = chunks[0], max(storage.list(f"{keys.virtual_cube}/"), key=lambda info: info.size)
    storage.delete(lost.key)
    data = bytearray(storage.get_bytes(other.key))
    data[-1] ^= 1
    storage.put_bytes(bytes(data), other.key, overwrite=True)
    found = check_cube(config, mend=False)
    assert f"{lost.key}: missing" in found and any(f"{other.key}: crc32c" in line for line in found)
    with pytest.raises(VerificationError, match=r"data sets of the ensemble: .* and 1 more; verify --mend, then run"):
        require_whole(found, mended=False)
    # a run sees without reading what a listing tells
    listed = {info.key: info for info in storage.list(f"{config.cycle}/")}
    seen = list(record_problems(config, record.read_bytes(), listed))
    assert f"{lost.key}: missing" in seen
    assert check_cube(config, mend=True) == found and storage.stat(keys.cube) is None


@pytest.mark.parametrize("record", [b"", b"[]", b'{"virtual": 3}', b'{"virtual": {"key": "x", "files": {"a": {}}}}'])
def test_a_record_that_is_none_is_a_problem(ensemble: Config, record: bytes) -> None:
    (found,) = record_problems(ensemble, record, {})
    assert found.startswith(f"{ensemble.objects.cube}: not ")


@pytest.mark.cloud
def test_a_bucket_is_read_by_range(
    bucket: Any, bucket_server: str, tmp_path: Path, weights_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path, bucket(), weights_cache)
    write_cube(config, tmp_path / "cube.json")
    expected = DeliveredFields(config, 2).read(12, ["t_500", "tp"])
    with xml_front(bucket_server) as front:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.url)
        data = open_virtual(cycle_url(config))
        front.reads.clear()
        front.size = 0
        for variable, field in expected.items():
            np.testing.assert_array_equal(of_cube(data, 2, 12, variable), field)
        leads = [name for name in front.reads if name.endswith(".grib2")]
        assert len(leads) == 2 and front.size < 100_000  # two messages and what says where they are


def test_leads_in_blocks(tmp_path: Path, weights_cache: Path) -> None:
    config = small(tmp_path, str(tmp_path / "results"), weights_cache, delivery={"layout": "blocks", "block_hours": 12})
    write_cube(config, tmp_path / "cube.json")
    data = open_virtual(cycle_url(config))
    for lead in (6, 12):
        expected = DeliveredFields(config, 1).read(lead, ["u_850"])["u_850"]
        np.testing.assert_array_equal(of_cube(data, 1, lead, "u_850"), expected)


@pytest.mark.parametrize("case", ["constant", "bitmap", "fine"])
def test_the_codec_gives_what_ecCodes_gives(case: str) -> None:  # noqa: N802
    """Gribberish 0.30 reads a constant field as zeros and fails at 20 bits: hence a codec of our own."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype

    encoder = FieldEncoder(make_spec(["2t", "tp"]))
    field = np.linspace(250, 310, encoder.points, dtype=np.float32)
    if case == "constant":
        message = bytes(encoder.encode("2t", 24, np.full(encoder.points, 281.5, np.float32)))
    elif case == "bitmap":
        field[7:99] = np.nan
        message = pack_with_eccodes(encoder.header("2t", 24), field, 14)
    else:
        message = bytes(encoder.encode("tp", 24, field))
    encoder.close()
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store, name="x", shape=(2, field.size), chunks=(1, field.size), dtype="f4", serializer=GribCodec(),
        compressors=None, filters=None, fill_value=float("nan"),
    )  # fmt: skip
    import asyncio

    chunk = default_buffer_prototype().buffer.from_bytes(message)
    asyncio.run(store.set("x/c/1/0", chunk))
    handle = eccodes.codes_new_from_message(message)
    np.testing.assert_array_equal(array[1], read_values(handle, np.float32))
    eccodes.codes_release(handle)
    assert np.isnan(array[0]).all()
    asyncio.run(store.set("x/c/1/0", default_buffer_prototype().buffer.from_bytes(message[:-9])))
    with pytest.raises(InputError, match="no whole GRIB2 message"):
        array[1]
    with pytest.raises(NotImplementedError, match="reads messages"):
        array[0] = 1


def test_zarr_finds_the_codec_by_itself() -> None:
    assert NAME in entry_points(group="zarr.codecs").names, "not installed since the codec came: make install"


def test_nothing_to_open_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ensemble\.icechunk: no data set of an ensemble"):
        open_virtual(str(tmp_path))


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"regular": ["2tt"]}, "products.cube.regular: 2tt: '2tt', expected .*did you mean '2t'"),
        ({"regular": ["10si"]}, "products.cube.regular: '10si', expected variables of the model itself"),
    ],
)
def test_wrong_keys_are_refused(ensemble: Config, over: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        with_cube(ensemble, **over)
