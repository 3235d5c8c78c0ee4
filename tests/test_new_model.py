"""A new model with the same network is rows, not code: a copy of the library, two tables changed, and it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = """
  trial:
    title: the demonstration model with what is new
    untrained: true
    grid: N32
    timestep_hours: 6
    grib_model: aifs-ens
    variables:
      prognostic:
        surface: [10u, 10v, 2d, 2t, blh, msl, skt, sp, tcw]
        soil: [stl1, stl2]
        pressure:
          q: *levels-v1
          t: *levels-v2
          u: *levels-v2
          v: *levels-v2
          w: *levels-v2
          z: *levels-v2
      constant: [lsm, z, slor, sdor]
      computed: [cos_latitude, sin_latitude, insolation]
      diagnostic: [sst, e, tp]
    checkpoint:
      build: {hidden: O8, channels: 16, layers: 1, heads: 4, window: 64, seed: 0}
    anemoi_models: 0.6.0
"""
# the section of single levels is the table's last
ROWS = """
  blh:
    grib: {shortName: blh, paramId: 159, units: m, typeOfLevel: surface}
    bits: 12
    reason: "range about 5 km, error at most 1 m"
    range: [0, 9000]
    statistics: [600, 500]
  sst:
    grib: {shortName: sst, paramId: 34, units: K, typeOfLevel: surface}
    bits: 14
    reason: "as 2t"
    missing: land
    statistics: [287, 11]
  e:
    grib: {shortName: eva, paramId: 260259, units: kg m**-2, typeOfLevel: surface}
    units: m
    factor: 1000
    bits: 20
    reason: "as tp"
    accumulates: true
"""

# runs in the copy: an initial state from a GRIB file, two leads, and all of them read back
FORECAST = """
import sys
from datetime import timedelta
from pathlib import Path

import aifs_ensemble
import numpy as np
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.names import parse_cycle
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.grib_check import check_lead
from aifs_ensemble.fields.grib_encoder import output_spec
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.initial.build import build_member
from aifs_ensemble.initial.idealised import idealised_fields
from aifs_ensemble.model.checkpoint.fetch import provide_checkpoint
from doubles.opendata_replica import encode

copy, cycle = Path(sys.argv[1]), "20250819_0000"
assert Path(aifs_ensemble.__file__).is_relative_to(copy)
grib = copy / "input.grib2"
config = Config({
    "model": "trial", "cycle": cycle, "members": "1", "lead_hours": 12, "scratch": str(copy / "scratch"),
    "initial_conditions": {"source": "file", "file": {"path": str(grib)}, "derive": ["z"], "cache": sys.argv[2]},
})
model, now = config.model, parse_cycle(cycle)
assert model.accumulated == ("e", "tp") and "z_10" in model.inputs and "q_10" not in model.inputs

settings = config.initial_conditions.idealised
with grib.open("wb") as file:
    for hours in (-6, 0):
        time = now + timedelta(hours=hours)
        fields = idealised_fields(
            grid_coordinates("10x10"), model.levels, time, cycle_time=now, member=1, settings=settings
        )
        fields["blh"] = 500 + hours + 0 * fields["2t"]
        for name in model.inputs if not hours else model.prognostic:
            keys = {"typeOfLevel": "surface"} if name == "blh" else {}
            file.write(encode(name, fields[name], "10x10", time, bitsPerValue=24, **keys))
state = build_member(config, 1, config.scratch.initial(1))
assert dict(zip(state.variables, state.units))["blh"] == "m"
np.testing.assert_allclose(state.variable("blh")[0], 494, rtol=1e-4)

checkpoint = copy / "trial.ckpt"
provide_checkpoint(model, checkpoint)
request = ForecastRequest.from_config(config, 1, checkpoint=checkpoint)
manifest = run_forecast(request)
assert [lead.lead for lead in manifest.leads] == [6, 12] and manifest.fields == 2 * len(model.outputs)
spec = output_spec(model, cycle, 1, ensemble_size=config.ensemble_size, bits=request.bits)
path = config.scratch.lead(1, 12)
assert not (wrong := check_lead(path, spec, 12)), wrong
for param in ("blh", "sst", "eva"):
    assert read_fields(path, param=param).shape == (1, 6114)
assert read_fields(path, param="t", levelist=10).shape == (1, 6114)

# the untrained network misses no value: a model that does, as its fields come to the encoders
rows = np.stack([read_fields(path, param="2t")[0]] * len(spec.variables))
land = np.arange(6114) % 3 == 0
rows[spec.variables.index("sst"), land] = np.nan
rows[[spec.variables.index(name) for name in model.accumulated]] *= 1e-4
with EncoderPool(spec, copy, 1) as pool:
    slot = pool.acquire(120)
    slot.array[:] = rows
    pool.submit(slot, 6)
    (record,) = pool.drain()
assert not (wrong := check_lead(copy / record.grib.name, spec, 6)), wrong
np.testing.assert_array_equal(np.isnan(read_fields(copy / record.grib.name, param="sst")[0]), land)
print("all read back")
"""


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The library and its tables, with the new model in the catalogue and not yet in the table of parameters."""
    for name in ("scripts", "config"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "config" / "models.yaml").open("a") as file:
        file.write(MODEL)
    return tmp_path


def run(copy: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(copy / "scripts"), str(root / "tests")))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, check=False, capture_output=True, text=True
    )


def test_a_new_model_is_rows(copy: Path, root: Path, weights_cache: Path) -> None:
    plan = ("-m", "aifs_ensemble", "plan", "--config", "model=trial", "lead_hours=12", "members=1")
    refused = run(copy, root, *plan)
    assert refused.returncode == 2, refused.stderr
    line = "models.yaml: trial: variables: 'blh' has no row in parameters.yaml, expected one"
    assert line in refused.stderr and len(refused.stderr.strip().splitlines()) == 1

    with (copy / "config" / "parameters.yaml").open("a") as file:
        file.write(ROWS)
    planned = run(copy, root, *plan)
    assert planned.returncode == 0, planned.stderr
    assert "1 of 1 members to forecast" in planned.stdout
    forecast = run(copy, root, "-c", FORECAST, str(copy), str(weights_cache))
    assert forecast.returncode == 0, forecast.stderr
    assert forecast.stdout.strip().endswith("all read back")
