"""Attention of every node to its neighbours within a window, in one kernel made for a window and a width (Triton).

A program holds blocks of queries and goes through the tiles of keys that its window reaches, in order. Only tiles at
the window's two edges, and those at the ends of the sequence, look at pairs one by one. Scores are in powers of two,
sums in float32. No sum uses atomics, so the same inputs give the same bits.

Keys and values come by the copy engine of Hopper cards (tensor descriptors), which reads a tile with one instruction
and zeros beyond the last row. Heads whose width is no power of two go through the products in two parts: 96 is 64 + 32.

Before a forecast the kernel is run once against plain products (`trial`): compilers have made wrong ones of it.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import no_type_check

import torch
from torch import Tensor

from aifs_ensemble.model.launches import HOPPER, Capability

HAS_TRITON = importlib.util.find_spec("triton") is not None
# each part of a head's width is a power of two, and products want at least 16
WIDTHS = (16, 32, 48, 64, 80, 96, 128)
_BYTES = 16  # rows and heads start at multiples of that, for the copy engine
# The trial: nodes at most, rows looked at in each of three places, and the error that is too large. Rounding makes
# 3e-4 of float16 and 2e-3 of bfloat16; a wrong product makes 0.1 and more.
_TRIED, _ROWS_TRIED, _TOO_FAR = 4096, 64, 1e-2


@dataclass(frozen=True)
class Tiles:
    """How a program works: blocks of rows, taken in turn; rows in a block, keys in a tile; warps; tiles under way."""

    blocks: int
    rows: int
    keys: int
    warps: int
    stages: int


def tiles(width: int) -> Tiles:
    """Return the tiles for heads of a width; those of 64 and 96 were measured (docs/performance.md)."""
    return Tiles(2, 64, 64, 4, 3) if width in (16, 32, 64) else Tiles(1, 128, 64, 8, 2)


def parts(width: int) -> tuple[int, int]:
    """Return the two parts in which heads go through the products, powers of two: 64 and 32 of 96, 64 and 0 of 64."""
    head = 1 << (width.bit_length() - 1)
    return head, width - head


def reason_against(capability: Capability | None, dtype: torch.dtype, width: int) -> str:
    """Return why the kernel does not serve, empty where it does; no capability is a device without CUDA.

    It needs Hopper's copy engine, and was measured on Hopper alone.
    """
    if not HAS_TRITON:
        return "no Triton here"
    if capability != HOPPER:
        expected = f"expected compute capability {HOPPER[0]}.{HOPPER[1]}"
        return (
            f"compute capability {capability[0]}.{capability[1]}, {expected}" if capability else f"no CUDA, {expected}"
        )
    if dtype not in (torch.float16, torch.bfloat16):
        return f"products in {dtype}, expected float16 or bfloat16"
    if width not in WIDTHS:
        return f"heads of {width} channels, expected {', '.join(map(str, WIDTHS[:-1]))} or {WIDTHS[-1]}"
    return ""


if HAS_TRITON:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    @triton.jit
    @no_type_check  # tuples grow block by block, while it is compiled
    def _banded_kernel(
        query, query_tail, key, key_tail, value, value_tail, out, nodes, log2_scale,
        HEADS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, WINDOW: tl.constexpr,
        BLOCKS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        QUERIES: tl.constexpr = BLOCKS * ROWS
        # neighbouring programs share most of their keys; whoever starts last has the short ends of the sequence
        tile = (tl.program_id(0) + (WINDOW + QUERIES - 1) // QUERIES) % tl.num_programs(0)
        first = tile * QUERIES
        column = tl.program_id(1) * (HEAD + TAIL)
        q, q_tail, top, total, summed, summed_tail = (), (), (), (), (), ()
        for block in tl.static_range(BLOCKS):
            q += (query.load([first + block * ROWS, column]),)
            top += (tl.full((ROWS,), -1.0e30, tl.float32),)
            total += (tl.zeros((ROWS,), tl.float32),)
            summed += (tl.zeros((ROWS, HEAD), tl.float32),)
            if TAIL > 0:
                q_tail += (query_tail.load([first + block * ROWS, column + HEAD]),)
                summed_tail += (tl.zeros((ROWS, TAIL), tl.float32),)
        rows = ()  # made inside of the branch below, they would have every product wait for the one before
        for block in tl.static_range(BLOCKS):
            rows += (first + block * ROWS + tl.arange(0, ROWS),)
        start = tl.maximum(first - WINDOW, 0)
        stop = tl.minimum(first + QUERIES + WINDOW, nodes)
        for step in tl.range(0, tl.cdiv(stop - start, KEYS), num_stages=STAGES):
            at = start + step * KEYS
            k = key.load([at, column]).T
            v = value.load([at, column])
            if TAIL > 0:
                k_tail = key_tail.load([at, column + HEAD]).T
                v_tail = value_tail.load([at, column + HEAD])
            old_top, old_total, old_summed, old_summed_tail = top, total, summed, summed_tail
            top, total, summed, summed_tail = (), (), (), ()
            for block in tl.static_range(BLOCKS):
                score = tl.dot(q[block], k, input_precision="ieee")
                if TAIL > 0:
                    score = tl.dot(q_tail[block], k_tail, score, input_precision="ieee")
                row = first + block * ROWS
                if (at < row + ROWS - 1 - WINDOW) | (at + KEYS > tl.minimum(row + WINDOW + 1, nodes)):
                    column_of = at + tl.arange(0, KEYS)
                    apart = rows[block][:, None] - column_of[None, :]
                    inside = (apart <= WINDOW) & (apart >= -WINDOW) & (column_of < nodes)[None, :]
                    score = tl.where(inside, score, -float("inf"))
                higher = tl.maximum(old_top[block], tl.max(score, 1) * log2_scale)
                p = tl.exp2(score * log2_scale - higher[:, None])
                shrink = tl.exp2(old_top[block] - higher)
                top += (higher,)
                total += (old_total[block] * shrink + tl.sum(p, 1),)
                share = p.to(v.dtype)
                summed += (tl.dot(share, v, old_summed[block] * shrink[:, None], input_precision="ieee"),)
                if TAIL > 0:
                    summed_tail += (
                        tl.dot(share, v_tail, old_summed_tail[block] * shrink[:, None], input_precision="ieee"),
                    )
        for block in tl.static_range(BLOCKS):
            inverse = tl.where(total[block] > 0, 1.0 / total[block], 0.0)[:, None]  # rows beyond the last have no keys
            there = (rows[block] < nodes)[:, None]
            place = out + rows[block].to(tl.int64)[:, None] * (HEADS * (HEAD + TAIL)) + column
            result = (summed[block] * inverse).to(out.dtype.element_ty)
            tl.store(place + tl.arange(0, HEAD)[None, :], result, mask=there)
            if TAIL > 0:
                result = (summed_tail[block] * inverse).to(out.dtype.element_ty)
                tl.store(place + HEAD + tl.arange(0, TAIL)[None, :], result, mask=there)

    def _descriptors(tensor: Tensor, rows: int, head: int, tail: int) -> tuple[TensorDescriptor, TensorDescriptor]:
        """Return how to read tiles of ``(nodes, heads, width)``: the first part of a head, and its tail."""
        nodes, heads, width = tensor.shape
        shape, strides = [nodes, heads * width], [tensor.stride(0), 1]
        return (
            TensorDescriptor(tensor, shape, strides, [rows, head]),
            TensorDescriptor(tensor, shape, strides, [rows, tail or head]),
        )

    @torch.library.custom_op("aifs_ensemble::banded_attention", mutates_args=())
    def _banded(
        query: Tensor, key: Tensor, value: Tensor, window: int,
        blocks: int, rows: int, keys: int, warps: int, stages: int,
    ) -> Tensor:  # fmt: skip
        nodes, heads, width = query.shape
        head, tail = parts(width)
        out = torch.empty((nodes, heads, width), dtype=query.dtype, device=query.device)
        _banded_kernel[(triton.cdiv(nodes, blocks * rows), heads)](
            *_descriptors(_readable(query), rows, head, tail),
            *_descriptors(_readable(key), keys, head, tail),
            *_descriptors(_readable(value), keys, head, tail),
            out, nodes, width**-0.5 * math.log2(math.e),
            HEADS=heads, HEAD=head, TAIL=tail, WINDOW=window, BLOCKS=blocks, ROWS=rows, KEYS=keys, STAGES=stages,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return out

    @_banded.register_fake
    def _(
        query: Tensor, key: Tensor, value: Tensor, window: int,
        blocks: int, rows: int, keys: int, warps: int, stages: int,
    ) -> Tensor:  # fmt: skip
        return query.new_empty(query.shape)


def _readable(tensor: Tensor) -> Tensor:
    """Return ``(nodes, heads, width)`` as the copy engine reads it, copied where need be."""
    width, size = tensor.shape[-1], tensor.element_size()
    whole = tensor.stride(2) == 1 and tensor.stride(1) == width and tensor.stride(0) * size % _BYTES == 0
    return tensor if whole and tensor.data_ptr() % _BYTES == 0 else tensor.contiguous()


def attend(query: Tensor, key: Tensor, value: Tensor, window: int, using: Tiles | None = None) -> Tensor:
    """Return the attention of each node to those at most `window` places away on either side, both inclusive.

    Parameters
    ----------
    query, key, value : ``(nodes, heads, width)``, nodes may be strided; the width is one of `WIDTHS`
    window : 0 or more, of any relation to the number of nodes
    using : tiles other than those of `tiles`

    Returns
    -------
    ``(nodes, heads, width)``, contiguous, in the type of `query`
    """
    using = using or tiles(query.shape[-1])
    return _banded(query, key, value, window, using.blocks, using.rows, using.keys, using.warps, using.stages)


def trial(nodes: int, heads: int, width: int, window: int, dtype: torch.dtype, device: torch.device) -> str:
    """Run the kernel once, on random numbers; return how it fails, empty where it computes what plain products do.

    It is compiled as for `nodes`, and run on fewer. The default generators are left as they are.
    """
    if nodes > _TRIED:
        nodes = _TRIED + nodes % 16  # a multiple of 16 or not: the kernel is compiled for either
    generator = torch.Generator(device).manual_seed(width)
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            numbers = torch.randn((nodes, 3, heads, width), generator=generator, device=device)
            query, key, value = numbers.to(dtype).unbind(1)
            off = largest_error(attend(query, key, value, window), query, key, value, window)
    except Exception as error:  # whatever a compiler or a card has against it
        return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:300]
    return "" if off < _TOO_FAR else f"it is {off:.1e} off plain products, expected less than {_TOO_FAR:.0e}"


def largest_error(
    found: Tensor, query: Tensor, key: Tensor, value: Tensor, window: int, rows_tried: int = _ROWS_TRIED
) -> float:
    """Return the largest error of rows at both ends and in the middle: norm of the difference over norm.

    `found` is compared with plain products in float32. The error is infinite where a row is not finite.
    """
    nodes = len(query)
    place, worst = torch.arange(nodes, device=query.device), 0.0
    for first in (0, max(0, nodes // 2 - rows_tried // 2), max(0, nodes - rows_tried)):
        rows = place[first : first + rows_tried]
        score = torch.einsum("ihd,jhd->hij", query[rows].float(), key.float()) * query.shape[-1] ** -0.5
        score.masked_fill_((rows[:, None] - place).abs() > window, -math.inf)
        right = torch.einsum("hij,jhd->ihd", score.softmax(-1), value.float())
        off = float((found[rows].float() - right).norm() / right.norm())
        worst = max(worst, off) if math.isfinite(off) else math.inf
    return worst
