"""What every estimate of one plan shares: the work that is missing, its sizes, speeds and prices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import CloudError
from aifs_ensemble.common.models import fetched_by_coordinator
from aifs_ensemble.planning.grid_sizes import grid_points
from aifs_ensemble.planning.machines import HourPrice, Machines, MachineType
from aifs_ensemble.planning.outstanding import Outstanding
from aifs_ensemble.planning.product_stage import ProductStage, product_stage
from aifs_ensemble.planning.regions import usable_regions
from aifs_ensemble.planning.speeds import Speed
from aifs_ensemble.planning.throughput import Throughput


@dataclass(frozen=True)
class Case:
    """What every estimate of one plan shares: the work, the sizes, the profile and the prices.

    `lead_bytes` are those of a lead with its coarse file as it is delivered, `whole_lead_bytes` with everything that
    the model makes. `group` is how many members Snakemake puts on a machine, if there are as many; `not_accelerated`
    says why the model's own forward pass is planned with, where it is.
    """

    config: Config
    machines: Machines
    throughput: Throughput
    work: Outstanding
    profile: str
    bucket_region: str | None
    lead_bytes: float
    whole_lead_bytes: float
    initial_seconds: float
    group: int = 1
    not_accelerated: str = ""

    @property
    def local(self) -> bool:
        return self.profile == "local"

    @property
    def checkpoint_here(self) -> bool:
        """Whether the coordinator fetches the checkpoint, on no rented machine."""
        return fetched_by_coordinator(self.config.model, self.profile)

    @cached_property
    def region(self) -> str:
        """The region that a run tries first; the first one listed where it would refuse them all."""
        listed = self.config.cloud.regions
        try:
            return usable_regions(listed, self.bucket_region, self.config.delivery.allow_cross_region)[0]
        except CloudError:
            return str(listed[0])

    @cached_property
    def fields(self) -> float:
        """Fields of one lead, on average."""
        return self.config.lead_fields

    @property
    def delivered_bytes(self) -> float:
        """Bytes still to deliver."""
        return self.bytes_of(self.work)

    def bytes_of(self, work: Outstanding) -> float:
        """Return the bytes that are still to deliver of some work, such as a cycle's."""
        return len(work.to_deliver) * len(self.config.leads) * self.lead_bytes

    @cached_property
    def products(self) -> ProductStage:
        """What the products take that follow the forecasts."""
        return product_stage(
            self.config,
            self.work.products,
            # of an area products read coarse leads, by the points of these
            field_bytes=self.whole_lead_bytes / len(self.config.model.delivered)
            if self.config.area
            else self.lead_bytes / self.fields,
            points=grid_points(self.config.model.grid),
            assume=self.machines.assumptions,
        )

    @property
    def written_bytes(self) -> float:
        """Bytes still to write to scratch."""
        return self.work.steps * self.lead_bytes * len(self.config.leads) / len(self.config.steps)

    @property
    def saved_bytes(self) -> float:
        """Bytes that ``forecast.output`` leaves out of what is still to deliver."""
        whole = len(self.work.to_deliver) * self.config.lead_hours / self.config.model.timestep_hours
        return whole * self.whole_lead_bytes - self.delivered_bytes

    def price(self, machine: MachineType) -> HourPrice:
        """Return a machine's price; without one in the region, another region's, as a finding says."""
        if self.local:
            return HourPrice(0.0, 0.0, "")
        return machine.prices.get(self.region) or next(iter(machine.prices.values()))

    def speed(self, machine: MachineType) -> Speed:
        """Return the speed of the configuration's model on a machine's card."""
        return self.throughput.for_config(self.config, machine.gpu)

    def at_once(self, machine: MachineType) -> int:
        """Return how many members fit a machine's card, memory and processors at once; 0 when not one does.

        Encoders are the threads that Snakemake counts; a rule that asks for more than there are gets what there is.
        """
        size = self.throughput.size(self.config.model.name)
        by_memory = int(machine.memory_mb // max(size.host_mb, 1))
        by_processors = max(1, machine.vcpus // self.config.forecast.encoders)
        if machine.gpu is None:
            return max(1, min(by_memory, by_processors))
        wanted = self.config.forecast.gpu_mem_mb or self.speed(machine).peak_gpu_mb or machine.gpu.memory_mb
        if self.not_accelerated:  # then members take turns on the card: `common.card_room`
            wanted = max(wanted, self.speed(machine).peak_gpu_mb)
        return min(int(machine.gpu.memory_mb // wanted) * machine.gpu.count, by_memory, by_processors)

    def step_seconds(self, machine: MachineType, at_once: int) -> float:
        """Return the seconds between two steps of a machine: its card's, or its encoders' where these take longer."""
        size = self.throughput.size(self.config.model.name)
        cores = min(self.config.forecast.encoders * max(at_once, 1), max(machine.vcpus - 1, 1))
        encoding = self.fields * size.encode_core_seconds_per_field / cores
        cards = machine.gpu.count if machine.gpu else 1
        return max(self.speed(machine).step_seconds / cards, encoding)
