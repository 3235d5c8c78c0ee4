"""The settings of the forward pass that decide its numbers, in one list."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from aifs_ensemble.common.acceleration import FLOAT8
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Where there is an accelerated pass: kinds of device, and the precisions of products there.
ACCELERATED = {"cuda": ("16", "bf16", FLOAT8)}
# The compute capability from which cards multiply float8: Ada has 8.9, Hopper 9.0.
FLOAT8_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class Numerics:
    """Settings of the configuration's section ``forecast`` that decide what the forward pass computes.

    Whoever needs them takes the whole object: the stepper, the name of the compile cache and the fingerprint of a
    member, whose keys are the names of the fields. A further field changes the fingerprint of every member.

    Attributes
    ----------
    precision : ``16``, ``bf16`` or ``32``, the autocast type of the forward pass; or ``fp8``, float8 products beside 16
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

    def refusal(self, reason: str) -> str:
        """Return what is told where the accelerated pass cannot be used for a reason and no other has float8.

        Empty for other precisions, which the model's own pass has, and without a reason.
        """
        if not reason or self.precision != FLOAT8:
            return ""
        return (
            f"forecast.precision: {self.precision}, expected 16, bf16 or 32: only the accelerated forward pass "
            f"computes in float8, and it cannot be used ({reason})"
        )

    def refuse(self, reason: str) -> None:
        """Raise ConfigError with the `refusal`, if there is one."""
        if told := self.refusal(reason):
            raise ConfigError(told)


def why_no_float8(device: torch.device) -> str:
    """Return why a device cannot multiply float8, empty where it can."""
    if device.type != "cuda":
        return f"the device is {device.type}"
    import torch

    from aifs_ensemble.model import launches

    capability = launches.capability(device)
    if capability >= FLOAT8_CAPABILITY:
        return ""
    has, needs = (".".join(map(str, one)) for one in (capability, FLOAT8_CAPABILITY))
    return f"{torch.cuda.get_device_name(device)} has compute capability {has}, float8 needs {needs}"
