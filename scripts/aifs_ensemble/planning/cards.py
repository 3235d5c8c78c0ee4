"""Cards: known by what drivers call them, and likened to the nearest known one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import log

from aifs_ensemble.planning.machines import Gpu

# Stands for a processor in estimates only: a model without a measurement on one gets hours, which is the message.
CPU = Gpu("cpu", 1, 0, "", tflops=0.1, bandwidth_gb_s=20)
# The part of a name that all versions of a card share, such as H100: not SXM4, HBM3, 80GB or the 6000 of several cards
_FAMILY = re.compile(r"(?!SXM|HBM)[A-Z]+\d+[A-Z]*")


def _words(name: str) -> list[str]:
    return name.upper().replace("-", " ").split()


def gpu_name(device: str, specs: Iterable[str]) -> str:
    """Return the table's name of a device as drivers spell it, e.g. ``NVIDIA H100 80GB HBM3``; ``cpu`` for none.

    A card that the table does not have keeps the driver's name.
    """
    words = _words(device)
    for name in sorted(specs, key=len, reverse=True):
        if all(part in words for part in _words(name)):
            return name
    return "cpu" if not device or device.lower().startswith("cpu") else device


def distance(one: Gpu, other: Gpu) -> float:
    """Return how far two cards are apart: the factors of their arithmetic rates and bandwidths, logarithms added."""
    return abs(log(one.tflops / other.tflops)) + abs(log(one.bandwidth_gb_s / other.bandwidth_gb_s))


def own_card(name: str, count: int, memory_mb: int, bandwidth_gb_s: float, specs: Mapping[str, Gpu]) -> Gpu:
    """Return a machine's own cards, given what the driver says of them (bandwidth 0 where it does not say).

    A card that `specs` does not have takes the figures of the nearest one that it has, by memory bandwidth or else by
    memory: of those that share its name in another version, if there are any. `Gpu.like` then says which, and by what.
    """
    known = gpu_name(name, specs)
    if known in specs:
        return replace(specs[known], count=count, memory_mb=memory_mb)
    family = {word for word in _words(name) if _FAMILY.fullmatch(word)}
    same = [card for card in specs.values() if family & set(_words(card.name))]
    of = "memory bandwidth" if bandwidth_gb_s else "memory"

    def apart(card: Gpu) -> float:
        return abs(log(card.bandwidth_gb_s / bandwidth_gb_s if bandwidth_gb_s else card.memory_mb / max(memory_mb, 1)))

    nearest, by = min(same or specs.values(), key=apart), "name" if same else of
    return replace(nearest, name=known, count=count, memory_mb=memory_mb, googlebatch="", like=nearest.name, like_by=by)
