"""How Triton's kernels are launched, by the card's compute capability: rows of a program, and warps that share it.

On Hopper these are the launches that were measured, and its bits rest on them. Elsewhere nobody has measured: there a
launch is such that the compiler keeps everything in registers, for every head width and number of channels up to those
of AIFS ENS v2 (``python benchmarks/kernel_resources.py`` compiles them, and needs no card). Turing has no fast products
of these shapes and wants twice the registers.

Rows never change a result. Warps change the order in which a row's products are summed, and so may change the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

Capability = tuple[int, int]
HOPPER: Capability = (9, 0)
# tl.dot wants at least 16 in every dimension
LEAST_ROWS = 16
_MOST_ROWS = 32


@dataclass(frozen=True)
class Launch:
    """Rows that a program goes through, and its warps."""

    rows: int
    warps: int


@dataclass(frozen=True)
class Limits:
    """What a program takes at most.

    Attributes
    ----------
    channels : of all rows of a program that attends over edges
    channels_a_warp : of these, in one warp's registers
    weights : of a conditioned norm, in the registers of four warps; with more, eight share them. None: four always
    """

    channels: int
    channels_a_warp: int
    weights: int | None


_LIMITS = {
    HOPPER: Limits(channels=2048, channels_a_warp=2048, weights=None),
    (7, 5): Limits(channels=2048, channels_a_warp=512, weights=8192),
}
# Shared memory that a block may have, KiB: CUDA C++ Programming Guide, technical specifications by compute capability
_SHARED_KIB = {(7, 5): 64, (8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
_OTHERS = Limits(channels=4096, channels_a_warp=1024, weights=8192)


@cache
def capability(device: torch.device) -> Capability:
    """Return a card's compute capability; that of Hopper for a processor, on which kernels are interpreted."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else HOPPER


def shared_bytes(card: Capability) -> int:
    """Return the shared memory that a block may have on a card; of one not listed, the least of those listed."""
    return 1024 * _SHARED_KIB.get(card, min(_SHARED_KIB.values()))


def limits(card: Capability) -> Limits:
    """Return what a program takes at most on a card of this compute capability."""
    return _LIMITS.get(card, _OTHERS)


def over_edges(card: Capability, width: int) -> Launch:
    """Return the launch of attention over edges, heads being `width` channels wide, a power of two."""
    most = limits(card)
    rows = max(LEAST_ROWS, min(_MOST_ROWS, most.channels // width))
    return Launch(rows, max(1, rows * width // most.channels_a_warp))


def conditioned_norm(card: Capability, width: int, noise: int) -> Launch:
    """Return the launch of the conditioned norm of `width` channels by `noise` channels, both powers of two."""
    most = limits(card).weights
    return Launch(16, 4 if most is None or width * noise <= most else 8)


def to_float8(width: int) -> Launch:
    """Return the launch of the kernel that quantises rows of `width` numbers, a power of two: a row a program."""
    return Launch(1, max(1, min(8, width // 256)))


def sparse_rows() -> Launch:
    """Return the launch of a sparse product by rows, which takes 125 registers a thread at most, on all cards."""
    return Launch(16, 4)
