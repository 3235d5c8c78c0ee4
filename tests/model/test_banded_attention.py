"""The kernel of window attention against float64, run by Triton's interpreter on the CPU.

The interpreter checks what the kernel computes, not how a GPU compiles or rounds it: benchmarks/window_attention.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton", reason="no Triton on this platform")

import torch
from aifs_ensemble.model import attention, banded_attention
from aifs_ensemble.model.banded_attention import WIDTHS, Tiles, attend, reason_against
from aifs_ensemble.model.launches import HOPPER

from model.toys import fast_pass, some_inputs, toy

SMALL = Tiles(2, 16, 16, 4, 2)
CPU = torch.device("cpu")


def random_parts(nodes: int, heads: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and keys as they stand alone, values as a part of a wider product."""
    generator = torch.Generator().manual_seed(nodes + width)
    query, key, value = torch.randn(nodes, 3, heads, width, generator=generator).unbind(1)
    return query.contiguous(), key.contiguous(), value


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int) -> np.ndarray:
    """Return the same from the whole matrix of scores, in float64."""
    q, k, v = (part.double().numpy() for part in (query, key, value))
    place = np.arange(q.shape[0])
    score = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[-1])
    score[:, np.abs(place[:, None] - place[None]) > window] = -np.inf
    share = np.exp(score - score.max(-1, keepdims=True))
    return np.einsum("hij,jhd->ihd", share / share.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("nodes", "window"), [(1, 3), (31, 7), (64, 16), (97, 20), (50, 49), (40, 1000), (67, 0)])
def test_is_dense_attention_within_the_window(nodes: int, window: int, width: int) -> None:
    """Both ends of the sequence, windows wider than it, and sizes that are no multiple of a tile."""
    query, key, value = random_parts(nodes, 2, width)
    found = attend(query, key, value, window, SMALL)
    np.testing.assert_allclose(found.numpy(), dense(query, key, value, window), rtol=0, atol=2e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_with_the_tiles_of_a_width(width: int) -> None:
    query, key, value = random_parts(300, 1, width)
    found = attend(query, key, value, 70)
    assert found.shape == query.shape and found.is_contiguous()
    np.testing.assert_allclose(found.numpy(), dense(query, key, value, 70), rtol=0, atol=2e-6)


def test_sums_half_precision_in_single() -> None:
    """In float16: the interpreter reads a tile of bfloat16 as integers; on a GPU the benchmark checks both."""
    query, key, value = (part.half() for part in random_parts(150, 2, 64))
    found = attend(query, key, value, 40, SMALL)
    assert found.dtype == torch.float16
    right = dense(query, key, value, 40)
    off = np.linalg.norm(found.double().numpy() - right) / np.linalg.norm(right)
    assert off < 5e-4


@pytest.mark.parametrize("window", [1, 16, 33])
@pytest.mark.parametrize("side", [-1, 1], ids=["left", "right"])
def test_both_edges_of_the_window_belong_to_it(window: int, side: int) -> None:
    nodes = 140
    query, key, value = (torch.zeros(nodes, 1, 16) for _ in range(3))
    places = torch.arange(nodes)
    for distance, inside in ((window, True), (window + 1, False)):
        for node in (40, 70, 99):
            value.zero_()
            value[node + side * distance] = 1
            found = attend(query, key, value, window, SMALL)[node, 0]
            reached = int(((places - node).abs() <= window).sum())
            torch.testing.assert_close(found, torch.full((16,), 1 / reached if inside else 0.0))


@pytest.mark.parametrize("using", [Tiles(1, 32, 16, 4, 2), Tiles(2, 16, 32, 4, 2), Tiles(3, 16, 64, 4, 2)])
@pytest.mark.parametrize("width", [64, 96])
def test_any_tiles_compute_the_same(width: int, using: Tiles) -> None:
    query, key, value = random_parts(111, 2, width)
    found = attend(query, key, value, 25, using)
    np.testing.assert_allclose(found.numpy(), dense(query, key, value, 25), rtol=0, atol=2e-6)


def test_the_same_bits_every_time() -> None:
    parts = random_parts(100, 2, 96)
    first = attend(*parts, 30, SMALL)
    assert all(torch.equal(first, attend(*parts, 30, SMALL)) for _ in range(3))


def test_large_scores_do_not_overflow() -> None:
    query, key, value = random_parts(60, 1, 32)
    query *= 300
    found = attend(query, key, value, 20, SMALL)
    np.testing.assert_allclose(found.numpy(), dense(query, key, value, 20), rtol=0, atol=2e-4)


def test_heads_that_lie_apart_are_copied() -> None:
    query, key, value = random_parts(50, 3, 32)
    apart = [part.permute(1, 0, 2).contiguous().permute(1, 0, 2) for part in (query, key, value)]
    assert torch.equal(attend(*apart, 9, SMALL), attend(query, key, value, 9, SMALL))


@pytest.mark.parametrize("width", [32, 80])
def test_is_what_flex_attention_computes(width: int) -> None:
    query, key, value = random_parts(260, 2, width)
    flex = attention.flex_window(260, 100, CPU)
    expected = flex(*(part.permute(1, 0, 2)[None] for part in (query, key, value)))[0].permute(1, 0, 2)
    torch.testing.assert_close(attend(query, key, value, 100, SMALL), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "reason"),
    [
        (HOPPER, torch.float16, 64, ""),
        (HOPPER, torch.bfloat16, 96, ""),
        (None, torch.float16, 64, "no CUDA"),
        ((8, 0), torch.float16, 64, "compute capability 8.0, expected compute capability 9.0"),
        (HOPPER, torch.float32, 64, "products in torch.float32"),
        (HOPPER, torch.float16, 256, "heads of 256 channels, expected 16, 32"),
        (HOPPER, torch.float16, 24, "heads of 24 channels"),
    ],
)
def test_says_where_it_does_not_serve(
    capability: tuple[int, int] | None, dtype: torch.dtype, width: int, reason: str
) -> None:
    found = reason_against(capability, dtype, width)
    assert found.startswith(reason) and bool(found) == bool(reason)


@pytest.mark.parametrize(("nodes", "window"), [(1, 3), (40, 8), (200, 70), (100, 1000)])
def test_a_right_kernel_passes_its_trial(nodes: int, window: int) -> None:
    assert banded_attention.trial(nodes, 2, 32, window, torch.float32, CPU) == ""


@pytest.mark.parametrize("wrong_rows", [slice(0, 3), slice(100, 101), slice(-1, None), slice(None)])
def test_a_wrong_kernel_is_told_and_not_used(wrong_rows: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether rows are wrong at either end, in the middle or everywhere; and one that does not run at all."""

    def wrong(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int) -> torch.Tensor:
        found = attend(query, key, value, window)
        found[wrong_rows] = value[wrong_rows]
        return found

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("PassManager::run failed\nin a pass")

    monkeypatch.setattr(banded_attention, "reason_against", lambda *_: "")
    for kernel, told in ((wrong, "off plain products, expected less than 1e-02"), (broken, "PassManager::run failed")):
        monkeypatch.setattr(banded_attention, "attend", kernel)
        chosen = attention.window_attention(200, 30, CPU, torch.float32, 2, 32)
        assert chosen.name.startswith("flex_attention: ") and told in chosen.name


def test_a_trial_leaves_the_generator_alone() -> None:
    torch.manual_seed(8)
    expected = torch.rand(3)
    torch.manual_seed(8)
    banded_attention.trial(40, 2, 32, 8, torch.float32, CPU)
    assert torch.equal(torch.rand(3), expected)


def test_flex_attention_serves_elsewhere_and_says_so() -> None:
    chosen = attention.window_attention(50, 8, CPU, torch.float16, 2, 64)
    assert chosen.name == "flex_attention: no CUDA, expected compute capability 9.0"


def test_the_accelerated_pass_takes_it_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass with either attention computes the same, and a compiler sees through to the kernel."""
    interface = toy(tmp_path / "tiny.ckpt", monkeypatch)
    inputs = some_inputs(interface)
    with_flex = fast_pass(interface, attention=None)
    monkeypatch.setattr(banded_attention, "reason_against", lambda *_: "")
    with_kernel = fast_pass(interface, attention=None)
    assert (with_flex.attention.split(":")[0], with_kernel.attention) == ("flex_attention", "banded_attention")
    found = []
    for fast in (with_flex, with_kernel):
        torch.manual_seed(5)
        found.append(fast(inputs, fcstep=1))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=5e-6)
    with_kernel._block = torch.compile(with_kernel.processor.block, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.manual_seed(5)
    assert torch.equal(with_kernel(inputs, fcstep=1), found[1])
