"""Names of daily statistics: what the configuration and readers rely on is what ecCodes says."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import eccodes
import numpy as np
import pytest
import yaml
from aifs_ensemble.common.daily import LeadField
from aifs_ensemble.common.models import CATALOGUE, get_model
from aifs_ensemble.common.parameters import is_direction, parameter_of
from aifs_ensemble.common.storage import open_storage
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.grib_check import check_index, check_lead, check_messages, messages
from aifs_ensemble.fields.grib_encoder import FieldEncoder, daily_name, grib_parameter
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.indexed_fields import IndexedFields

from fields.members import make_fields, make_spec

POINTS = grid_coordinates("N32").points


def test_the_table_knows_statistics_that_have_the_name_of_the_instant() -> None:
    """What is refused beside its variable is just that: all others have names, numbers and units of their own."""
    seen = set()
    for name in yaml.safe_load(CATALOGUE.read_text())["models"]:
        encoder = FieldEncoder(make_spec(model=name))
        for variable in get_model(name).delivered:
            parameter = parameter_of(variable)
            if parameter.name in seen or parameter.template != 1 or is_direction(variable):
                continue
            seen.add(parameter.name)
            plain = grib_parameter(variable)
            for statistic in ("sum",) if parameter.accumulates else ("mean", "max", "min"):
                handle = eccodes.codes_new_from_message(encoder.header(variable, 48, statistic))
                found = tuple(eccodes.codes_get(handle, key) for key in ("shortName", "paramId"))
                assert found == daily_name(variable, statistic)
                assert eccodes.codes_get(handle, "units") == plain.units
                assert eccodes.codes_get(handle, "stepRange") == "24-48"
                same = parameter.accumulates or statistic in parameter.nameless
                assert (found[0] == plain.short_name, found[1] == plain.param_id) == (same, same), (variable, statistic)
                eccodes.codes_release(handle)
    assert {"2t", "tp", "t", "swh", "snowc"} <= seen


def test_missing_values_of_statistics_are_missing(tmp_path: Path) -> None:
    """Waves over land: also the general check of files knows that such a statistic may miss values."""
    spec = make_spec(["swh", "2t"], model="demo-v2")
    spec = dataclasses.replace(spec, daily=(LeadField("swh", "mean"), LeadField("2t", "min")))
    fields = np.concatenate([make_fields(spec, 24)] * 2)  # rows of the statistics are those of the variables here
    order = [spec.rows.index("swh"), spec.rows.index("2t")]
    fields[2:] = fields[order]
    with EncoderPool(spec, tmp_path, 1) as pool:
        slot = pool.acquire(120)
        slot.array[:] = fields
        pool.submit(slot, 24)
        [record] = pool.drain()
    path = tmp_path / record.grib.name
    assert check_lead(path, spec, 24) == []
    found = list(messages(path, values=True))
    assert [message.keys["shortName"] for message in found] == ["swh", "2t", "avg_swh", "mn2t24"]
    assert check_messages(path, found, {}) == [] and check_index(path, found) == []


def test_the_index_is_checked_by_what_is_expected_of_a_lead(tmp_path: Path) -> None:
    """An amount of a day is indexed by its period, one since the start by its end; what the entry says decides not."""
    since = dataclasses.replace(make_spec(["tp"]), daily=(LeadField("2t", "max"),))
    of_day = dataclasses.replace(make_spec(["2t"]), daily=(LeadField("tp", "sum"),))
    for spec, step, other in ((since, "24", "0-24"), (of_day, "0-24", "24")):
        with EncoderPool(spec, tmp_path, 1) as pool:
            slot = pool.acquire(120)
            slot.array[:] = 1
            pool.submit(slot, 24)
            [record] = pool.drain()
        path, index = tmp_path / record.grib.name, tmp_path / record.index.name
        assert check_lead(path, spec, 24) == []
        lines = index.read_text().splitlines()
        place = next(number for number, line in enumerate(lines) if '"param": "tp"' in line)
        assert f'"step": "{step}"' in lines[place]
        lines[place] = lines[place].replace(f'"step": "{step}"', f'"step": "{other}"')
        index.write_text("".join(f"{line}\n" for line in lines))
        told = f"{index}: line {place + 1}: step is '{other}', expected '{step}'"
        assert check_lead(path, spec, 24) == [told]
        assert check_index(path, list(messages(path))) == []  # nobody knows of which kind it should be


def test_readers_of_products_do_not_take_a_statistic_for_the_field(tmp_path: Path) -> None:
    """A day's rain has GRIB's name of the rain since the start, where leads do not hold that one."""
    spec = dataclasses.replace(make_spec(["2t"]), daily=(LeadField("tp", "sum"), LeadField("2t", "max")))
    with EncoderPool(spec, tmp_path, 1) as pool:
        slot = pool.acquire(120)
        for row, value in enumerate((280, 0.01, 290)):
            slot.array[row] = value
        pool.submit(slot, 48)
        [record] = pool.drain()
    fields = IndexedFields(open_storage(str(tmp_path)), POINTS)
    assert {str(name) for name in fields.places(record.grib.name, 48)} == {"2t"}
    assert (fields.read(record.grib.name, 48, ["2t"])["2t"] == 280).all()
    with pytest.raises(Exception, match="no tp at 48 h"):
        fields.read(record.grib.name, 48, ["tp"])


@pytest.mark.skipif(not shutil.which("cdo"), reason="no cdo on this machine")
def test_cdo_reads_statistics_of_several_days(tmp_path: Path) -> None:
    daily = tuple(LeadField("2t", statistic) for statistic in ("mean", "max", "min"))
    spec = dataclasses.replace(make_spec(["2t", "msl"]), daily=(*daily, LeadField("tp", "sum")))
    with EncoderPool(spec, tmp_path, 1) as pool:
        for lead in (24, 48):
            slot = pool.acquire(120)
            for row, value in enumerate((280, 1e5, 281, 290, 270, 0.01)):
                slot.array[row] = value + lead
            pool.submit(slot, lead)
        records = pool.drain()
    days = tmp_path / "days.grib2"
    days.write_bytes(b"".join((tmp_path / record.grib.name).read_bytes() for record in records))

    def cdo(*arguments: str) -> str:
        return subprocess.run(["cdo", "-s", *arguments], check=True, capture_output=True, text=True).stdout

    kinds = [line.split()[5] for line in cdo("sinfon", str(days)).splitlines() if " v " in line]
    assert kinds == ["instant", "instant", "avg", "max", "min", "accum"]
    found = cdo(
        "outputtab,timestep,value", "-selindexbox,1,1,1,1", "-setgridtype,regular", "-selname,mx2t24", str(days)
    )
    assert [float(line.split()[1]) for line in found.splitlines()[1:]] == [314, 338]
