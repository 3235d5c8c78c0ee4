"""Products on the regular grid read coarse leads where these suit, else the leads; values differ by packing alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.manifest import LeadRecord, read_member_manifest, write_member_manifest
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.verify import verify_member
from aifs_ensemble.fields.coarse_encoder import coarse_weights
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.forecast.request import coarse_spec
from aifs_ensemble.products.regular_fields import RegularFields
from aifs_ensemble.products.weekly import write_weekly_file
from delivery.members import finish_member, make_config
from fields.members import make_fields

from products.conftest import PRODUCTS, spec_of

VARIABLES = ("2t", "msl", "tp", "t_500")
COARSE: dict[str, Any] = {"enabled": True, "variables": ["2t", "msl", "tp"], "method": {"tp": "grid-box-average"}}
GRID = {"grid": "10x5", "interpolation": {"tp": "grid-box-average"}}


def changed(config: Config, **over: Any) -> Config:
    raw = config.to_dict()
    merge(raw, over)
    return Config(raw)


def make(folder: Path, destination: str, cache: Path) -> Config:
    """Make and deliver a member of 48 hours with coarse leads on 37 x 36 points."""
    config = make_config(
        folder / "scratch", destination, members="1-1", lead_hours=48,
        initial_conditions={"source": "idealised", "cache": str(cache)},
        products={**PRODUCTS, **GRID, "coarse": COARSE},
    )  # fmt: skip
    coarse = coarse_spec(config)
    assert coarse is not None
    spec = replace(spec_of(config, 1), coarse=coarse)
    coarse_weights(coarse, config.model.grid)
    leads = config.scratch.work(1) / "leads"
    records: list[LeadRecord] = []
    with EncoderPool(spec, leads, 1) as pool:
        for lead in config.leads:
            slot = pool.acquire(120)
            slot.array[:] = make_fields(spec, lead)
            pool.submit(slot, lead)
        records = pool.drain()
    finish_member(config, 1, records)
    deliver_member(config, 1)
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path) -> Config:
    folder = tmp_path_factory.mktemp("coarse")
    return make(folder, str(folder / "results"), weights_cache)


@pytest.fixture
def copied(made: Config, tmp_path: Path) -> Config:
    """A copy to be spoilt."""
    shutil.copytree(made.destination or "", tmp_path / "results")
    return changed(made, destination=str(tmp_path / "results"), scratch=str(tmp_path / "scratch"))


def key(config: Config) -> Path:
    return next((Path(config.destination or "") / config.cycle / "coarse").glob("*h012_10x5deg.grib2"))


def native_reads(fields: RegularFields, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Return a list that fills with what is read of the leads themselves."""
    seen: list[tuple[int, str]] = []
    read = fields.native.read

    def noted(lead: int, variables: Any) -> Any:
        seen.extend((lead, variable) for variable in variables)
        return read(lead, variables)

    monkeypatch.setattr(fields.native, "read", noted)
    return seen


def test_coarse_leads_are_read_and_differ_by_packing_alone(made: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are within half a step of their packing: of the coarse field, and of the field before it is regridded."""
    fields = RegularFields(made, 1, VARIABLES)
    native = native_reads(fields, monkeypatch)
    for lead in (6, 12, 48):
        found = fields.read(lead, VARIABLES)
        assert list(found) == list(VARIABLES)
        for variable in VARIABLES:
            assert found[variable].shape == (37, 36)
            field = fields.native.read(lead, [variable])[variable]
            regridded = fields.grid.regrid(variable, field)
            step = sum(2.0 ** np.ceil(np.log2(np.ptp(values) / (2**16 - 1))) for values in (field, regridded))
            difference = np.abs(found[variable] - regridded).max()
            assert difference <= 0.51 * step
            assert (difference > 0) == (variable != "t_500")
    assert {variable for _, variable in native if native.count((6, variable)) > 1} == {"t_500"}


def lose(config: Config) -> None:
    key(config).unlink()


def shorten(config: Config) -> None:
    key(config).write_bytes(key(config).read_bytes()[:-1])


def flip(config: Config) -> None:
    data = bytearray(key(config).read_bytes())
    for place in range(300, len(data), 500):  # the values of every message
        data[place] ^= 1
    key(config).write_bytes(data)


def flip_index(config: Config) -> None:
    path = key(config).with_suffix(".index")
    path.write_text(path.read_text().replace('"msl"', '"2d" ').replace('"2t"', '"msl"'))


def lose_index(config: Config) -> None:
    key(config).with_suffix(".index").unlink()


def forget(config: Config) -> None:
    """What mending does, and how members were delivered before there were coarse leads."""
    path = Path(config.destination or "") / config.objects.manifest(1)
    manifest = read_member_manifest(path)
    leads = tuple(replace(r, coarse=None) if r.lead == 12 else r for r in manifest.leads)
    write_member_manifest(path, replace(manifest, leads=leads))


@pytest.mark.parametrize("spoil", [lose, shorten, flip, flip_index, lose_index, forget])
def test_a_spoilt_coarse_lead_is_read_from_the_lead(
    copied: Config, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Config], None]
) -> None:
    variables = ["2t", "msl", "tp"]
    expected = RegularFields(copied, 1, variables).read(12, variables)
    spoil(copied)
    fields = RegularFields(copied, 1, variables)
    native = native_reads(fields, monkeypatch)
    found = fields.read(12, variables)
    for variable in variables:
        np.testing.assert_allclose(found[variable], expected[variable], atol=np.ptp(expected[variable]) / 2**14)
        assert (12, variable) in native
    native.clear()
    fields.read(18, variables)
    assert native == []
    if spoil is not forget:
        assert verify_member(copied, 1).coarse.keys() == {12}


@pytest.mark.parametrize(
    ("asked", "coarse"),
    [
        ({}, ["2t", "msl", "tp"]),
        ({"grid": "15x15"}, []),
        ({"interpolation": {"tp": "linear"}}, ["2t", "msl"]),
        ({"interpolation": {"2t": "nearest-neighbour"}}, ["msl", "tp"]),
        ({"coarse": {"enabled": False}}, ["2t", "msl", "tp"]),
        ({"coarse": {"grid": "15x15", "method": {"default": "grid-box-average"}}}, ["2t", "msl", "tp"]),
    ],
)
def test_they_are_read_only_as_they_are_wanted(made: Config, asked: dict[str, Any], coarse: list[str]) -> None:
    """What counts is what the products want and what the manifest says, not what coarse leads to come are asked for."""
    fields = RegularFields(changed(made, products=asked), 1, VARIABLES)
    assert [variable for variable in VARIABLES if fields.has_coarse(12, variable)] == coarse


def test_other_weights_are_not_mistaken(made: Config, copied: Config) -> None:
    """MIR of another version may make other weights of the same name."""
    path = Path(copied.destination or "") / copied.objects.manifest(1)
    manifest = read_member_manifest(path)
    other = {"linear": "0" * 64, "grid-box-average": "1" * 64}
    leads = [replace(r, coarse=replace(r.coarse, weights=other)) for r in manifest.leads if r.coarse]
    write_member_manifest(path, replace(manifest, leads=tuple(leads)))
    fields = RegularFields(copied, 1, VARIABLES)
    assert not any(fields.has_coarse(12, variable) for variable in VARIABLES)
    assert RegularFields(made, 1, VARIABLES).has_coarse(12, "2t")


def test_weeks_are_made_of_them(made: Config, copied: Config, tmp_path: Path) -> None:
    """One lead without its coarse file, and the periods with it are made of the leads."""
    storage = open_destination(copied)
    for info in list(storage.list(f"{copied.cycle}/coarse/")):
        storage.delete(info.key)
    files = []
    for config in (made, copied):
        files.append(tmp_path / f"{len(files)}.nc")
        write_weekly_file(config, 1, files[-1])
    with xr.open_dataset(files[0]) as coarse, xr.open_dataset(files[1]) as native:
        assert coarse.attrs == native.attrs
        for name in ("tas", "mslp", "pr"):
            assert np.abs(coarse[name] - native[name]).max() <= np.ptp(native[name].to_numpy()) / 2**13
            assert not coarse[name].identical(native[name])
    write_weekly_file(made, 1, again := tmp_path / "again.nc")
    assert again.read_bytes() == files[0].read_bytes()


@pytest.mark.cloud
def test_requests_to_a_bucket(bucket, gcs, tmp_path: Path, weights_cache: Path) -> None:
    """One object with all indexes, and one range a lead: three neighbours of 2 kB come together."""
    config = make(tmp_path, bucket(), weights_cache)
    fields = RegularFields(config, 1, ["2t", "msl", "tp"])
    for lead, requests in ((12, 2), (18, 1), (24, 1)):
        before = gcs.schedule.log["requests"]
        fields.read(lead, ["2t", "msl", "tp"])
        assert gcs.schedule.log["requests"] - before == requests
