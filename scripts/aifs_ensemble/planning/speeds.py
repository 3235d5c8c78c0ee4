"""The speed of a model on a card, and how it carries over to a card on which it was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from aifs_ensemble.common.acceleration import FLOAT8
from aifs_ensemble.planning.cards import CPU, distance
from aifs_ensemble.planning.machines import Gpu

# model, card, precision, way of running (`Speed.way`), deterministic
Key = tuple[str, str, str, str, bool]
WAYS = ("accelerated", "compiled", "eager")


@dataclass(frozen=True)
class Speed:
    """Seconds of one member on one card. `status` is ``measured``, ``estimated`` or ``from runs``.

    `cold_seconds` is what the first member on a fresh machine needs beyond `startup_seconds`: compiling what later
    ones find in the cache. With `compile` the pass is our own, unless `accelerated` says that it is the model's.
    """

    model: str
    gpu: str
    precision: str
    compile: bool
    deterministic: bool
    step_seconds: float
    forward_seconds: float
    startup_seconds: float
    drain_seconds: float
    peak_gpu_mb: float
    status: str
    date: str
    source: str
    cold_seconds: float = 0.0
    accelerated: bool = True

    @property
    def way(self) -> str:
        """The way of running: ``accelerated``, ``compiled`` (the model's own pass) or ``eager``."""
        return way_of(self.compile, self.accelerated)

    @property
    def key(self) -> Key:
        return (self.model, self.gpu, self.precision, self.way, self.deterministic)


def way_of(compiled: bool, accelerated: bool = True) -> str:
    """Return the way of running that settings ask for, as `Speed.way` names it."""
    return "eager" if not compiled else "accelerated" if accelerated else "compiled"


@dataclass(frozen=True)
class Reference:
    """What a forward pass spends its time on, on one card: `shares` of it, by way of running, go with the bandwidth.

    The rest goes with the arithmetic rate: products and window attention at the clock that the card's power allows,
    and what stays in its caches.
    """

    card: Gpu
    shares: Mapping[str, float]
    source: str

    def slowness(self, way: str, card: Gpu) -> float:
        """Return how many times as long a forward pass takes on `card`: a roofline with two terms.

        ``(1 - s) F0 / F + s B0 / B`` with s the share of the way, F the arithmetic rates and B the memory bandwidths of
        the data sheets.
        """
        share = self.shares[way]
        arithmetic, memory = self.card.tflops / card.tflops, self.card.bandwidth_gb_s / card.bandwidth_gb_s
        return (1 - share) * arithmetic + share * memory

    def carried_over(self, seconds: float, way: str, measured: Gpu, card: Gpu) -> float:
        """Return the forward pass of `card`, given that of the card `measured`."""
        return seconds * self.slowness(way, card) / self.slowness(way, measured)


def estimated(entries: Iterable[Speed], key: Key, card: Gpu, specs: Mapping[str, Gpu], reference: Reference) -> Speed:
    """Return the speed of a card that has no entry: the nearest entry carried over to it.

    Nearest is that of the same model and the same way of running, then that of the nearest card: another way of running
    on the very card says less than the same way on its neighbour.
    """
    model, _, precision, way, deterministic = key
    known = {**specs, CPU.name: CPU}

    def unlike(entry: Speed) -> tuple[bool | float, ...]:
        return (
            entry.model != model,
            (entry.way == "eager") != (way == "eager"),
            entry.way != way,
            (entry.precision == "32") != (precision == "32"),
            (entry.precision == FLOAT8) != (precision == FLOAT8),
            distance(known[entry.gpu], card),
            entry.deterministic != deterministic,
            entry.precision != precision,
        )

    # a processor's seconds say nothing of a card's
    of_cards = [e for e in entries if e.gpu in known and (e.gpu != CPU.name or card.name == CPU.name)]
    nearest = min(of_cards, key=unlike)
    forward = reference.carried_over(nearest.forward_seconds, way, known[nearest.gpu], card)
    was = (nearest.model, nearest.precision, nearest.way, nearest.deterministic)
    now = (model, precision, way, deterministic)
    names = ("model", "precision", "pass", "deterministic")
    differs = [f"{name} {old}" for name, old, new in zip(names, was, now, strict=True) if old != new]
    source = f"estimated from {nearest.gpu} by arithmetic and bandwidth"
    return replace(
        nearest,
        model=model,
        gpu=card.name,
        precision=precision,
        compile=way != "eager",
        accelerated=way != "compiled",
        deterministic=deterministic,
        step_seconds=forward + nearest.step_seconds - nearest.forward_seconds,
        forward_seconds=forward,
        status="estimated",
        source=f"{source}, measured with {', '.join(differs)}" if differs else source,
    )
