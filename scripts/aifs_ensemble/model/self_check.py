"""Both passes compared over one step: nothing wrong is ever run fast.

The accelerated pass stands in for the model's own. Before it makes a forecast, one step of both from the same state
with the same noise is compared, variable by variable: the root mean square of the difference over that of what the
step changes. Above the threshold the model's own pass is used.

**The threshold.** Rounding of float16 products alone puts either pass 8e-4 to 9e-4 of the change from float32
(docs/performance.md, untrained, all variables together). What is wrong in kind, such as a part of the model left out,
is a tenth of the change and more. 1e-2 lies between, on either side by a factor of about ten. bfloat16 keeps three bits
less, so its threshold is eight times as large. Products in float8 alone make 0.11 in the worst variable (H200, an
untrained model of full size), so there 0.3 is taken. That tells a pass that computes nonsense, and no longer a small
part left out: the same check with 16 does.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aifs_ensemble.common.acceleration import FLOAT8
from aifs_ensemble.model.forms import form_of, installed_version

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)
SCHEMA = "aifs-ensemble/self-check/1"
THRESHOLDS = {"16": 1e-2, "bf16": 8e-2, FLOAT8: 3e-1, "32": 1e-2}
# Of the variables only the worst are kept by name.
_NAMED = 5
# A change below this share of a variable's standard deviation is not divided by: it may be none at all.
_LEAST_CHANGE = 1e-4
# Memory of the model's own pass, eager and in chunks, in bytes by data node and channel, by form of anemoi-models:
# 26.4 GB reserved with 542,080 nodes and 1024 channels on an H100 (docs/performance.md, "Precision, compilation,
# chunks"). That of 0.11 goes through nodes in chunks, not through edges alone: 8.3 GB with 1536 channels. Torch's peak
# of the comparison was 9.3 GB on an H200, of which the weights of both passes, 3.2 GB, are on the card before.
_OWN_PASS_BYTES = {"0.6": 48, "0.11": 10}
CHUNKS = 16


@dataclass(frozen=True)
class SelfCheck:
    """How far the accelerated pass is from the model's own over one step.

    Attributes
    ----------
    largest : the largest difference of all variables, in units of what the step changes; infinite if not finite
    variable : of which
    threshold : above it the passes differ
    worst : the largest by variable, the worst first
    own_seconds, accelerated_seconds : of one step of each, None if not measured
    own_gpu_mb : torch's peak of memory in the step of the model's own pass, MB of 1e6 bytes, None on a CPU
    device, precision : on what, with which products
    """

    largest: float
    variable: str
    threshold: float
    worst: Mapping[str, float] = field(default_factory=dict)
    own_seconds: float | None = None
    accelerated_seconds: float | None = None
    own_gpu_mb: float | None = None
    device: str = ""
    precision: str = ""

    @property
    def passed(self) -> bool:
        """Whether the accelerated pass may be used."""
        return self.largest <= self.threshold

    def __str__(self) -> str:
        words = "of what a step changes" if math.isfinite(self.largest) else "is not finite"
        figure = f"{self.largest:.1e} {words}" if math.isfinite(self.largest) else words
        return f"{self.variable} {figure}, threshold {self.threshold:.0e}"

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON holds it: what is not finite is null."""
        content = asdict(self)
        content["largest"] = _number(self.largest)
        content["worst"] = {name: _number(value) for name, value in self.worst.items()}
        return {"schema": SCHEMA, "passed": self.passed, **content}

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Return the result in `content`; ValueError when it is none."""
        if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
            raise ValueError("not a self-check")
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        try:
            known["largest"] = _figure(known["largest"])
            known["worst"] = {str(name): _figure(value) for name, value in known.get("worst", {}).items()}
            known["threshold"] = float(known["threshold"])
            found = cls(**known)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a self-check ({error!r})") from None
        if found.passed is not content.get("passed") or not isinstance(found.variable, str):
            raise ValueError("not a self-check: it contradicts itself")
        return found


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _figure(value: Any) -> float:
    """Return a figure of JSON; null stands for one that is not finite."""
    if value is None:
        return math.inf
    number = float(value)
    if math.isnan(number) or number < 0:
        raise TypeError(value)
    return number


def compare_passes(
    before: torch.Tensor,
    own: torch.Tensor,
    accelerated: torch.Tensor,
    interface: Any,
    *,
    precision: str,
    **measured: Any,
) -> SelfCheck:
    """Compare one step of the two passes.

    Parameters
    ----------
    before : the newest time of the input, ``(value, variable)`` as the checkpoint orders its input
    own, accelerated : the step's output ``(value, variable)``, as the checkpoint orders its output
    interface : the anemoi-models interface, which names the variables and has their standard deviations
    precision : of products, which decides the threshold
    measured : other fields of the result

    A variable that is only made, never read, changes by what it departs from its own mean. What is missing in both
    results is left out: an imputer takes the values out again that it filled in.
    """
    import torch

    read = interface.data_indices.model.input.name_to_index
    made = interface.data_indices.model.output.name_to_index
    deviation = interface.statistics["stdev"]
    of_statistics = interface.data_indices.data.input.name_to_index
    found: dict[str, float] = {}
    figures = []
    for name, place in made.items():
        result, other = own[:, place].double(), accelerated[:, place].double()
        missing = torch.isnan(result) & torch.isnan(other)
        change = result - before[:, read[name]].double() if name in read else result - result.nanmean()
        apart = _root_mean_square(other - result, missing)
        least = _LEAST_CHANGE * float(deviation[of_statistics[name]]) if name in of_statistics else 0.0
        figures.append(apart / _root_mean_square(change, missing).clamp_min(max(least, 1e-30)))
    for name, value in zip(made, torch.stack(figures).tolist(), strict=True):
        found[name] = value if math.isfinite(value) else math.inf
    order = sorted(found, key=lambda name: (-found[name], name))
    worst = {name: found[name] for name in order[:_NAMED]}
    return SelfCheck(found[order[0]], order[0], THRESHOLDS[precision], worst, precision=precision, **measured)


def _root_mean_square(values: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
    """Return that of what is not left out; not a number where everything is."""
    import torch

    return (torch.where(left_out, 0.0, values).square().sum() / (~left_out).sum()).sqrt()


def no_room_for_both(interface: Any, device: torch.device) -> str:
    """Return why a step of the model's own pass does not fit beside what is on the card, empty if it does."""
    import torch

    if device.type != "cuda":
        return ""
    gc.collect()
    torch.cuda.empty_cache()
    model = interface.model
    nodes = model.node_attributes.num_nodes[model._graph_name_data]
    needed = _OWN_PASS_BYTES[form_of(installed_version())] * nodes * model.num_channels
    free, _ = torch.cuda.mem_get_info(device)
    if needed <= free:
        return ""
    return f"the model's own pass needs about {needed / 1e9:.1f} GB, the card has {free / 1e9:.1f} GB free"


class PeakMemory:
    """Torch's peak of a card's memory while it is entered, MB of 1e6 bytes; None on a CPU."""

    def __init__(self, device: torch.device):
        self._on_card = device.type == "cuda"
        self.peak_mb: float | None = None

    def __enter__(self) -> Self:
        import torch

        if self._on_card:
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        if self._on_card:
            torch.cuda.synchronize()
            self.peak_mb = round(torch.cuda.max_memory_allocated() / 1e6, 1)
