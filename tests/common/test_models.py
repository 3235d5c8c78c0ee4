"""The model catalogue: what is wrong with an entry is said in one line; what is right needs no code."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.models import CATALOGUE, get_model
from aifs_ensemble.common.parameters import TABLE
from aifs_ensemble.model.checkpoint.describe import check_description, describe_checkpoint
from aifs_ensemble.model.checkpoint.fetch import provide_checkpoint
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.checkpoint.statistics import mean_and_deviation


@pytest.fixture
def catalogue(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Write a catalogue in which the demonstration entry, as ``trial``, was changed."""

    def write(change: Callable[[dict[str, Any]], object]) -> Path:
        entry = deepcopy(yaml.safe_load(CATALOGUE.read_text())["models"]["demo"])
        change(entry)
        path = tmp_path / "models.yaml"
        path.write_text(yaml.safe_dump({"models": {"trial": entry}}))
        return path

    return write


@pytest.mark.parametrize("name", yaml.safe_load(CATALOGUE.read_text())["models"])
def test_every_entry_is_sound(name: str) -> None:
    model = get_model(name)
    assert len(model.pressure_variables) == sum(map(len, model.pressure.values()))
    assert not set(model.prognostic) & set(model.diagnostic)


def test_the_second_version_has_what_its_users_counted() -> None:
    """Against what was read out of the file by others: 107 + 5 in, 120 out; the direction of waves is one field."""
    first, second = get_model("aifs-ens-1.0"), get_model("aifs-ens-2.0")
    assert (len(second.prognostic), len(second.constant), len(second.computed)) == (107, 5, 9)
    assert (len(second.inputs), len(second.outputs), len(second.delivered)) == (112, 120, 119)
    assert get_model("demo-v2").inputs == second.inputs and get_model("demo-v2").outputs == second.outputs
    bands = [f"h{band}" for band in ("1012", "1214", "1417", "1721", "2125", "2530")]
    waves = {"cdww", "cos_mwd", "sin_mwd", "mwp", "swh", *bands}
    new = waves | {"sd", "swvl1", "swvl2"} | {f"{name}_10" for name in "tuvwz"}
    assert set(second.prognostic) - set(first.prognostic) == new and set(second.waves) == waves
    assert set(second.outputs) == set(first.outputs) | new | {"snowc"}
    assert set(second.inputs) == set(first.inputs) | new | {"wmb"}
    assert set(second.outputs) - set(second.delivered) == {"cos_mwd", "sin_mwd"}
    assert set(second.delivered) - set(second.outputs) == {"mwd"}


def test_where_values_may_be_missing() -> None:
    first, second = get_model("aifs-ens-1.0"), get_model("aifs-ens-2.0")
    assert first.missing == {}
    over = {place: {name for name in second.missing if second.missing[name] == place} for place in ("sea", "land")}
    assert over["sea"] == {"sd", "snowc", "swvl1", "swvl2", "ro"}
    assert over["land"] == {*second.waves, "mwd", "wmb"}


def test_memory_of_the_models_own_pass_by_chunks() -> None:
    """As measured of a model of that size: a job took 10.9 GB of torch's memory with 10 chunks, 9.7 with 16."""
    first, second = get_model("aifs-ens-1.0"), get_model("aifs-ens-2.0")
    context = 900
    for chunks, measured in ((10, 10_900), (16, 9_700)):
        assert second.own_pass_mb(chunks) == pytest.approx(measured + context, rel=0.01)
    # a pass without a job, which took 2.2 GB more
    for chunks, measured in ((1, 37_900), (8, 9_600), (16, 7_500), (32, 6_500)):
        assert second.own_pass_mb(chunks) == pytest.approx(measured + 2_200 + context, rel=0.02)
    assert [second.chunks_within(mb) for mb in (50_000, 24_000, 11_000, 10_000, 9_000)] == [1, 4, 16, 32, None]
    assert first.own_pass_mb(1) == first.own_pass_mb(16) == 23_400, "of the first nobody measured what chunks spare"
    assert first.chunks_within(50_000) is None and get_model("demo").own_pass_mb(1) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e.update(chunked_gpu_mb="many"), "trial: chunked_gpu_mb: 'many', expected int"),
        (lambda e: e.pop("timestep_hours"), "models.yaml: trial: timestep_hours is missing"),
        (lambda e: e.update(grid=320), "trial: grid: 320, expected str"),
        (lambda e: e.update(gird="N320"), "trial: unknown key 'gird', did you mean 'grid'?"),
        (lambda e: e["variables"].pop("diagnostic"), "trial: variables: diagnostic is missing"),
        (lambda e: e["variables"]["prognostic"].update(ice=["ci"]), "variables.prognostic: unknown key 'ice'"),
        (
            lambda e: e["variables"]["prognostic"]["surface"].append("q_500"),
            "trial: variables: q_500 named more than once",
        ),
        (
            lambda e: e["variables"]["prognostic"]["surface"].append("swh"),
            "trial: variables.prognostic.surface: 'swh', expected under waves",
        ),
        (
            lambda e: e["variables"]["prognostic"].update(waves=["swvl1"]),
            "trial: variables.prognostic.waves: 'swvl1', expected under soil",
        ),
        (
            lambda e: e["variables"]["prognostic"].update(waves=["cos_mwd"]),
            "trial: variables: 'cos_mwd' without 'sin_mwd', expected both or neither",
        ),
        (
            lambda e: e["variables"].update(missing={"rho": "sea"}),
            "trial: variables.missing: 'rho' is no variable of the model, did you mean 'ro'?",
        ),
        (
            lambda e: e["variables"].update(missing={"ro": "lake"}),
            "missing.ro: 'lake', expected sea, land or",
        ),
        (lambda e: e["variables"]["constant"].append("2t"), "trial: variables: 2t named more than once"),
        (lambda e: e["variables"].update(accumulated=["tp"]), "trial: variables: unknown key 'accumulated'"),
        (
            lambda e: e["variables"]["diagnostic"].append("newvar"),
            "trial: variables: 'newvar' has no row in parameters.yaml",
        ),
        (
            lambda e: e["variables"]["prognostic"]["soil"].append("slt1"),
            "'slt1' has no row in parameters.yaml, did you mean 'stl1'?",
        ),
        (lambda e: e["variables"]["prognostic"]["pressure"].update(t=[]), "prognostic.pressure.t: [], expected levels"),
        (
            lambda e: e["variables"]["prognostic"]["pressure"].update(t=["500"]),
            "trial: variables.prognostic.pressure.t: ['500'], expected levels in hPa",
        ),
        (lambda e: e.update(checkpoint={"sha256": None}), "checkpoint needs one of build, repository, url"),
        (lambda e: e.update(checkpoint={"repository": "a/b"}), "checkpoint.file is missing, it names the file in a/b"),
        (lambda e: e["checkpoint"].update(sha256="12"), "sha256: '12', expected 64 hexadecimal digits"),
        (lambda e: e["checkpoint"].update(revison="v1"), "unknown key 'revison', did you mean 'revision'?"),
    ],
)
def test_what_is_wrong_with_an_entry(
    catalogue: Callable[..., Path], change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        get_model("trial", catalogue(change))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def second_version(entry: dict[str, Any]) -> None:
    """What a made-up successor adds: a level of all but humidity, waves, snow, a variable that nobody has heard of."""
    variables = entry["variables"]
    entry["grid"] = "O16"
    for name, levels in variables["prognostic"]["pressure"].items():
        variables["prognostic"]["pressure"][name] = levels if name == "q" else [10, *levels]
    variables["prognostic"] |= {"waves": ["swh", "mwp"], "snow": ["sd"]}
    variables["diagnostic"] += ["newvar"]
    entry["checkpoint"]["build"]["statistics"] = {"newvar": [7.0, 2.0]}


def test_a_new_model_needs_an_entry_only(catalogue: Callable[..., Path], tmp_path: Path) -> None:
    rows = yaml.safe_load(TABLE.read_text())
    rows["surface"]["newvar"] = rows["surface"]["100u"] | {"statistics": [1.0, 1.0]}
    table = tmp_path / "parameters.yaml"
    table.write_text(yaml.safe_dump(rows))
    model = get_model("trial", catalogue(second_version), table)
    path = tmp_path / "trial.ckpt"
    provide_checkpoint(model, path)

    description = describe_checkpoint(path)
    assert {"t_10", "z_10", "swh", "sd"} <= set(description.variables["prognostic"])
    assert "q_10" not in description.variables["prognostic"]
    interface = load_model(path, model, device="cpu")
    names = interface.data_indices.model.input.name_to_index
    assert len(names) == len(model.inputs) + len(model.computed)
    statistics = interface.statistics
    data = interface.data_indices.data.input
    mean = torch.tensor([statistics["mean"][data.name_to_index[name]] for name in names])
    fields = mean.float().expand(1, 2, description.points, -1).contiguous()
    made = interface.predict_step(fields, fcstep=0)
    assert made.shape == (1, 1, description.points, len(model.outputs))
    assert made.isfinite().all()
    # without a scale of its own a variable would come out around zero
    newvar = made[..., interface.data_indices.model.output.name_to_index["newvar"]]
    assert newvar.mean() == pytest.approx(7, abs=4)

    first = replace(get_model("demo"), grid=model.grid)
    with pytest.raises(CheckpointError, match=r"prognostic has mwp, sd, swh, t_10, u_10.*diagnostic has newvar"):
        check_description(description, first)
    with pytest.raises(CheckpointError, match=r"prognostic lacks 2t2"):
        check_description(description, replace(model, surface=(*model.surface, "2t2")))


def test_statistics_follow_the_level() -> None:
    levels = (10, 50, 60, 500, 1000)
    at = {level: mean_and_deviation(f"t_{level}")[0] for level in levels}
    assert at[60] < at[50] < at[10] < at[500] < at[1000]  # the coldest level is 100 hPa
    assert at[60] == pytest.approx(209.5, abs=0.1)
    z = [mean_and_deviation(f"z_{level}")[0] for level in levels]
    assert z == sorted(z, reverse=True)
    assert mean_and_deviation("z") == (2250.0, 6113.0)
    # 50 hPa interpolated to 60: hydrostatic thickness of that layer at about 210 K is R T ln(60 / 50)
    thickness = z[1] - z[2]
    assert thickness == pytest.approx(287 * 210 * np.log(60 / 50), rel=0.05)
    assert mean_and_deviation("unheard_of") == (0.0, 1.0)
    assert mean_and_deviation("unheard_of", {"unheard_of": [3, 4]}) == (3.0, 4.0)
