"""How members that share a card share it: one after the other, each ready when its turn comes.

A card is full with one member's steps: two at once take as long as one after the other (docs/performance.md). What
several processes on a card are for is that one starts up, or writes what it made, while another computes. Left alone,
processes that start at once also compute and end at once, and the card idles while all of them start again.

- The part of a start-up that the card takes part in (weights, compiling, warming up) is done by one at a time. The
  first is ready sooner for it, and what it compiled or compared, the others find.
- Steps are made by one at a time, `ForecastRequest.compute_at_once` of them if that says so.
"""

from __future__ import annotations

import torch

from aifs_ensemble.common.turns import Turn
from aifs_ensemble.forecast.request import ForecastRequest

# compiling and comparing on a fresh machine takes a minute and more; a step shows that its member is alive
START_PATIENCE_SECONDS = 600.0
STEP_PATIENCE_SECONDS = 60.0


class CardTurns:
    """A member's turns on its card: `starting`, then `computing`."""

    def __init__(self, request: ForecastRequest, device: torch.device):
        places = request.compute_at_once or (1 if device.type == "cuda" else 0)
        card = _card(device)
        self.starting = Turn(f"starting-{card}", min(places, 1), patience=START_PATIENCE_SECONDS)
        self.computing = Turn(f"computing-{card}", places, patience=STEP_PATIENCE_SECONDS)

    @property
    def waited(self) -> float:
        """Seconds spent waiting for both."""
        return self.starting.waited + self.computing.waited


def _card(device: torch.device) -> str:
    """Return what tells a card from others of this machine, whatever CUDA_VISIBLE_DEVICES calls it."""
    if device.type != "cuda":
        return device.type
    return str(getattr(torch.cuda.get_device_properties(device), "uuid", f"cuda{device.index}"))
