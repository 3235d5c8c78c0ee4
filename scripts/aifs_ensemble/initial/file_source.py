"""Initial conditions from the user's own GRIB files, of any global grid that has weights.

One file for all members, files per member, or several files whose fields are put together. ERA5 (EDA)
GRIB works as it comes. What the files lack is only ever filled as ``initial_conditions.derive`` allows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import CONTROL, format_members
from aifs_ensemble.common.parameters import delivered, variable_name
from aifs_ensemble.fields.grib_reader import Location, decode, scan_file
from aifs_ensemble.initial import derive
from aifs_ensemble.initial.file_names import as_list, member_files
from aifs_ensemble.initial.source import Inputs, Regridder, Values, as_modelled, in_model_units, input_times

_BLOCK = 32  # fields decoded and interpolated at once: bounds memory


class FileSource:
    """Members of one cycle from GRIB files."""

    def __init__(self, config: Config):
        self.config = config
        settings = config.initial_conditions.file
        self.patterns, self.control = as_list(settings.path), as_list(settings.control)
        self.times = input_times(config)
        self.regridder = Regridder(config.model.grid, config.cache)

    @cached_property
    def _wanted(self) -> set[str]:
        allowed = self.config.initial_conditions.derive
        inputs = self.config.model.inputs
        return {*delivered(inputs), *derive.needed_for(inputs, allowed)}

    def paths(self, member: int) -> list[Path]:
        """Return a member's files; ConfigError for a placeholder that is not known."""
        return member_files(self.config, member)

    def prepare(self) -> dict[str, Any]:
        """Make the weights from the grid of the first member's files; return a record of it."""
        locations = self._usable(self.config.state_of(self.config.members[0]))
        grid, _ = decode(locations[0].read(), self._where(locations[0]))
        self.regridder.weights(grid)
        return {"source": {"kind": "file", "paths": self.patterns}, "interpolation": self.regridder.provenance}

    def read(self, member: int) -> Inputs:
        """Return one member's fields on the model's grid."""
        locations = self._usable(member)
        fields: dict[datetime, dict[str, Values]] = {time: {} for time in self.times}
        digest = hashlib.sha256()
        for start in range(0, len(locations), _BLOCK):
            block: dict[tuple[datetime, str], dict[str, Values]] = {}
            for location in locations[start : start + _BLOCK]:
                data = location.read()
                digest.update(hashlib.sha256(data).digest())
                grid, values = decode(data, self._where(location))
                time = self._slot(location)
                block.setdefault((time, grid), {}).update(
                    as_modelled(variable_name(location.header.field), in_model_units(location.header, values))
                )
            for (time, grid), on_grid in block.items():
                fields[time] |= self.regridder.to_model(grid, on_grid)
        names = sorted({location.path.name for location in locations})
        source = {"kind": "file", "files": names, "messages": len(locations), "sha256": digest.hexdigest()}
        return Inputs(fields, {"source": source, "interpolation": self.regridder.provenance})

    @staticmethod
    def _where(location: Location) -> str:
        return f"{location.path}: {location.header}"

    def _is_constant(self, location: Location) -> bool:
        return variable_name(location.header.field) in derive.constant_sources(self.config.model.constant)

    def _slot(self, location: Location) -> datetime:
        """Return the time for which a message is used: constants, whatever their date, for T."""
        return self.times[-1] if self._is_constant(location) else location.header.time

    def _usable(self, member: int) -> list[Location]:
        """Return the messages of one member, sorted by time and variable; InputError if they do not fit."""
        found = [location for path in self.paths(member) for location in scan_file(path)]
        named = [location for location in found if variable_name(location.header.field) in self._wanted]
        chosen = list(self._of_member(named, member))
        self._refuse_other_times(chosen, member)
        usable = [location for location in chosen if self._slot(location) in self.times]
        usable = _nearest_constants(usable, self._is_constant, self.times[-1])
        counts = Counter((self._slot(location), variable_name(location.header.field)) for location in usable)
        repeated = [f"{name} at {time:%Y-%m-%d %H} UTC" for (time, name), count in counts.items() if count > 1]
        if repeated:
            versions = sorted({location.header.expver for location in usable} - {""})
            told = f" (expver {' and '.join(versions)}: choose one)" if len(versions) > 1 else ""
            raise InputError(f"{self._files(member)}: more than one field of {', '.join(sorted(repeated)[:5])}{told}")
        if not usable:
            held = sorted({variable_name(location.header.field) for location in found})
            raise InputError(
                f"{self._files(member)}: none of {len(found)} messages is an input of the model; it has {_few(held)}"
            )
        return sorted(usable, key=lambda item: (self._slot(item), variable_name(item.header.field)))

    def _files(self, member: int) -> str:
        return ", ".join(map(str, self.paths(member)))

    def _of_member(self, locations: list[Location], member: int) -> Iterator[Location]:
        """Yield constants, and the fields of one member.

        A file of several members is searched by number; one of a single member is taken for this member
        where the path names the member, or where the file knows of no members. The control's fields may have no
        number beside members that have one.
        """
        moving = [location for location in locations if not self._is_constant(location)]
        numbers = {location.header.number for location in moving}
        own_file = self.paths(member) != self.paths(member + 1)
        single = len(numbers) == 1 and (own_file or None in numbers)
        number = None if member == CONTROL and not single and CONTROL not in numbers else member
        if numbers and not single and number not in numbers:
            held = format_members(found for found in numbers if found is not None)
            raise InputError(f"{self._files(member)}: no member {member}, found {held or 'no member numbers'}")
        for location in locations:
            if self._is_constant(location) or single or location.header.number == number:
                yield location

    def _refuse_other_times(self, locations: list[Location], member: int) -> None:
        times = sorted({location.header.time for location in locations if not self._is_constant(location)})
        absent = [time for time in self.times if time not in times]
        if absent and times:
            hours = sorted({int((later - times[0]).total_seconds() // 3600) for later in times[1:]})
            apart = f", {hours[0]} h apart" if len(times) == 2 else ""
            raise InputError(
                f"{self._files(member)}: no fields at {_spell(absent)}: the file has {_spell(times[:6])}{apart}, "
                f"expected both {_spell(self.times)} (6 h apart)"
            )


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _spell(times: Collection[datetime]) -> str:
    return " and ".join(f"{time:%Y-%m-%d %H} UTC" for time in times)


def _nearest_constants(locations: list[Location], is_constant: Any, time: datetime) -> list[Location]:
    """Return `locations` with one message per constant: that nearest in time to `time`, of the lowest member."""
    chosen: dict[str, Location] = {}
    others = []
    for location in locations:
        if not is_constant(location):
            others.append(location)
            continue
        name = variable_name(location.header.field)
        if name not in chosen or _distance(location, time) < _distance(chosen[name], time):
            chosen[name] = location
    return others + list(chosen.values())


def _distance(location: Location, time: datetime) -> tuple[float, int]:
    return abs((location.header.time - time).total_seconds()), location.header.number or 0
