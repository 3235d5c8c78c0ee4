"""Truncation of the skip connection: fields through a coarse grid and back, row by row, without atomics (Triton).

A model trained with a CRPS loss passes on, in place of the newest fields, what a coarse grid can hold of them: a
sparse product down to that grid and another one up again (anemoi-models ``AnemoiEnsModelEncProcDec``, ``A_down`` and
``A_up``). ``torch.sparse.mm`` gives each product a tensor of its own and promises no order of its sums. Here the
entries of a matrix lie row after row, and a row sums its own in that order, in float32: the same inputs give the same
bits, no tensor has a row per entry, and only the points that the coarse grid needs are read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aifs_ensemble.model import launches

HAS_TRITON = importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix in compressed rows: the entries of row ``i`` are ``row[i]:row[i + 1]``.

    Attributes
    ----------
    row : int32 ``(rows + 1,)``
    source : int32 ``(entries,)``, the column of each entry
    weight : float32 ``(entries,)``
    """

    row: Tensor
    source: Tensor
    weight: Tensor

    @classmethod
    def of(cls, matrix: Tensor, device: torch.device) -> SparseRows:
        """Return the rows of a sparse tensor of any layout, entries by column within each row."""
        entries = matrix.to(device).to_sparse_coo().coalesce()
        where, source = entries.indices()
        row = torch.zeros(matrix.shape[0] + 1, dtype=torch.int64, device=device)
        torch.cumsum(torch.bincount(where, minlength=matrix.shape[0]), 0, out=row[1:])
        return cls(row.to(torch.int32), source.to(torch.int32), entries.values().float().contiguous())


def reference(rows: SparseRows, fields: Tensor, columns: Tensor) -> Tensor:
    """Return what `multiply` returns, in plain torch operations, one entry of all rows at a time."""
    count = len(rows.row) - 1
    total = fields.new_zeros((count, len(columns)))
    first, last = rows.row[:-1].long(), rows.row[1:].long()
    for step in range(int((last - first).max()) if count else 0):
        present = first + step < last
        entry = (first + step)[present]
        total[present] += fields[rows.source[entry].long()][:, columns] * rows.weight[entry, None]
    return total


if HAS_TRITON:
    import triton
    import triton.language as tl

    @triton.jit
    def _multiply_kernel(  # type: ignore[no-untyped-def]
        fields, columns, row, source, weight, out, count, stride,
        VARIABLES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    ):  # fmt: skip
        rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = rows < count
        first = tl.load(row + rows, mask=inside, other=0)
        last = tl.load(row + rows + 1, mask=inside, other=0)
        variable = tl.arange(0, WIDTH)
        within = variable < VARIABLES
        column = tl.load(columns + variable, mask=within, other=0)
        total = tl.zeros((ROWS, WIDTH), tl.float32)
        for step in range(tl.max(last - first, 0)):
            entry = first + step
            present = entry < last
            node = tl.load(source + entry, mask=present, other=0).to(tl.int64)
            share = tl.load(weight + entry, mask=present, other=0.0)
            place = node[:, None] * stride + column[None, :]
            value = tl.load(fields + place, mask=present[:, None] & within[None, :], other=0.0)
            total += share[:, None] * value
        tl.store(
            out + rows[:, None] * VARIABLES + variable[None, :], total, mask=inside[:, None] & within[None, :]
        )  # fmt: skip


def multiply(rows: SparseRows, fields: Tensor, columns: Tensor) -> Tensor:
    """Return the sparse product ``(rows, chosen variables)``, float32.

    Parameters
    ----------
    fields : float32 ``(sources, variables)``, rows may be strided
    columns : int64 ``(chosen variables,)``, which of them to take, in the order wanted
    """
    fields = fields if fields.stride(1) == 1 else fields.contiguous()
    count, variables = len(rows.row) - 1, len(columns)
    out = torch.empty((count, variables), device=fields.device)
    launch = launches.sparse_rows()
    _multiply_kernel[(triton.cdiv(count, launch.rows),)](
        fields, columns, rows.row, rows.source, rows.weight, out,
        count, fields.stride(0), VARIABLES=variables, WIDTH=triton.next_power_of_2(variables), ROWS=launch.rows,
        num_warps=launch.warps,
    )  # fmt: skip
    return out


class Truncation:
    """Sparse products, one after another, of the prognostic variables.

    Parameters
    ----------
    matrices : sparse tensors, the first of them reading the data grid, the last one writing it
    prognostic : int64, places of the prognostic variables among those of the fields
    """

    def __init__(self, matrices: Sequence[Tensor], prognostic: Tensor):
        self._parts = [SparseRows.of(matrix, prognostic.device) for matrix in matrices]
        self._prognostic = prognostic
        self._all = torch.arange(len(prognostic), device=prognostic.device)

    def __call__(self, fields: Tensor) -> Tensor:
        """Return the prognostic variables ``(nodes, prognostic)`` of ``fields (nodes, variables)``, truncated."""
        columns = self._prognostic
        for rows in self._parts:
            fields = multiply(rows, fields, columns)
            columns = self._all
        return fields
