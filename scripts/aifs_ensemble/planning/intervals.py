"""Sets of moments as lists of (start, end): their union, their difference, their length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Intervals = list[tuple[float, float]]


def union(intervals: Iterable[tuple[float, float]]) -> Intervals:
    """Return intervals as the shortest ordered list that covers the same moments."""
    merged: Intervals = []
    for start, end in sorted(interval for interval in intervals if interval[1] > interval[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def difference(intervals: Iterable[tuple[float, float]], taken: Sequence[tuple[float, float]]) -> Intervals:
    """Return what of `intervals` is not in `taken`, which is a union."""
    left: Intervals = []
    for begin, end in intervals:
        start = begin
        for other, until in taken:
            if until > start and other < end:
                if other > start:
                    left.append((start, other))
                start = max(start, until)
        if start < end:
            left.append((start, end))
    return left


def length(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the sum of the lengths."""
    return sum(end - start for start, end in intervals)
