"""Coarse leads: the product of the weights, packed once; the same bytes whoever makes them; leads as without."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import eccodes
import numpy as np
import pytest
from aifs_ensemble.common.errors import EncodingError
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.manifest import check_coarse, check_leads
from aifs_ensemble.common.names import coarse_file, index_file, lead_file
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.fields.ccsds import pack_with_eccodes
from aifs_ensemble.fields.coarse_encoder import CoarseEncoder, coarse_output, coarse_weights
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.encoder_process import publish
from aifs_ensemble.fields.grib_check import check_lead
from aifs_ensemble.fields.grib_encoder import CoarseSpec, FieldEncoder, OutputSpec
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.grid_templates import grid_template
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import weights_name

from fields.members import CYCLE, FEW, make_fields, make_spec, write_member

SOME = ("2t", "tp", "tcc")
METHODS = {"default": "linear", "tp": "grid-box-average"}
GRIDS = ("1.5x1.5", "10x5")


def coarse_spec(cache: Path, grid: str = "10x5") -> OutputSpec:
    return make_spec(FEW, coarse=CoarseSpec(grid, SOME, METHODS, str(cache)))


def encoded(encoder: CoarseEncoder, name: str, lead: int, field: np.ndarray) -> bytes:
    """Return the coarse message of a field of the model's grid."""
    beside = FieldEncoder(make_spec(FEW)).header(name, lead)
    return bytes(encoder.encode(name, lead, [field], beside))


def products(spec: OutputSpec, lead: int) -> dict[str, np.ndarray]:
    """Return what numpy makes of the same weights, in GRIB's units."""
    assert spec.coarse is not None
    weights = coarse_weights(spec.coarse, spec.grid)
    fields = dict(zip(spec.variables, make_fields(spec, lead), strict=True))
    return {
        name: (weights[weights_name(spec.coarse.method(name), name)].matrix @ fields[name])
        * np.float32(parameter_of(name).factor)
        for name in SOME
    }


@pytest.mark.parametrize("grid", GRIDS)
def test_messages_are_those_of_the_product(weights_cache: Path, grid: str) -> None:
    spec = coarse_spec(weights_cache, grid)
    encoder, plain = CoarseEncoder(spec), FieldEncoder(coarse_output(spec))
    fields = dict(zip(spec.variables, make_fields(spec, 24), strict=True))
    for name, values in products(spec, 24).items():
        message = encoded(encoder, name, 24, fields[name])
        assert message == pack_with_eccodes(plain.header(name, 24), values, spec.bits[name])
        told = encoder.index_keys(name, np.frombuffer(message, np.uint8))
        assert told["_interpolation"] == METHODS.get(name, "linear")
        assert told["_crc32c"] == crc32c_bytes(message)
        assert len(told["_weights"]) == 64
    assert encoder.digests["linear"] != encoder.digests["grid-box-average"]


@pytest.mark.parametrize("processes", [1, 3])
def test_files_are_the_same_whatever_the_processes(weights_cache: Path, tmp_path: Path, processes: int) -> None:
    spec = coarse_spec(weights_cache)
    records = write_member(spec, tmp_path / "with", (6, 12), processes)
    write_member(dataclasses.replace(spec, coarse=None), tmp_path / "without", (6, 12))
    assert check_leads(tmp_path / "with", records) == {}
    assert check_coarse((tmp_path / "with").joinpath, records) == {}
    encoder = CoarseEncoder(spec)
    for record in records:
        for file in record.files:  # the lead knows nothing of its second file
            assert (tmp_path / "with" / file.name).read_bytes() == (tmp_path / "without" / file.name).read_bytes()
        fields = dict(zip(FEW, make_fields(spec, record.lead), strict=True))
        expected = b"".join(encoded(encoder, name, record.lead, fields[name]) for name in SOME)
        path = tmp_path / "with" / coarse_file(CYCLE, 3, record.lead, "10x5")
        assert record.coarse is not None and path.read_bytes() == expected
        assert (record.coarse.variables, record.coarse.methods, record.coarse.messages) == (SOME, METHODS, 3)
        assert record.coarse.weights == encoder.digests
    assert len(list((tmp_path / "with").iterdir())) == 8
    assert len(list((tmp_path / "without").iterdir())) == 4


@pytest.mark.parametrize("lead", [6, 24, 792, 960])
@pytest.mark.parametrize("accumulate", ["from_start", "per_step"])
def test_headers_of_later_leads_are_made_as_eccodes_would(weights_cache: Path, lead: int, accumulate: str) -> None:
    spec = dataclasses.replace(coarse_spec(weights_cache), accumulate=accumulate)
    encoder, plain = CoarseEncoder(spec), FieldEncoder(coarse_output(spec))
    for name in SOME:
        for hours in (12, lead):
            beside = FieldEncoder(spec).header(name, hours)
            assert encoder._header(name, hours, memoryview(beside)) == plain.header(name, hours)


@pytest.mark.parametrize("grid", GRIDS)
def test_readers_find_keys_grid_and_values(weights_cache: Path, tmp_path: Path, grid: str) -> None:
    spec = coarse_spec(weights_cache, grid)
    write_member(spec, tmp_path, (12,))
    path = tmp_path / coarse_file(CYCLE, 3, 12, grid)
    assert check_lead(path, coarse_output(spec), 12) == []
    lines = [json.loads(line) for line in path.with_name(index_file(path.name)).read_text().splitlines()]
    data = path.read_bytes()
    for line in lines:
        assert crc32c_bytes(data[line["_offset"] : line["_offset"] + line["_length"]]) == line["_crc32c"]
    with open(path, "rb") as file:
        handle = eccodes.codes_grib_new_from_file(file)
    found = [eccodes.codes_get_array(handle, key) for key in ("latitudes", "longitudes")]
    eccodes.codes_release(handle)
    points = grid_coordinates(grid)
    np.testing.assert_allclose(found, [points.latitudes, points.longitudes], atol=1e-6)
    for name, values in products(spec, 12).items():
        got = read_fields(path, param=name)[0]
        # half a step of the packing, which is the range by 2**bits, rounded up to a power of two
        assert np.abs(got - values).max() <= 1.01 * float(np.ptp(values)) / 2 ** spec.bits[name]


def test_missing_values_are_missing_where_the_heaviest_is(weights_cache: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(coarse_spec(weights_cache), missing=("2t",))
    field = make_fields(spec, 6)[1]
    field[grid_coordinates("N32").latitudes > 60] = np.nan
    path = tmp_path / lead_file(CYCLE, 3, 6)
    path.write_bytes(encoded(CoarseEncoder(spec), "2t", 6, field))
    with open(path, "rb") as file:
        handle = eccodes.codes_grib_new_from_file(file)
    missing = eccodes.codes_get(handle, "numberOfMissing")
    eccodes.codes_release(handle)
    assert spec.coarse is not None
    matrix = coarse_weights(spec.coarse, "N32")["linear"].matrix
    heaviest = np.asarray(matrix.todense().argmax(axis=1)).ravel()
    assert missing == np.isnan(field[heaviest]).sum() > 200
    assert missing < np.isnan(matrix @ field).sum()


def test_a_pool_without_weights_makes_leads_alone(weights_cache: Path, tmp_path: Path) -> None:
    spec = coarse_spec(weights_cache)
    with EncoderPool(spec, tmp_path, 2) as pool:
        pool.leave_out_coarse()
        slot = pool.acquire(120)
        slot.array[:] = make_fields(spec, 6)
        pool.submit(slot, 6)
        (record,) = pool.drain()
    assert record.coarse is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file.name for file in record.files)


def test_the_lead_gets_its_name_last(tmp_path: Path) -> None:
    """Whoever sees a lead under its final name, after a kill too, sees what belongs to it."""
    spec, name = make_spec(FEW[:1]), lead_file(CYCLE, 3, 6)
    (tmp_path / name).write_bytes(b"of an earlier attempt")
    seen = []
    publish(tmp_path, spec, 6, [np.zeros(8, np.uint8)], lambda: seen.append(sorted(tmp_path.iterdir())))  # type: ignore[arg-type]
    assert seen == [[]]
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("grid", ["0.7x0.7", "1.5", "1.5x0", "0.0000001x1", "O96", "Nxx"])
def test_grids_that_grib_cannot_say_are_refused(grid: str) -> None:
    with pytest.raises(EncodingError, match="has no GRIB template"):
        grid_template(grid)
