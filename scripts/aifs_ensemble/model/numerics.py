"""The settings of the forward pass that decide its numbers, in one list."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from aifs_ensemble.common.config import Config

# Where there is an accelerated pass: kinds of device, and the precisions of products there.
ACCELERATED = {"cuda": ("16", "bf16")}


@dataclass(frozen=True)
class Numerics:
    """Settings of the configuration's section ``forecast`` that decide what the forward pass computes.

    Whoever needs them takes the whole object: the stepper, the name of the compile cache and the fingerprint of a
    member, whose keys are the names of the fields. A further field changes the fingerprint of every member.

    Attributes
    ----------
    precision : ``16``, ``bf16`` or ``32``, the autocast type of the forward pass
    compile : compile the forward pass
    deterministic : ask torch for algorithms that give the same bits every time
    chunks : pieces in which mappers work, to save memory
    """

    precision: str = "32"
    compile: bool = False
    deterministic: bool = True
    chunks: int = 1

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the settings of a configuration, also of a subclass that adds some of the same section."""
        section = config.forecast
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})

    def not_accelerated(self, device: str) -> str:
        """Return why these settings have no accelerated pass on a kind of device, empty where they have one."""
        if not self.compile:
            return "forecast.compile is false"
        if device not in ACCELERATED:
            return f"the device is {device}"
        if self.precision not in ACCELERATED[device]:
            return f"forecast.precision is {self.precision}"
        return ""
