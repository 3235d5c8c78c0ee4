"""Coarse fields made on the device, beside the fields that they are made of.

The encoders would make the same from the same weights (`fields.coarse_encoder`), in time that the loop over steps
needs of the processors. Both give the same bits: a value is the sum of its products in the order of the matrix, which
begins at zero; each product and each sum is rounded to float32 by itself. Here these are kernels of their own, so that
no compiler can join a product with a sum, and no sum uses atomics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from aifs_ensemble.fields.grib_encoder import CoarseSpec
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.interpolation import Weights, weights_name

_PRODUCTS_AT_ONCE = 1 << 24  # 64 MB of memory; fewer would be more kernels to launch
_MOST_BYTES = 1 << 27  # of one step's coarse fields: the card holds them up to four times


def makes_coarse_fields(spec: CoarseSpec, device: torch.device) -> bool:
    """Whether the device makes the coarse fields, or leaves them to the encoders.

    A GPU makes them beside a step, without a processor, as long as they are small. Without a GPU, encoders are what
    computes beside the steps.
    """
    return device.type == "cuda" and 4 * len(spec.variables) * grid_coordinates(spec.grid).points <= _MOST_BYTES


class CoarseFields:
    """Makes the coarse fields of a step, float32 ``(coarse variable, target point)``.

    Parameters
    ----------
    spec : which variables, in which order
    outputs : names of the rows of the fields that they are made of
    weights : of `fields.coarse_encoder.coarse_weights`
    device : where the fields are
    """

    def __init__(self, spec: CoarseSpec, outputs: Sequence[str], weights: Mapping[str, Weights], device: torch.device):
        names = [weights_name(spec.method(variable), variable) for variable in spec.variables]
        self._sums: list[_Sums] = []
        order: list[int] = []
        for name in weights:
            members = [number for number, found in enumerate(names) if found == name]
            matrix = weights[name].matrix
            assert matrix is not None
            rows = [outputs.index(spec.variables[number]) for number in members]
            self._sums.append(_Sums(matrix, rows, device))
            order += members
        points = self._sums[0].points
        self._by_weights = torch.empty((len(names), points), device=device)
        self._made = torch.empty_like(self._by_weights)
        self._order = _index(np.argsort(order), device)

    def make(self, fields: torch.Tensor) -> torch.Tensor:
        """Return the coarse fields of `fields`, float32 ``(output, source point)``; valid until the next call."""
        first = 0
        for sums in self._sums:
            sums.make(fields, self._by_weights[first : first + sums.fields])
            first += sums.fields
        return torch.index_select(self._by_weights, 0, self._order, out=self._made)


@dataclass(frozen=True)
class _Terms:
    """Some terms of all sums: from where, times what, and to which sums each run of `sizes` is added."""

    source: torch.Tensor
    weights: torch.Tensor
    sizes: list[int]
    sums: list[torch.Tensor]


class _Sums:
    """The product of a sparse matrix with some rows of the fields: first terms first, those of all rows at once.

    The matrix's rows are arranged by the number of their terms, so that those that have a further one come first.
    """

    def __init__(self, matrix: csr_array, rows: Sequence[int], device: torch.device):
        self.fields, self.points = len(rows), matrix.shape[0]
        self._rows = _index(rows, device)[:, None]
        self._values = torch.empty((self.fields, self.points), device=device)
        counts = np.diff(matrix.indptr)
        longest_first = np.argsort(-counts, kind="stable")
        self._places = _index(np.argsort(longest_first), device)
        self._terms = []
        for run in _runs([int((counts > k).sum()) for k in range(counts.max())], _PRODUCTS_AT_ONCE // self.fields):
            at = np.concatenate([matrix.indptr[longest_first[:size]] + k for k, size in run])
            sizes = [size for _, size in run]
            source, weights = _index(matrix.indices[at], device), torch.as_tensor(matrix.data[at], device=device)
            self._terms.append(_Terms(source, weights, sizes, [self._values[:, :size] for size in sizes]))

    def make(self, fields: torch.Tensor, out: torch.Tensor) -> None:
        """Write the product to `out` ``(field, target point)``."""
        self._values.zero_()
        for terms in self._terms:
            products = fields[self._rows, terms.source].mul_(terms.weights)
            for sums, part in zip(terms.sums, products.split(terms.sizes, dim=1), strict=True):
                sums.add_(part)
        torch.index_select(self._values, 1, self._places, out=out)


def _runs(sizes: Sequence[int], most: int) -> Iterator[list[tuple[int, int]]]:
    """Yield numbered sizes in runs, each of `most` at most in all, or one alone."""
    run: list[tuple[int, int]] = []
    for number, size in enumerate(sizes):
        if run and sum(size for _, size in run) + size > most:
            yield run
            run = []
        run.append((number, size))
    yield run


def _index(values: npt.ArrayLike | Sequence[int], device: torch.device) -> Any:
    return torch.as_tensor(np.asarray(values, np.int64), device=device)
