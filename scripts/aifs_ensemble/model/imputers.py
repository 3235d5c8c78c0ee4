"""Imputers of anemoi-models without a wait for the device.

An imputer fills in missing values of the input before a step and takes them out of the output after it. That of
anemoi-models writes by masks, which makes the host ask the device how many values there are, once a variable and step,
and keeps a mask for training that nothing reads here. What stands in for it chooses between two values everywhere: the
same bits, and the host runs ahead.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from aifs_ensemble.model.forms import form_of, installed_version

_CONSTANT = frozenset({"InputImputer", "ConstantImputer"})
_COPIED = frozenset({"CopyImputer"})
_DYNAMIC = frozenset({"DynamicInputImputer", "DynamicConstantImputer", "DynamicCopyImputer"})
KNOWN = _CONSTANT | _COPIED | _DYNAMIC
_MODULE = "anemoi.models.preprocessing.imputer"


class WaitFreeImputer(nn.Module):
    """Stands in for one of anemoi-models' imputers, in inference.

    Places, masks and their quirks are those of the versions. In 0.6.0 the mask is that of the first time of the input,
    looked up by a variable's place in the training data. In 0.11 (`each_time`) each time has its own, and what is taken
    out of the output is that of the first. A copying imputer of 0.6.0 keeps the first mask it ever made. A dynamic one
    masks every time by itself and leaves the output alone.
    """

    def __init__(self, imputer: Any, *, each_time: bool = False):
        super().__init__()
        self.imputer = imputer
        self._kind = type(imputer).__name__
        self._each_time = each_time
        # whether a value is missing where it is missing itself, rather than where it is at the first time
        self._by_itself = each_time or self._kind in _DYNAMIC
        self._missing: Tensor | None = None
        self._checked = False
        self._columns: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def forward(self, x: Tensor, in_place: bool = True, inverse: bool = False) -> Tensor:
        """Fill in what is missing of ``x (..., value, variable)``, or with `inverse` take it out again."""
        if inverse and self._kind in _DYNAMIC:
            return x if in_place else x.clone()
        if not inverse and "Copy" in self._kind:
            return self._copy_in(x if in_place else x.clone())
        made = self._taken_out(x) if inverse else self._filled_in(x)
        return x.copy_(made) if in_place else made

    def _filled_in(self, x: Tensor) -> Tensor:
        places, missing = self._places_read(x), self._look(x)
        sources = places if self._by_itself else self.imputer.index_training_input
        return self._put(x, places, self.imputer.replacement, missing, sources)

    def _taken_out(self, x: Tensor) -> Tensor:
        places, original = self._places_made(x), self.imputer
        sources = original.index_inference_input if self._each_time else original.index_training_input
        assert self._missing is not None
        return self._put(x, places, None, self._missing, sources)

    def _put(self, x: Tensor, places: Any, numbers: Iterable[Any] | None, missing: Tensor, sources: Any) -> Tensor:
        """Return `x` with `numbers` at `places` where `missing` is true at `sources`, in one pass over all variables.

        Without numbers it is NaN that is put there.
        """
        key = (numbers is None, x.shape[-1], x.dtype, x.device)
        if key not in self._columns:
            values = torch.zeros(x.shape[-1], dtype=x.dtype, device=x.device)
            put = torch.zeros(x.shape[-1], dtype=torch.bool, device=x.device)
            source_of = torch.zeros(x.shape[-1], dtype=torch.int64, device=x.device)
            numbers = repeat(torch.nan) if numbers is None else numbers
            for source, place, number in zip(sources, places, numbers, strict=False):
                if source is not None and place is not None:
                    put[place], source_of[place], values[place] = True, source, number
            self._columns[key] = put, source_of, values
        put, source_of, values = self._columns[key]
        if sources is not places:
            missing = missing.index_select(1, source_of)
        return torch.where(missing & put, values, x)

    def _look(self, x: Tensor) -> Tensor:
        """Return where values count as missing: of all of ``x``, or of its first time; what is taken out later is kept.

        An imputer of 0.6.0 that copies keeps the first that it ever saw.
        """
        first = (0,) * (x.ndim - 2)
        if self._each_time:
            missing = torch.isnan(x)
            trained = x.shape[-1] == self.imputer.num_training_input_vars
            kept = self.imputer.data_indices.data.input.full if trained else slice(None)
            self._missing = missing[first][:, kept]
            return missing
        if self._by_itself:
            return torch.isnan(x)
        if self._missing is None or self._kind not in _COPIED:
            self._missing = torch.isnan(x[first])
        return self._missing

    def _places_read(self, x: Tensor) -> Any:
        original = self.imputer
        read = original.index_inference_input if x.shape[-1] == original.num_inference_input_vars else None
        places = original.index_training_input if x.shape[-1] == original.num_training_input_vars else read
        if places is None:
            raise ValueError(
                f"imputer: {x.shape[-1]} variables, expected {original.num_training_input_vars} or "
                f"{original.num_inference_input_vars}"
            )
        return places

    def _places_made(self, x: Tensor) -> Any:
        original = self.imputer
        made = original.index_inference_output if x.shape[-1] == original.num_inference_output_vars else None
        places = original.index_training_output if x.shape[-1] == original.num_training_output_vars else made
        if places is None or self._missing is None:
            raise ValueError(
                f"imputer: {x.shape[-1]} variables, expected {original.num_training_output_vars} or "
                f"{original.num_inference_output_vars}, after an input"
            )
        return places

    def _copy_in(self, x: Tensor) -> Tensor:
        """Fill in, one variable after another: what is copied may have been filled in before."""
        original, places, missing = self.imputer, self._places_read(x), self._look(x)
        for source, place, name in zip(original.index_training_input, places, original.replacement, strict=False):
            if place is None:
                continue
            mask = missing[..., place] if self._by_itself else missing[:, source].expand(*x.shape[:-2], -1)
            copied = x[..., self._place_of(name, places)]
            # the original asks at every step, and waits; what is not finite later on stops the member anyway
            if not self._checked and bool(torch.isnan(copied[mask]).any()):
                raise ValueError(f"imputer: values are missing in {name} too, from which they are copied")
            x[..., place] = torch.where(mask, copied, x[..., place])
        self._checked = True
        return x

    def _place_of(self, name: str, places: Any) -> int:
        if self._kind in _COPIED:
            return int(self.imputer.data_indices.data.input.name_to_index[name])
        training = places is self.imputer.index_training_input
        indices = self.imputer.data_indices.data.input if training else self.imputer.data_indices.model.input
        return int(indices.name_to_index[name])


def without_waits(interface: Any) -> list[str]:
    """Put `WaitFreeImputer` in the place of each imputer of an anemoi-models interface; return their names.

    Pre- and post-processors share an imputer, and share what stands in for it. Those of versions that are not known
    stay.
    """
    form = form_of(installed_version())
    if not form:
        return []
    replaced: dict[int, WaitFreeImputer] = {}
    names = []
    for processors in (interface.pre_processors.processors, interface.post_processors.processors):
        for name, processor in processors.items():
            kind = type(processor)
            if kind.__name__ in KNOWN and kind.__module__ == _MODULE:
                if id(processor) not in replaced:
                    names.append(name)
                stand_in = WaitFreeImputer(processor, each_time=form == "0.11")
                processors[name] = replaced.setdefault(id(processor), stand_in)
    return names


def filled_in(interface: Any) -> set[str]:
    """Return the variables of the input whose missing values the imputers of an interface fill in."""
    names = {place: name for name, place in interface.data_indices.model.input.name_to_index.items()}
    found: set[str] = set()
    for processor in interface.pre_processors.processors.values():
        places = getattr(getattr(processor, "imputer", processor), "index_inference_input", None)
        found.update(names[place] for place in places or () if place is not None)
    return found
