"""Untrained checkpoints: the same bytes every time, labelled, and behaved over a whole forecast."""

from __future__ import annotations

import datetime
import hashlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import Model
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.model.checkpoint.build import build_checkpoint, build_demo
from aifs_ensemble.model.checkpoint.describe import describe_checkpoint
from aifs_ensemble.model.checkpoint.load import load_model

SMALL = {"hidden": "O4", "channels": 8, "layers": 1, "heads": 2, "window": 16, "seed": 3}


@pytest.fixture(scope="session")
def interface(demo: Model, demo_path: Path) -> Any:
    return load_model(demo_path, demo, device="cpu")


@pytest.fixture(scope="session")
def coarse(demo: Model) -> Model:
    """The same on a grid of 1600 points, for what takes many steps or many checkpoints."""
    return replace(demo, grid="O16", checkpoint={"build": {**demo.checkpoint["build"], "hidden": "O4"}})


@pytest.fixture(scope="session")
def small_path(coarse: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.ckpt"
    build_checkpoint(coarse, path, **SMALL)
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weather(interface: Any, model: Model) -> torch.Tensor:
    """A smooth state: each variable around its mean, with waves; shape (1, time, value, variable)."""
    grid = grid_coordinates(model.grid)
    latitude, longitude = np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes)
    indices = interface.data_indices
    names = indices.model.input.name_to_index
    fields = np.zeros((1, 2, grid.points, len(names)), np.float32)
    for name, place in names.items():
        mean, deviation = (interface.statistics[k][indices.data.input.name_to_index[name]] for k in ("mean", "stdev"))
        phase = place / 7
        wave = np.sin(2 * latitude + phase) + 0.7 * np.cos(latitude) * np.sin(3 * longitude + phase)
        fields[..., place] = mean + 0.8 * deviation * wave
        if name.startswith("q_") or name in ("tcw", "sdor", "slor"):
            fields[..., place] = np.maximum(fields[..., place], 0)
    return torch.from_numpy(fields)


def step(interface: Any, fields: torch.Tensor, lead: int, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    made: torch.Tensor = interface.predict_step(fields, fcstep=lead)
    return made


@pytest.mark.models
def test_two_processes_make_the_same_bytes(demo: Model, demo_path: Path, root: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from aifs_ensemble.model.checkpoint.build import build_demo;"
        f"from aifs_ensemble.common.models import get_model; build_demo(get_model({demo.name!r}), Path(sys.argv[1]))"
    )
    path = tmp_path / "somewhere" / "else.ckpt"
    # another hash seed orders sets of strings otherwise; another folder and name must not show either
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(root / "scripts"), "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", script, str(path)], env=environment, check=True)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(demo_path.read_bytes()).digest()


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"update": 0.1}, {"window": 8}, {"statistics": {"2t": [280.0, 9.0]}}], ids=str
)
def test_another_recipe_makes_another_file(
    coarse: Model, small_path: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    build_checkpoint(coarse, tmp_path / "b.ckpt", **{**SMALL, **change})
    assert small_path.read_bytes() != (tmp_path / "b.ckpt").read_bytes()


def test_building_leaves_the_random_numbers_of_others_alone(coarse: Model, tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build_checkpoint(coarse, tmp_path / "a.ckpt", **SMALL)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.models
def test_says_that_it_is_untrained(demo: Model, demo_path: Path) -> None:
    description = describe_checkpoint(demo_path)
    assert description.untrained
    assert description.made_by["model"] == demo.name
    assert "untrained" in description.made_by["title"]


@pytest.mark.models
def test_is_the_architecture_of_aifs_ens(interface: Any) -> None:
    model = interface.model
    assert type(model).__name__ == "AnemoiEnsModelEncProcDec"
    assert type(model.encoder).__name__ == "GraphTransformerForwardMapper"
    assert type(model.processor).__name__ == "TransformerProcessor"
    assert type(model.decoder).__name__ == "GraphTransformerBackwardMapper"
    assert type(model.noise_injector).__name__ == "NoiseConditioning"


@pytest.mark.models
def test_every_point_is_read_and_made(interface: Any, demo: Model) -> None:
    points = grid_coordinates(demo.grid).points
    hidden = interface.model.node_attributes.num_nodes["hidden"]
    read, nodes = interface.model.encoder.edge_index_base
    sources, made = interface.model.decoder.edge_index_base
    assert set(read.tolist()) == set(range(points))
    assert set(nodes.tolist()) == set(range(hidden))
    assert torch.equal(torch.bincount(made), torch.full((points,), 3))
    assert int(sources.max()) < hidden
    assert bool((made.diff() >= 0).all())
    assert bool((nodes.diff() >= 0).all())


def test_edges_join_what_is_near(interface: Any, demo: Model) -> None:
    def vectors(name: str) -> np.ndarray:
        grid = grid_coordinates(name)
        latitude, longitude = np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes)
        x, y = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)
        return np.stack([x, y, np.sin(latitude)], axis=1)

    data, hidden = vectors(demo.grid), vectors("O8")
    sources, made = interface.model.decoder.edge_index_base.numpy()
    for point in (0, 100, 3000, 6113):
        nearest = np.sort(np.linalg.norm(hidden - data[point], axis=1))[:3]
        joined = np.sort(np.linalg.norm(hidden[sources[made == point]] - data[point], axis=1))
        np.testing.assert_allclose(joined, nearest)


def test_runs_in_anemoi_inference(demo: Model, demo_path: Path, interface: Any, one_thread: None) -> None:
    from anemoi.inference.runners.simple import SimpleRunner

    names = interface.data_indices.model.input.name_to_index
    state = weather(interface, demo)[0].numpy()
    fields = {name: state[:, :, names[name]] for name in demo.inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = SimpleRunner(str(demo_path), device="cpu", precision="32")
        date = datetime.datetime(2025, 8, 19)
        # the runner goes on with the state it yields, so what is needed of it is kept at once
        states = [
            (state["date"].hour, dict(state["fields"]))
            for state in runner.run(input_states={"date": date, "fields": fields}, lead_time=12)
        ]
    assert [hour for hour, _ in states] == [6, 12]
    made = states[0][1]
    assert set(made) >= set(demo.outputs)
    assert np.corrcoef(made["t_500"], fields["t_500"][1])[0, 1] > 0.9
    assert not np.array_equal(made["t_500"], fields["t_500"][1])


def test_a_forecast_of_160_steps_stays_in_bounds(coarse: Model, tmp_path: Path, one_thread: None) -> None:
    demo = coarse
    build_demo(demo, tmp_path / "coarse.ckpt")
    interface = load_model(tmp_path / "coarse.ckpt", demo, device="cpu")
    indices = interface.data_indices
    read, made = indices.model.input.name_to_index, indices.model.output.name_to_index
    first = weather(interface, demo)
    fields = first.clone()
    into, out = ([places[name] for name in demo.prognostic] for places in (read, made))
    for lead in range(160):
        output = step(interface, fields, lead, seed=lead)[0, 0]
        fields[:, 0] = fields[:, 1]
        fields[0, 1][:, into] = output[:, out]
        assert output.isfinite().all(), lead
    places = indices.data.input.name_to_index
    deviation = torch.tensor([interface.statistics["stdev"][places[name]] for name in demo.prognostic])
    change = ((fields - first)[0, 1][:, into].square().mean(0).sqrt() / deviation).float()
    assert change.max() < 4
    assert change.mean() > 0.1
    field = {name: output[:, made[name]] for name in demo.outputs}
    for name in ("tp", "cp", "sf", "ro", "ssrd", "strd", *(f"q_{level}" for level in demo.levels), "tcw"):
        assert field[name].min() >= -1e-6 * field[name].abs().max(), name
    for name in ("tcc", "hcc", "mcc", "lcc"):
        assert 0 <= field[name].min() <= field[name].max() <= 1
    assert (field["cp"] <= field["tp"] + 1e-9).all()
    assert (field["sf"] <= field["tp"] + 1e-9).all()
    assert 1e-5 < field["tp"].mean() < 5e-3
    assert 150 < field["t_50"].min() < field["t_1000"].max() < 380


def test_noise_decides_and_nothing_else(demo: Model, interface: Any, one_thread: None) -> None:
    fields = weather(interface, demo)
    first, again, other = (step(interface, fields, 0, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    place = interface.data_indices.model.output.name_to_index["t_850"]
    assert (first - other)[..., place].abs().max() > 1e-3


def test_the_first_step_differs_from_later_ones(demo: Model, interface: Any, one_thread: None) -> None:
    fields = weather(interface, demo)
    assert not torch.equal(step(interface, fields, 0, 1), step(interface, fields, 1, 1))
    assert torch.equal(step(interface, fields, 1, 1), step(interface, fields, 7, 1))


def test_flash_attention_gives_what_dense_attention_gives(coarse: Model, tmp_path: Path, one_thread: None) -> None:
    made = []
    for attention in ("scaled_dot_product_attention", "flash_attention"):
        path = tmp_path / f"{attention}.ckpt"
        model = replace(coarse, checkpoint={"build": {**SMALL, "attention": attention}})
        build_demo(model, path)
        interface = load_model(path, model, device="cpu")
        scaled = step(interface, weather(interface, coarse), 0, 1)
        scale = torch.from_numpy(interface.statistics["stdev"])[interface.data_indices.data.output.full.long()]
        made.append(scaled / scale.float())
    torch.testing.assert_close(made[0], made[1], atol=2e-4, rtol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({**SMALL, "heads": 3}, "channels 8, expected a multiple of heads 3"),
        ({**SMALL, "size": 3}, "checkpoint.build in models.yaml: got an unexpected keyword argument 'size'"),
        ({"hidden": "O4"}, "checkpoint.build in models.yaml: missing a required"),
        ({**SMALL, "hidden": "X4"}, "grid: 'X4' is not a grid"),
        ({**SMALL, "attention": "none"}, "attention 'none', expected"),
        (None, "has no checkpoint.build in models.yaml: it is fetched, not built"),
    ],
)
def test_wrong_recipes(demo: Model, tmp_path: Path, recipe: dict[str, Any] | None, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_demo(replace(demo, checkpoint={"build": recipe}), tmp_path / "a.ckpt")
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == []
