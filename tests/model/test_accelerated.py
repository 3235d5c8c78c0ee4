"""The accelerated forward pass against anemoi-models' own, its kernels run by Triton's interpreter on the CPU.

The interpreter checks what the kernels compute, not how a GPU compiles, schedules or rounds them:
benchmarks/forecast_engine.py does that, on a GPU.
"""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="no Triton on this platform")

import torch
from aifs_ensemble.model import accelerated, conditional_norm, graph_attention
from torch.nn import functional as F

from model.toys import fast_pass, some_inputs, toy

pytestmark = pytest.mark.models


def random_graph(destinations: int, sources: int, edges: int) -> graph_attention.SortedEdges:
    """Edges to all destinations but the last two."""
    index = torch.stack([torch.randint(0, sources, (edges,)), torch.randint(0, destinations - 2, (edges,))])
    return graph_attention.sort_edges(index, destinations)


@pytest.mark.parametrize(
    ("destinations", "edges", "heads", "width", "count"),
    [(40, 150, 2, 16, 11), (33, 31, 2, 16, 11), (70, 900, 2, 16, 11),
     (12, 30, 8, 6, 3), (10, 12, 32, 2, 16), (20, 60, 2, 40, 17), (20, 60, 1, 256, 64)],
)  # fmt: skip
def test_attention_over_edges_is_the_reference(
    destinations: int, edges: int, heads: int, width: int, count: int
) -> None:
    torch.manual_seed(destinations)
    sources = 30
    graph = random_graph(destinations, sources, edges)
    query, added = torch.randn(2, destinations, heads * width)
    key, value = torch.randn(2, sources, heads * width)
    attributes, weight = torch.randn(edges, count), torch.randn(heads * width, count)
    bias = torch.randn(heads * width)
    expected = added + graph_attention.reference(
        query.view(-1, heads, width), key.view(-1, heads, width), value.view(-1, heads, width),
        attributes, weight, bias, graph,
    ).flatten(1)  # fmt: skip
    pad = graph_attention.pad_attributes
    found = graph_attention.attend(
        query, key, value, pad(attributes), pad(weight), bias, graph.row, graph.source, added, heads
    )
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    assert torch.equal(found[-2:], added[-2:])


def test_the_reference_is_anemois_own_attention() -> None:
    from anemoi.models.layers.conv import GraphTransformerConv

    torch.manual_seed(0)
    index = torch.stack([torch.randint(0, 20, (90,)), torch.randint(0, 25, (90,))])
    graph = graph_attention.sort_edges(index, 25)
    query, key, value = torch.randn(25, 2, 8), torch.randn(20, 2, 8), torch.randn(20, 2, 8)
    attributes, weight, bias = torch.randn(90, 5), torch.randn(16, 5), torch.randn(16)
    embedded = F.linear(attributes, weight, bias).view(-1, 2, 8)
    expected = GraphTransformerConv(out_channels=8)(query, key, value, embedded, index, size=(20, 25))
    found = graph_attention.reference(query, key, value, attributes[graph.order], weight, bias, graph)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("nodes", "channels", "width"), [(37, 48, 4), (16, 64, 4), (5, 20, 1), (5, 20, 7)])
def test_residual_and_conditioned_norm_are_the_reference(nodes: int, channels: int, width: int) -> None:
    torch.manual_seed(1)
    x, delta = torch.randn(2, nodes, channels)
    noise, weights = torch.randn(nodes, width), torch.randn(2 * width + 2, channels)
    expected = conditional_norm.reference(x, delta, noise, weights, 1e-5)
    found = conditional_norm.add_norm(x, delta, noise, weights, 1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def interface(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return toy(tmp_path_factory.mktemp("model") / "tiny.ckpt", monkeypatch, data_grid="O4", hidden="O2", layers=2)


# the interpreter takes its time: two cases cover both kinds of step and both ways through the decoder
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("chunks", "fcstep"), [(1, 0), (2, 7)])
def test_the_accelerated_pass_is_the_models_own(interface: torch.nn.Module, fcstep: int, chunks: int) -> None:
    model = interface.model
    inputs = some_inputs(interface)
    torch.manual_seed(5)
    with torch.no_grad():
        expected = model(inputs, fcstep=fcstep)
    fast = fast_pass(interface, chunks=chunks)
    torch.manual_seed(5)
    found = fast(inputs, fcstep=fcstep)
    assert not torch.equal(expected, inputs[:, -1, ..., : expected.shape[-1]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-6)
    if fcstep == 0:
        torch.manual_seed(6)
        assert not torch.equal(fast(inputs, fcstep=fcstep), found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_recorded_pass_gives_the_same_bits(interface: torch.nn.Module) -> None:
    model = interface.model.cuda()
    fast = accelerated.AcceleratedForward(model, torch.float16, chunks=2)
    nodes, variables = len(interface.supporting_arrays["latitudes"]), len(interface.data_indices.model.input.full)
    inputs = [torch.randn(1, 2, 1, nodes, variables, device="cuda") for _ in range(2)]

    def call(inputs: torch.Tensor, seed: int) -> torch.Tensor:
        torch.cuda.manual_seed(seed)
        with torch.inference_mode():
            return fast(inputs, fcstep=seed - 1).clone()

    cases = [(x, seed) for x in inputs for seed in (1, 2)]
    launched = [call(*case) for case in cases]
    with torch.inference_mode():
        fast.record()
    assert all(torch.equal(call(*case), expected) for case, expected in zip(cases, launched, strict=True))
    assert not torch.equal(launched[0], launched[1])
