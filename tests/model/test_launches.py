"""Launches of the kernels by card: they fit each card of the catalogue, and every one computes the same values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="no Triton on this platform")

import torch
from aifs_ensemble.model import conditional_norm, graph_attention, launches
from aifs_ensemble.model.launches import HOPPER, Launch, conditioned_norm, over_edges, shared_bytes
from aifs_ensemble.planning.machines import load_machines

ROOT = Path(__file__).parents[2]
CATALOGUE = sorted({card.capability for card in load_machines().gpu_specs.values()})
UNLISTED = (12, 1)
# bytes of shared memory that a block may opt in to: CUDA C++ Programming Guide, by compute capability
OPT_IN = {
    (7, 5): 65_536, (8, 0): 166_912, (8, 6): 101_376, (8, 9): 101_376, (9, 0): 232_448, (10, 0): 232_448,
    (12, 0): 101_376,
}  # fmt: skip


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each kernel takes of each card, compiled in a process of its own: here kernels are interpreted."""
    cache = tmp_path_factory.mktemp("triton")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "kernel_resources.py"), "--json"],
        capture_output=True, text=True, check=True, env={**os.environ, "TRITON_CACHE_DIR": str(cache)},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kernel_fits_every_card_of_the_catalogue(taken: list[dict[str, Any]]) -> None:
    assert sorted({tuple(one["capability"]) for one in taken}) == CATALOGUE
    ours = [one for one in taken if "attention" not in one["kernel"] or one["kernel"] == "attention over edges"]
    of_float8 = [one for one in ours if one["kernel"].endswith("to float8")]
    assert len(ours) - len(of_float8) == 3 * 3 * len(CATALOGUE)
    assert len(of_float8) == 3 * 3 * 2 and {tuple(one["capability"]) for one in of_float8} == {(8, 9), (9, 0)}
    for one in ours:
        assert 0 <= one["shared"] <= OPT_IN[tuple(one["capability"])] == one["limit"], one


def test_attention_takes_the_shared_memory_of_its_tiles(taken: list[dict[str, Any]]) -> None:
    """By hand: the compiler lays out one float16 tile of queries, 32 rows of 64, or of the edge part, as it needs."""
    tile = 32 * 64 * 2
    for one in taken:
        if (one["kernel"], one["size"]) == ("attention over edges", "AIFS ENS v1"):
            assert tile < one["shared"] <= 2 * tile, one


def test_tiles_of_window_attention_are_tight_where_the_page_says_so(taken: list[dict[str, Any]]) -> None:
    """Of a kernel with the tiles that torch chooses; by hand for Hopper: queries, and keys and values in stages."""
    found = {
        (tuple(one["capability"]), one["size"][-2:]): one["shared"] / 1024
        for one in taken
        if one["kernel"].startswith("window attention")
    }
    assert found[HOPPER, "v1"] == (128 * 64 + 3 * 128 * 64 * 2) * 2 / 1024
    assert [found[card, "v1"] for card in ((8, 0), (8, 9))] == [48, 48]
    assert [found[card, "v2"] for card in (HOPPER, (8, 0), (8, 9))] == [128, 96, 96]
    assert all(kib <= OPT_IN[card] / 1024 for (card, _), kib in found.items())


@pytest.mark.parametrize(("width", "blocks", "rows", "stages"), [
    (16, 2, 64, 3), (32, 2, 64, 3), (64, 2, 64, 3), (48, 1, 128, 2), (80, 1, 128, 2), (96, 1, 128, 2), (128, 1, 128, 2),
])  # fmt: skip
def test_window_attention_of_our_own_compiles_for_hopper(
    taken: list[dict[str, Any]], width: int, blocks: int, rows: int, stages: int
) -> None:
    """By hand: queries of all blocks, and keys and values of 64 rows in each stage, in two bytes, and barriers."""
    found = [one for one in taken if one["kernel"] == "banded attention" and f"of {width}," in one["size"]]
    assert len(found) == 2 and {tuple(one["capability"]) for one in found} == {HOPPER}
    tiles = 2 * width * (blocks * rows + 2 * stages * 64)
    for one in found:
        assert tiles <= one["shared"] <= tiles + 64 and one["rows"] == blocks * rows, one
        assert one["registers"] <= 255 and one["spilled"] == 0, one


def test_nothing_spills_from_ampere_on_but_on_hopper(taken: list[dict[str, Any]]) -> None:
    """Hopper's launches are as they were measured; Turing's heads of AIFS ENS v1 fit as well."""
    ours = [one for one in taken if not one["kernel"].startswith("window attention")]
    spilling = [one for one in ours if one["spilled"] and tuple(one["capability"]) != HOPPER]
    assert {tuple(one["capability"]) for one in spilling} <= {(7, 5)}
    assert "AIFS ENS v1" not in {one["size"] for one in spilling}


def test_hopper_is_launched_as_it_was_measured() -> None:
    """Rows and warps of the figures in docs/performance.md: other ones may change bits."""
    assert [over_edges(HOPPER, width) for width in (16, 64, 128, 256)] == [
        Launch(32, 1), Launch(32, 1), Launch(16, 1), Launch(16, 2),
    ]  # fmt: skip
    assert conditioned_norm(HOPPER, 1024, 4) == conditioned_norm(HOPPER, 2048, 8) == Launch(16, 4)
    assert launches.sparse_rows() == Launch(16, 4)
    assert [launches.to_float8(width).warps for width in (64, 1024, 4096)] == [1, 4, 8]


def test_other_cards() -> None:
    """By hand: a warp holds 1024 channels, on Turing 512, and four warps hold 8192 weights of a norm."""
    assert [over_edges((8, 9), width) for width in (16, 64, 128, 256)] == [
        Launch(32, 1), Launch(32, 2), Launch(32, 4), Launch(16, 4),
    ]  # fmt: skip
    assert over_edges((8, 0), 64) == over_edges(UNLISTED, 64) == Launch(32, 2)
    assert over_edges((7, 5), 64) == Launch(32, 4)
    assert [conditioned_norm((8, 0), *shape).warps for shape in ((1024, 8), (2048, 4), (2048, 8))] == [4, 4, 8]
    assert {card: shared_bytes(card) for card in OPT_IN} == OPT_IN and shared_bytes(UNLISTED) == 65_536


def test_a_processor_interprets_hoppers_launch() -> None:
    assert launches.capability(torch.device("cpu")) == HOPPER


def attended(heads: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over the edges of a random graph, and what it should be."""
    torch.manual_seed(width)
    destinations, sources, count = 70, 30, 11
    index = torch.stack([torch.randint(0, sources, (400,)), torch.randint(0, destinations - 2, (400,))])
    graph = graph_attention.sort_edges(index, destinations)
    query, added = torch.randn(2, destinations, heads * width)
    key, value = torch.randn(2, sources, heads * width)
    attributes, weight, bias = torch.randn(400, count), torch.randn(heads * width, count), torch.randn(heads * width)
    parts = (part.view(-1, heads, width) for part in (query, key, value))
    expected = added + graph_attention.reference(*parts, attributes, weight, bias, graph).flatten(1)
    pad = graph_attention.pad_attributes
    found = graph_attention.attend(
        query, key, value, pad(attributes), pad(weight), bias, graph.row, graph.source, added, heads
    )
    return found, expected


@pytest.mark.parametrize("width", [16, 64, 96, 256])
@pytest.mark.parametrize("card", [*CATALOGUE, UNLISTED])
def test_attention_of_every_card_is_the_reference(
    card: tuple[int, int], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And row by row the bits that the interpreter gives for Hopper: rows of a program do not touch one another."""
    of_hopper, _ = attended(1, width)
    monkeypatch.setattr(launches, "capability", lambda _: card)
    found, expected = attended(1, width)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    assert torch.equal(found, of_hopper)


@pytest.mark.parametrize("card", [*CATALOGUE, UNLISTED])
def test_the_norm_of_every_card_is_the_reference(card: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    x, delta = torch.randn(2, 37, 2048)
    noise, weights = torch.randn(37, 8), torch.randn(18, 2048)
    expected = conditional_norm.reference(x, delta, noise, weights, 1e-5)
    monkeypatch.setattr(launches, "capability", lambda _: card)
    for one, other in zip(conditional_norm.add_norm(x, delta, noise, weights, 1e-5), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
