"""What a machine that was rented costs an hour; what it did not say of itself is the configuration's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.planning.costs import crossing_price
from aifs_ensemble.planning.machines import Machines, MachineType
from aifs_ensemble.planning.runs import Attempt


@dataclass(frozen=True)
class Rates:
    """What a machine costs (USD an hour) and what is assumed of it (seconds), all 0 for this machine's own runs.

    `assumed` says which of type, region and spot the machine did not say, or said as none that has a price.
    """

    machine: str = "this machine"
    region: str = ""
    spot: bool = False
    hour: float = 0.0
    disk_hour: float = 0.0
    management_hour: float = 0.0
    start_seconds: float = 0.0
    pull_seconds: float = 0.0
    assumed: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The machine's type, and how and where it was rented."""
        kind = "spot" if self.spot else "on demand"
        return f"{self.machine} ({kind}, {self.region})" if self.region else self.machine


@dataclass(frozen=True)
class Pricing:
    """What the configuration says of machines that did not say it themselves; `spot` None leaves it to cloud.spot."""

    config: Config
    machines: Machines
    profile: str
    spot: bool | None = None

    @property
    def free(self) -> bool:
        """Whether the run was on one's own machine, which costs nothing."""
        return self.profile == "local"

    @property
    def region(self) -> str:
        """The region that stands for one not recorded."""
        return self.config.cloud.regions[0]

    def forecast(self, attempt: Attempt) -> Rates:
        """Return the rates of the machine that an attempt ran on."""
        if self.free:
            return Rates()
        usual = self.machines.for_class("gpu", self.config)
        machine = self.machines.types.get(attempt.type)
        assumed = []
        if machine is None:
            assumed.append(f"machine type {_instead(attempt.type)}{usual.name}")
        return self._rates(machine or usual, attempt.region, attempt.spot, assumed)

    def cpu(self) -> Rates:
        """Return the rates of the machines of CPU jobs, which record nothing."""
        if self.free:
            return Rates()
        rates = self._rates(self.machines.for_class("cpu", self.config), "", None, [])
        # they are given back as soon as their job ends
        return replace(rates, start_seconds=self.machines.assumptions.vm_boot_seconds)

    def egress_gb(self, region: str) -> float:
        """Return what a GB costs on its way from a region to the bucket, USD."""
        return 0.0 if self.free else crossing_price(self.machines, region, self.config.cloud.bucket_region)

    def _rates(self, machine: MachineType, region: str, spot: bool | None, assumed: list[str]) -> Rates:
        priced = region if region in machine.prices else self.region if self.region in machine.prices else ""
        priced = priced or next(iter(machine.prices), "")
        if not priced:
            raise ConfigError(f"machines.yaml: no price of {machine.name} in any region, add one with cloud.prices")
        if priced != region:
            assumed.append(f"region {_instead(region, 'without a price')}{priced}")
        if spot is None:
            spot = self.config.cloud.spot if self.spot is None else self.spot
            assumed.append("spot" if spot else "on demand")
        assume, price = self.machines.assumptions, machine.price(priced)
        management = 0.0
        if self.profile.startswith("coiled"):
            management = self.machines.coiled_hour(machine) + (self._scheduler_hour(priced) if spot else 0.0)
        return Rates(
            machine=machine.name,
            region=region or priced,
            spot=spot,
            hour=price.spot if spot else price.on_demand,
            disk_hour=self.machines.disk_hour(machine, self.profile),
            management_hour=management,
            start_seconds=assume.vm_boot_seconds + assume.idle_tail_seconds,
            pull_seconds=assume.image_gb[machine.machine_class] * 1000 / assume.image_pull_mb_s,
            assumed=tuple(assumed),
        )

    def _scheduler_hour(self, region: str) -> float:
        """Return what the small machine beside a preemptible one costs, which Coiled rents on demand, USD an hour."""
        small = self.machines.for_class("cpu", self.config)
        price = small.prices.get(region) or small.price(self.region)
        return price.on_demand + self.machines.coiled_hour(small)


def _instead(said: str, problem: str = "not in machines.yaml") -> str:
    return f"{said} ({problem}) priced as " if said else ""
