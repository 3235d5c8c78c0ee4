"""Seeds of the noise that AIFS ENS draws in every step.

The model draws its noise from the device's default generator inside the forward pass. Setting that
generator right before each pass makes the noise of a step a function of (model, cycle, member, step)
alone, so any member can be rerun alone or resumed in the middle and gives what it gave.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from aifs_ensemble.common.errors import ConfigError

if TYPE_CHECKING:
    import torch

SCHEME = "sha256/1"
_LIMIT = 1024  # members and steps each fit in ten bits
_ODD = 2654435761  # any odd factor permutes the integers modulo 2**32; this one (Knuth's) spreads neighbours


def noise_seed(model: str, cycle: str, member: int, step: int) -> int:
    """Return the seed, a positive 63-bit integer, of the noise drawn in one step (counted from 1).

    All 63 bits follow from a SHA-256 of the four arguments, except that the low 32 are laid out so that no
    two steps of any members of one cycle share them: torch's CPU generator uses only those, and 50 members of
    160 steps would otherwise meet by chance once in 130 ensembles. ConfigError when member or step is out of range.
    """
    if not (0 <= member < _LIMIT and 0 < step < _LIMIT):
        raise ConfigError(
            f"noise: member {member}, step {step}, expected a member from 0 and a step from 1 to {_LIMIT - 1}"
        )
    high = _hash(SCHEME, model, cycle, str(member), str(step)) >> 1
    low = (_hash(SCHEME, model, cycle) + _ODD * (member * _LIMIT + step)) % 2**32
    return high << 32 | low


def _hash(*parts: str) -> int:
    """Return the first 32 bits of the SHA-256 of `parts`."""
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:4], "big")


def seed_device(device: torch.device, seed: int) -> None:
    """Set the generator from which the model draws on `device`; no synchronisation."""
    import torch

    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
