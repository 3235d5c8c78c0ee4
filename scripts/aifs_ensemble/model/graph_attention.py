"""Attention over the edges of a graph, one destination node after another, without atomics.

The mappers of AIFS ENS attend from every destination node to the few source nodes it has edges to
(anemoi-models ``GraphTransformerConv``). Written with gathers and scatters, that materialises five
tensors with a row per edge and sums them with atomics, whose order changes from run to run. Here
the edges are sorted by destination once, and each destination sums its own edges in that order:
nothing of edge size is written, and the same inputs give the same bits.

The linear embedding of the edge attributes is never formed either. For an edge ``e`` with
attributes ``a_e`` and embedding ``W a_e + b``, the score is

    q . (k_j + W a_e + b) = q . k_j + (W' q) . a_e + q . b

and the weighted sum of values is ``sum p v_j + W sum p a_e + b``, as the weights add up to one.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from aifs_ensemble.model import launches

HAS_TRITON = importlib.util.find_spec("triton") is not None
# tl.dot wants at least 16 in every dimension, and Triton powers of two: attributes and heads are padded to that
_LEAST = launches.LEAST_ROWS
MOST_ATTRIBUTES = 64
WIDEST_HEAD = 256


@dataclass(frozen=True)
class SortedEdges:
    """Edges in compressed rows: those of destination ``i`` are ``row[i]:row[i + 1]``.

    Attributes
    ----------
    row : int32 ``(destinations + 1,)``
    source : int32 ``(edges,)``, the source node of each edge
    order : int64 ``(edges,)``, where each edge stood before sorting
    """

    row: Tensor
    source: Tensor
    order: Tensor


def sort_edges(edge_index: Tensor, destinations: int) -> SortedEdges:
    """Sort edges ``(2, edges)`` (source, destination) by destination, stably."""
    source, destination = edge_index
    order = torch.argsort(destination, stable=True)
    counts = torch.bincount(destination, minlength=destinations)
    row = torch.zeros(destinations + 1, dtype=torch.int64, device=edge_index.device)
    torch.cumsum(counts, 0, out=row[1:])
    return SortedEdges(row.to(torch.int32), source[order].to(torch.int32), order)


def padded(size: int) -> int:
    """Return the power of two, at least 16, that holds `size`."""
    return max(_LEAST, 1 << (size - 1).bit_length())


def pad_attributes(attributes: Tensor) -> Tensor:
    """Return attributes ``(rows, n)`` with zeros up to the width the kernel wants."""
    width = attributes.shape[-1]
    return torch.nn.functional.pad(attributes, (0, padded(width) - width))


def reference(
    query: Tensor, key: Tensor, value: Tensor, attributes: Tensor, weight: Tensor, bias: Tensor, edges: SortedEdges
) -> Tensor:
    """Return what `attend` returns, in plain torch operations and the inputs' precision.

    Shapes as in `attend`. Meant for tests and for machines without Triton.
    """
    count, heads, width = query.shape
    destination = torch.repeat_interleave(
        torch.arange(count, device=query.device), (edges.row[1:] - edges.row[:-1]).long()
    )
    embedded = torch.nn.functional.linear(attributes, weight, bias).view(-1, heads, width)
    source = edges.source.long()
    score = (query[destination] * (key[source] + embedded)).sum(-1) / width**0.5
    index = destination[:, None].expand(-1, heads)
    top = torch.full((count, heads), -torch.inf, dtype=score.dtype, device=score.device)
    top = top.scatter_reduce(0, index, score, "amax")
    weightage = torch.exp(score - top[destination])
    total = torch.zeros_like(top).index_add(0, destination, weightage)
    weightage = weightage / total[destination]
    out = torch.zeros_like(query)
    return out.index_add(0, destination, (value[source] + embedded) * weightage[..., None])


if HAS_TRITON:
    import triton
    import triton.language as tl

    @triton.jit
    def _attend_kernel(  # type: ignore[no-untyped-def]
        query, key, value, attributes, weight, bias, row, source, added, out, count, scale,
        query_stride, key_stride, value_stride, added_stride,
        HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, ATTRIBUTES: tl.constexpr, ROWS: tl.constexpr,
    ):  # fmt: skip
        head = tl.program_id(0)
        rows = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = rows < count
        first = tl.load(row + rows, mask=inside, other=0)
        last = tl.load(row + rows + 1, mask=inside, other=0)
        columns = tl.arange(0, PADDED)
        within = columns < WIDTH
        channel = head * WIDTH + columns
        attribute = tl.arange(0, ATTRIBUTES)
        written = inside[:, None] & within[None, :]
        q = tl.load(query + rows[:, None] * query_stride + channel[None, :], mask=written, other=0.0)
        w = tl.load(weight + channel[:, None] * ATTRIBUTES + attribute[None, :], mask=within[:, None], other=0.0)
        b = tl.load(bias + channel, mask=within, other=0.0).to(tl.float32)
        projected = tl.dot(q, w.to(q.dtype), input_precision="ieee").to(tl.float32)
        q32 = q.to(tl.float32)
        constant = tl.sum(q32 * b[None, :], 1)
        top = tl.full((ROWS,), -1.0e30, tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        summed = tl.zeros((ROWS, PADDED), tl.float32)
        summed_attributes = tl.zeros((ROWS, ATTRIBUTES), tl.float32)
        for step in range(tl.max(last - first, 0)):
            edge = first + step
            present = edge < last
            read = present[:, None] & within[None, :]
            node = tl.load(source + edge, mask=present, other=0).to(tl.int64)
            k = tl.load(key + node[:, None] * key_stride + channel[None, :], mask=read, other=0.0)
            v = tl.load(value + node[:, None] * value_stride + channel[None, :], mask=read, other=0.0)
            a = tl.load(
                attributes + edge.to(tl.int64)[:, None] * ATTRIBUTES + attribute[None, :],
                mask=present[:, None], other=0.0,
            ).to(tl.float32)  # fmt: skip
            score = (tl.sum(q32 * k.to(tl.float32), 1) + tl.sum(projected * a, 1) + constant) * scale
            score = tl.where(present, score, -1.0e30)
            higher = tl.maximum(top, score)
            shrink = tl.exp(top - higher)
            p = tl.where(present, tl.exp(score - higher), 0.0)
            total = total * shrink + p
            summed = summed * shrink[:, None] + p[:, None] * v.to(tl.float32)
            summed_attributes = summed_attributes * shrink[:, None] + p[:, None] * a
            top = higher
        share = tl.where(total > 0, 1.0 / total, 0.0)
        shared = (summed_attributes * share[:, None]).to(q.dtype)
        edge_part = tl.dot(shared, tl.trans(w).to(q.dtype), input_precision="ieee")
        result = summed * share[:, None] + edge_part + tl.where(total > 0, 1.0, 0.0)[:, None] * b[None, :]
        result += tl.load(added + rows[:, None] * added_stride + channel[None, :], mask=written, other=0.0)
        tl.store(
            out + rows[:, None] * (HEADS * WIDTH) + channel[None, :], result.to(out.dtype.element_ty), mask=written
        )  # fmt: skip

    @torch.library.custom_op("aifs_ensemble::graph_attention", mutates_args=())
    def _attend(
        query: Tensor, key: Tensor, value: Tensor, attributes: Tensor, weight: Tensor, bias: Tensor,
        row: Tensor, source: Tensor, added: Tensor, heads: int,
    ) -> Tensor:  # fmt: skip
        count, channels = query.shape
        width = channels // heads
        out = torch.empty((count, channels), dtype=query.dtype, device=query.device)
        launch = launches.over_edges(launches.capability(query.device), padded(width))
        _attend_kernel[(heads, triton.cdiv(count, launch.rows))](
            query, key, value, attributes, weight, bias, row, source, added, out, count, width**-0.5,
            query.stride(0), key.stride(0), value.stride(0), added.stride(0),
            HEADS=heads, WIDTH=width, PADDED=padded(width), ATTRIBUTES=attributes.shape[1], ROWS=launch.rows,
            num_warps=launch.warps,
        )  # fmt: skip
        return out

    @_attend.register_fake
    def _(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attributes: Tensor,
        weight: Tensor,
        bias: Tensor,
        row: Tensor,
        source: Tensor,
        added: Tensor,
        heads: int,
    ) -> Tensor:
        return query.new_empty(query.shape)


def attend(
    query: Tensor, key: Tensor, value: Tensor, attributes: Tensor, weight: Tensor, bias: Tensor,
    row: Tensor, source: Tensor, added: Tensor, heads: int,
) -> Tensor:  # fmt: skip
    """Return the attention of each destination over its edges, plus `added`.

    Parameters
    ----------
    query : ``(destinations, channels)``, rows may be strided
    key, value : ``(sources, channels)``, rows may be strided
    attributes : ``(edges, n)`` in the order of `row`, padded by `pad_attributes`; n at most `MOST_ATTRIBUTES`
    weight, bias : ``(channels, n)`` and ``(channels,)`` of the edges' linear embedding
    row, source : int32, of `SortedEdges`
    added : ``(destinations, channels)``, rows may be strided; added to the result before it is rounded
    heads : number of heads; head ``h`` has the channels ``h * width`` to ``(h + 1) * width``, at most `WIDEST_HEAD`

    Returns
    -------
    ``(destinations, channels)`` in the type of `query`; just `added` for a destination without edges
    """
    return _attend(query, key, value, attributes, weight, bias, row, source, added, heads)
