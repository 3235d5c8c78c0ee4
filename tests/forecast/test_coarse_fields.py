"""Coarse fields made by torch: the bits of the encoders' product, and of a sum written out term by term."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from aifs_ensemble.fields.coarse_encoder import CoarseEncoder, coarse_weights
from aifs_ensemble.fields.grib_encoder import CoarseSpec
from aifs_ensemble.fields.interpolation import weights_name
from aifs_ensemble.forecast import coarse_fields, engine
from aifs_ensemble.forecast.coarse_fields import CoarseFields, makes_coarse_fields
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from fields.members import make_spec

from forecast.cases import content

OUTPUTS = ("10u", "2t", "tcc", "tp", "v_500", "t_500", "cp", "ssrd")
WANTED = ("10u", "tcc", "tp", "v_500", "t_500", "ssrd")  # in the order of the outputs, not all of them
METHODS = {"default": "linear", "tp": "grid-box-average", "v_500": "nearest-neighbour", "ssrd": "grid-box-average"}


def rough_fields() -> np.ndarray:
    """Values of both signs and of many sizes, zeros of both signs among them: any other order of a sum shows."""
    rng = np.random.default_rng(16)
    fields = rng.standard_normal((len(OUTPUTS), 6114)) * 10.0 ** rng.uniform(-6, 6, (len(OUTPUTS), 6114))
    fields[:, ::7] = -0.0
    fields[:, 1000:1500] = -0.0  # whole sums of it
    return fields.astype(np.float32)


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("grid", ["10x5", "1.5x1.5"])
@pytest.mark.parametrize("at_once", [1 << 24, 2000])
@pytest.mark.parametrize("device", DEVICES)
def test_the_bits_are_those_of_the_encoders(
    weights_cache: Path, grid: str, at_once: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse_fields, "_PRODUCTS_AT_ONCE", at_once)
    spec = CoarseSpec(grid, WANTED, METHODS, str(weights_cache))
    encoder = CoarseEncoder(make_spec(OUTPUTS, coarse=spec))
    weights, fields = coarse_weights(spec, "N32"), rough_fields()
    coarse = CoarseFields(spec, OUTPUTS, weights, torch.device(device))
    for turn in (1, -1):  # nothing of one call is left in the next
        made = coarse.make(torch.from_numpy(turn * fields).to(device)).cpu().numpy()
        for row, name in enumerate(WANTED):
            field = turn * fields[OUTPUTS.index(name)]
            matrix = weights[weights_name(spec.method(name), name)].matrix
            assert matrix is not None
            expected = encoder.make(name, field)
            assert made[row].tobytes() == expected.tobytes()
            for target in np.random.default_rng(row).choice(len(expected), 200):
                total = np.float32(0)
                for at in range(matrix.indptr[target], matrix.indptr[target + 1]):
                    total = np.float32(total + np.float32(matrix.data[at] * field[matrix.indices[at]]))
                assert total.tobytes() == expected[target].tobytes()


def test_a_forecast_whose_device_makes_them_is_the_same(
    request_for: Callable[..., ForecastRequest], weights_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = CoarseSpec(
        "10x5", ("2t", "tp", "u_500"), {"default": "linear", "tp": "grid-box-average"}, str(weights_cache)
    )
    encoders, device = (request_for(tmp_path / place, coarse=spec) for place in ("encoders", "device"))
    manifest = run_forecast(encoders)
    monkeypatch.setattr(engine, "makes_coarse_fields", lambda spec, device: True)
    # an attempt that ends early, and one that goes on from its restart state
    run_forecast(ForecastRequest(**{**vars(device), "leads": device.leads[:2]}))
    assert [record.coarse for record in run_forecast(device).leads] == [record.coarse for record in manifest.leads]
    assert content(device) == content(encoders)
    files = sorted(encoders.coarse_leads.iterdir())
    assert len(files) == 2 * len(encoders.leads)
    for path in files:
        assert (device.coarse_leads / path.name).read_bytes() == path.read_bytes()


def test_a_gpu_makes_small_ones() -> None:
    card, many = torch.device("cuda"), tuple(str(number) for number in range(100))
    asked = {grid: CoarseSpec(grid, many, {"default": "linear"}, "") for grid in ("1.5x1.5", "0.5x0.5", "0.25x0.25")}
    assert [makes_coarse_fields(spec, card) for spec in asked.values()] == [True, True, False]
    assert not makes_coarse_fields(asked["1.5x1.5"], torch.device("cpu"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_benchmark_runs(tmp_path: Path, root: Path) -> None:
    command = [
        sys.executable, str(root / "benchmarks" / "coarse_leads.py"), "--model", "demo", "--scratch", str(tmp_path),
        "--steps", "3", "--encoders", "1", "--seconds", "60", "--ways", "encoders", "device",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "leads are the same to the byte" in done.stdout
