"""A checkpoint of AIFS ENS v2: what its pickle names, what it is loaded with, what it is made of."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aifs_ensemble.common.models import Model
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.model import known_classes, numerics
from aifs_ensemble.model.checkpoint.check import examine
from aifs_ensemble.model.checkpoint.inert import read_inert
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.checkpoint.rebuild import LayerFactory
from aifs_ensemble.model.edges import KERNEL, as_released, choose_edges
from aifs_ensemble.model.forms import network_class
from aifs_ensemble.model.passes import set_chunks
from aifs_ensemble.model.projection import OrderedProjector, with_ordered_sums
from aifs_ensemble.model.stepper import Stepper
from anemoi.models.layers import mapper
from tested import MODEL

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(MODEL.anemoi_models != "0.11.2", reason="of AIFS ENS v2: AIFS_TEST_MODEL=demo-v2"),
]


@pytest.fixture
def interface(demo: Model, demo_path: Path) -> Any:
    torch.set_num_threads(1)  # small fields
    return load_model(demo_path, demo, device="cpu")


@pytest.fixture
def inputs(demo: Model, interface: Any) -> torch.Tensor:
    """Fields of the right size, missing over one half of the points where the model may miss them."""
    indices = interface.data_indices
    names = indices.model.input.name_to_index
    fields = torch.randn(
        1, 2, grid_coordinates(demo.grid).points, len(names), generator=torch.Generator().manual_seed(1)
    )
    for name, place in names.items():
        row = indices.data.input.name_to_index[name]
        mean, deviation = (float(interface.statistics[key][row]) for key in ("mean", "stdev"))
        fields[..., place] = mean + deviation * fields[..., place]
        if name in demo.missing:
            fields[:, :, ::2, place] = torch.nan
    return fields


def step(interface: Any, inputs: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.inference_mode():
        return interface.predict_step(inputs, fcstep=1)[0, 0]


def test_its_pickle_names_what_that_of_the_released_file_names(demo_path: Path) -> None:
    """Factories of layers as plain partials, and the kernel that torch-geometric stands in for on this machine."""
    with zipfile.ZipFile(demo_path) as archive:
        _, names = read_inert(archive.read("archive/data.pkl"), "demo")
    found = {f"{module}.{name}" for module, name in names}
    assert {"functools.partial", "__builtin__.getattr", "anemoi.models.triton.gt.GraphTransformerFunction"} <= found
    assert not {name for name in found if name.startswith(("hydra.", "anemoi.models.triton."))} - {
        "anemoi.models.triton.gt.GraphTransformerFunction"
    }


def test_what_it_was_made_with_cannot_be_called(interface: Any) -> None:
    factories = [f for module in interface.modules() for f in getattr(module, "layer_factory", {}).values()]
    assert len(factories) > 10 and {type(factory) for factory in factories} == {LayerFactory}
    assert not any(callable(factory) for factory in factories)


def test_check_says_what_it_is_and_that_it_runs(demo: Model, demo_path: Path) -> None:
    report = examine(demo_path)
    assert not report.problems and report.entry == demo
    assert report.facts["versions"]["environment"] == demo.environment
    assert report.facts["versions"]["differs here"] == "no"
    network = report.facts["network"]
    assert network["edges by"] == "triton"
    assert "drawn at 208 points (O4)" in network["noise"]
    assert network["truncation"].startswith("down 6,114 points to 544 points (O8)")
    assert network["imputers"] == [f"InputImputer: {' '.join(sorted(set(demo.inputs) & set(demo.missing)))}"]


def test_what_is_missing_stays_missing_and_nothing_else_is(demo: Model, interface: Any, inputs: torch.Tensor) -> None:
    made = step(interface, inputs)
    for name, place in interface.data_indices.model.output.name_to_index.items():
        missing = torch.isnan(made[:, place])
        if name in demo.missing and name in demo.prognostic:
            assert missing[::2].all() and not missing[1::2].any(), name
        else:
            assert not missing.any(), name


def test_what_stands_for_missing_values_decides_what_is_made(interface: Any, inputs: torch.Tensor) -> None:
    """The imputer's numbers: others in their place give other fields."""
    usual = torch.nan_to_num(step(interface, inputs))
    imputer = interface.pre_processors.processors["imputer"]
    filled = inputs.clone()
    for place, value in zip(imputer.index_inference_input, imputer.replacement, strict=True):
        filled[..., place] = torch.nan_to_num(filled[..., place], nan=float(value))
    made = step(interface, filled)
    missing = torch.isnan(step(interface, inputs))
    torch.testing.assert_close(usual[~missing], made[~missing])
    other = filled.clone()
    other[..., imputer.index_inference_input] *= 3
    assert not torch.allclose(made, step(interface, other))


def test_both_ways_to_attend_over_edges_are_the_same_arithmetic(interface: Any) -> None:
    """anemoi-models' kernel, in Triton's interpreter, against torch-geometric, over one block of the decoder."""
    pytest.importorskip("triton", reason="no Triton on this platform")
    from anemoi.models.triton.gt import GraphTransformerFunction

    block = interface.model.decoder.proc
    generator = torch.Generator().manual_seed(0)
    nodes, made, edges, shape = 9, 12, 40, (block.num_heads, block.out_channels_conv)
    query, key, value, edge = (torch.randn(n, *shape, generator=generator) for n in (made, nodes, nodes, edges))
    index = torch.stack([torch.randint(n, (edges,), generator=generator) for n in (nodes, made)])
    expected = block.apply_gt(query, key, value, edge, index, (nodes, made))
    del block.conv  # a module, in whose place no function may be put
    block.graph_attention_backend, block.conv = "triton", GraphTransformerFunction.apply
    found = block.apply_gt(query, key, value, edge, index, (nodes, made))
    torch.testing.assert_close(found, expected)


def test_the_way_to_attend_is_chosen_for_the_device(interface: Any) -> None:
    mappers = (interface.model.encoder, interface.model.decoder)
    assert {mapper.proc.graph_attention_backend for mapper in mappers} == {"pyg"}
    as_released(interface)
    assert {mapper.proc.conv for mapper in mappers} == {KERNEL}
    choose_edges(interface, "cpu")
    assert {type(mapper.proc.conv).__name__ for mapper in mappers} == {"GraphTransformerConv"}


def test_sparse_products_in_a_fixed_order_are_the_same_arithmetic(interface: Any) -> None:
    pytest.importorskip("triton", reason="no Triton on this platform")
    injector, residual = interface.model.noise_injector, interface.model.residual
    before = (injector.noise_projector, residual.project_down)
    fields = [torch.randn(2, part.projection_matrix.shape[1], 5) for part in before]
    expected = [part(one) for part, one in zip(before, fields, strict=True)]
    assert with_ordered_sums(interface, torch.device("cpu")) == 3  # the one above, too
    after = (injector.noise_projector, residual.project_down)
    assert {type(part) for part in (*after, residual.project_up)} == {OrderedProjector}
    for part, one, product in zip(after, fields, expected, strict=True):
        torch.testing.assert_close(part(one), product)


def test_the_accelerated_pass_knows_it(demo_path: Path) -> None:
    pytest.importorskip("triton", reason="no Triton on this platform")
    report = examine(demo_path)
    assert report.accelerated and report.facts["here"]["accelerated"] == "yes"


def test_of_its_own_pass_is_compiled_what_can_be(interface: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(numerics.ACCELERATED, "cpu", ("32",))  # as if there were a faster pass here
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda part, **_: compiled.append(part) or part)
    stepper = Stepper(interface, torch.device("cpu"), numerics.Numerics(compile=True, chunks=3), own="as it began")
    assert compiled == [interface.model.processor]
    assert stepper.acceleration.asked and not stepper.accelerated and stepper.acceleration.reason == "as it began"


def test_a_part_that_takes_anothers_place_names_its_class(interface: Any) -> None:
    """Else the classes of a model on a card would not be told by their sources."""
    before = known_classes.replaced_classes(interface, network_class()(interface.model))
    with_ordered_sums(interface, torch.device("cpu"))
    assert known_classes.replaced_classes(interface, network_class()(interface.model)) == before
    assert "SparseProjector" in {kind.__name__ for kind in before} and known_classes.unknown_class(interface) == ""


def test_pieces_of_the_mappers_do_not_change_what_is_made(interface: Any, inputs: torch.Tensor) -> None:
    usual = step(interface, inputs)
    set_chunks(7)
    try:
        torch.testing.assert_close(step(interface, inputs), usual, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert mapper.NUM_CHUNKS_INFERENCE_MAPPER == 7
    finally:
        set_chunks(1)


def test_noise_is_drawn_on_the_coarse_grid_and_keeps_its_size(interface: Any) -> None:
    matrix = interface.model.noise_injector.noise_projector.projection_matrix.to_dense()
    assert tuple(matrix.shape) == (grid_coordinates("O8").points, grid_coordinates("O4").points)
    np.testing.assert_allclose(matrix.square().sum(1), 1, rtol=1e-5)
    assert matrix.min() >= 0 and (matrix > 0).sum(1).max() == 50
