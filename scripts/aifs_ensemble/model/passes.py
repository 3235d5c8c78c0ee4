"""The two forward passes of a model, its own and the accelerated one, and which of them its steps take.

Whatever goes wrong with the accelerated pass, from its making to the end of the first warm-up, leaves the model's own:
its parts stay where they are until the accelerated pass has shown that it works, and that it computes the same.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from aifs_ensemble.common.acceleration import FLOAT8, Acceleration
from aifs_ensemble.model import float8, known_classes
from aifs_ensemble.model.check_records import CheckRecords
from aifs_ensemble.model.forms import installed_version, network_class, unknown_version
from aifs_ensemble.model.network import NotAcceleratedError
from aifs_ensemble.model.numerics import Numerics
from aifs_ensemble.model.self_check import CHUNKS, PeakMemory, SelfCheck, compare_passes, no_room_for_both

LOG = logging.getLogger(__name__)
PARTS = ("encoder", "processor", "decoder")
# Of products by precision; those in float8 stand beside others of this type.
PRODUCT_TYPES = {"16": torch.float16, "bf16": torch.bfloat16, FLOAT8: torch.float16, "32": torch.float32}

Step = Callable[[], torch.Tensor]
Measure = Callable[[Step], None]
FallBack = Callable[[Acceleration], None]


def first_line(error: BaseException) -> str:
    """Return an error in one line: its kind and what it says first."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}"[:300] if said else type(error).__name__


class Passes:
    """A model's own pass and the accelerated one.

    Parameters
    ----------
    interface : an anemoi-models interface on its device
    own : use the model's own pass, for this reason
    known : what an earlier comparison of the two found
    on_fall_back : called when the accelerated pass is given up, before the model's own is compiled
    """

    def __init__(
        self,
        interface: Any,
        device: torch.device,
        numerics: Numerics,
        *,
        own: str = "",
        known: SelfCheck | None = None,
        on_fall_back: FallBack | None = None,
    ):
        self._interface, self._device, self._numerics = interface, device, numerics
        self._entrance = _entrance(interface)
        self._own_forward = self._entrance.forward
        self._on_fall_back = on_fall_back
        self._known = known
        set_chunks(numerics.chunks)
        not_asked = numerics.not_accelerated(device.type)
        check = known.to_json() if known and not not_asked else None
        self.acceleration = Acceleration(False, not_asked or own, asked=not not_asked, self_check=check)
        if self.acceleration.reason:
            self._compile_own()
        elif reason := self._reason_against():
            self.fall_back(reason)

    @property
    def accelerated(self) -> bool:
        """Whether steps take the accelerated pass."""
        return self.acceleration.accelerated

    @property
    def recorded(self) -> bool:
        """Whether the accelerated pass is a CUDA graph."""
        return self.accelerated and self._entrance.forward.recorded

    def record(self) -> None:
        """Record the accelerated pass as a CUDA graph, see `AcceleratedForward.record`."""
        self._entrance.forward.record()

    def _reason_against(self) -> str:
        """Make the accelerated pass and put it in place; return why not, empty if it is there."""
        if self._known is not None and not self._known.passed:
            return _differs(self._known)
        if reason := unknown_version(installed_version()):
            return reason
        try:
            if reason := known_classes.unknown_class(self._interface):
                return reason
            # where it cannot be imported, it cannot be used either
            from aifs_ensemble.model.accelerated import AcceleratedForward

            try:
                accelerated = AcceleratedForward(
                    self._interface.model,
                    PRODUCT_TYPES[self._numerics.precision],
                    chunks=self._numerics.chunks,
                    compiled=self._device.type == "cuda",
                    float8=float8.PRODUCTS if self._numerics.precision == FLOAT8 else (),
                )
                self._entrance.forward = accelerated
            except NotAcceleratedError as error:
                return str(error)
        except Exception as error:  # another version's names, sizes that a kernel cannot have, no memory: all the same
            return first_line(error)
        check = self.acceleration.self_check
        self.acceleration = Acceleration(True, self_check=check, attention=accelerated.attention)
        return ""

    def prove(
        self,
        step: Callable[[bool], torch.Tensor],
        inputs: torch.Tensor,
        records: CheckRecords | None,
        measure: Measure | None = None,
    ) -> None:
        """Make both kinds of step with the accelerated pass, and compare the first with the model's own.

        Parameters
        ----------
        step : makes a step, the first of a forecast or not, with whichever pass is in place
        inputs : of the step
        records : where the result of the comparison is kept; without, the passes are not compared
        measure : called with a step of the model's own pass, while it is in place
        """
        reason = self._disproved(step, inputs, records, measure)
        if reason:  # out of the handler: what the error's traceback holds is free by now
            self.fall_back(reason)
        else:
            self.keep_accelerated_only()

    def _disproved(
        self,
        step: Callable[[bool], torch.Tensor],
        inputs: torch.Tensor,
        records: CheckRecords | None,
        measure: Measure | None,
    ) -> str:
        """Return why the accelerated pass is not to be used, empty if nothing speaks against it."""
        try:
            found = step(True)
            step(False)
            if self._device.type == "cuda":
                torch.cuda.synchronize()  # what a kernel did wrong shows only now
        except Exception as error:
            return first_line(error)
        if self._known is not None:
            return ""
        if records is None:
            self.acceleration = replace(self.acceleration, unchecked="not asked for")
            return ""
        check, unchecked = self._compared(partial(step, True), found, inputs, measure)
        if check is None:
            LOG.warning("the accelerated pass is used without having been compared with the model's own: %s", unchecked)
            self.acceleration = replace(self.acceleration, unchecked=unchecked)
            return ""
        LOG.info("accelerated pass against the model's own: %s", check)
        records.write(check)
        self.acceleration = replace(self.acceleration, self_check=check.to_json())
        return "" if check.passed else _differs(check)

    def _compared(
        self, step: Step, found: torch.Tensor, inputs: torch.Tensor, measure: Measure | None
    ) -> tuple[SelfCheck | None, str]:
        """Return how far `found` is from a step of the model's own pass, or why that could not be made."""
        try:
            if reason := no_room_for_both(self._interface, self._device):
                return None, reason
            with self.own_in_place(), PeakMemory(self._device) as memory:
                own = step()
                if measure is not None:
                    measure(step)
            check = compare_passes(
                inputs[0, -1],
                own,
                found,
                self._interface,
                precision=self._numerics.precision,
                own_gpu_mb=memory.peak_mb,
                device=_name(self._device),
            )
        except Exception as error:
            return None, f"the model's own pass: {first_line(error)}"
        finally:
            self._free()
        return check, ""

    @contextmanager
    def own_in_place(self) -> Iterator[None]:
        """While it lasts steps take the model's own pass, not compiled, in as many chunks as spare memory."""
        accelerated = self._entrance.forward
        self._entrance.forward = self._own_forward
        set_chunks(max(self._numerics.chunks, CHUNKS) if self._device.type == "cuda" else self._numerics.chunks)
        try:
            yield
        finally:
            self._entrance.forward = accelerated
            set_chunks(self._numerics.chunks)

    def fall_back(self, reason: str) -> None:
        """Put the model's own pass in place, and say why."""
        LOG.warning("not accelerated, the model's own pass is used: %s", reason)
        self.acceleration = replace(self.acceleration, accelerated=False, reason=reason, asked=True, attention="")
        self._entrance.forward = self._own_forward
        self._free()
        if self._on_fall_back is not None:
            self._on_fall_back(self.acceleration)
        self._compile_own()

    def _compile_own(self) -> None:
        if self._numerics.compile:
            model = self._interface.model
            for part in compiled_parts(model):
                setattr(model, part, torch.compile(getattr(model, part), dynamic=False))

    def keep_accelerated_only(self) -> None:
        """Give the memory of the model's own parts back: the accelerated pass holds its own weights."""
        for part in PARTS:
            getattr(self._interface.model, part).to("meta")
        self._free()

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _entrance(interface: Any) -> Any:
    """Return the part of an interface whose ``forward`` a step calls; of a version that is not known it stays."""
    try:
        return network_class().entrance(interface)
    except NotAcceleratedError:
        return interface


def _differs(check: SelfCheck) -> str:
    return f"it differs from the model's own pass: {check}"


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def compiled_parts(model: Any) -> tuple[str, ...]:
    """Return the parts of a model's own pass that torch.compile speeds up.

    The mappers of anemoi-models 0.11 look up at every step which nodes a chunk needs: as many as there are, which
    torch.compile gives up on.
    """
    return ("processor",) if hasattr(model.encoder, "run_processor_chunk_edge_sharding") else PARTS


def set_chunks(chunks: int) -> None:
    """Set the mappers' chunks, which anemoi-models reads from the environment only when it is imported."""
    from anemoi.models.layers import block, mapper

    for module in (block, mapper):  # the latter from 0.7 on
        module.NUM_CHUNKS_INFERENCE_MAPPER = chunks
    block.NUM_CHUNKS_INFERENCE = chunks  # its name before 0.6
