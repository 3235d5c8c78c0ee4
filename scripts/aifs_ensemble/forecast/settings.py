"""The settings that decide a member's bytes, and what a member was made with against what is asked for.

Only what a configuration decides everywhere alike is compared: not the device, nor versions, nor digests of files
that this machine may not have. Anything that the record does not say agrees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from aifs_ensemble.common.areas import Box
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.daily import LeadField, lead_fields
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.names import STATE_OF
from aifs_ensemble.common.parameters import bits_for
from aifs_ensemble.model.numerics import Numerics

_IDEALISED = ("seed", "amplitude")


@dataclass(frozen=True)
class ForecastSettings(Numerics):
    """Settings of the configuration's section ``forecast`` that decide a member's bytes: the only list of them.

    Attributes
    ----------
    packing : bits per value over those of the parameter table, by parameter or variable
    accumulate : ``from_start`` or ``per_step``, over which time accumulated variables are sums
    """

    packing: Mapping[str, int] = field(default_factory=dict)
    accumulate: str = "from_start"

    def bits(self, model: Model) -> dict[str, int]:
        """Return the bits per value of each output variable; ConfigError for overrides that fit none."""
        return bits_for(model.delivered, self.packing)

    def record(self, model: Model) -> dict[str, Any]:
        """Return the settings as a manifest holds them, JSON-compatible: `packing` has every variable of the model."""
        return {**asdict(self), "packing": self.bits(model)}


def _asked(config: Config) -> tuple[dict[str, Any], dict[str, int]]:
    """Return what a configuration asks of a member but for its source, and the bits per value."""
    asked = ForecastSettings.of(config).record(config.model)
    bits = asked.pop("packing")
    model = {"model": config.model.name, "grid": config.model.grid, "ensemble_size": config.ensemble_size}
    return {**model, **asked}, bits


def _source_settings(config: Config) -> dict[str, Any]:
    """Return the settings of the source that decide its fields."""
    initial = config.initial_conditions
    return {key: getattr(initial.idealised, key) for key in _IDEALISED} if initial.source == "idealised" else {}


def settings_digest(config: Config) -> str:
    """Return a digest of what `member_differences` compares: with another one, members do not agree."""
    initial = config.initial_conditions
    source: list[Any] = [initial.source, _source_settings(config)]
    if initial.members_per_state > 1:
        source.append(initial.members_per_state)
    if config.output_variables != config.model.delivered:
        source.append(config.output_variables)
    if config.daily or config.area:
        source += [config.daily, config.area]
    return sha256(json.dumps([*_asked(config), source], sort_keys=True).encode()).hexdigest()[:16]


def member_differences(config: Config, manifest: MemberManifest) -> list[str]:
    """Return how a member differs from what is asked for, e.g. ``precision bf16, not 32``."""
    settings = manifest.settings
    made = {**settings, "model": manifest.model, "grid": manifest.grid, "ensemble_size": manifest.ensemble_size}
    asked, bits = _asked(config)
    pairs = [(name, made.get(name), want) for name, want in asked.items()]
    found = [f"{name} {_plain(have)}, not {_plain(want)}" for name, have, want in pairs if have not in (None, want)]
    if not found and settings.get("packing"):
        other = sorted(name for name, have in settings["packing"].items() if bits.get(name) != have)
        found += [f"packing of {name} {settings['packing'][name]} bits, not {bits.get(name)}" for name in other[:1]]
    return (
        found
        + _output_differences(config, manifest)
        + source_differences(config, manifest.initial_conditions, manifest.member)
    )


def variables_of(model: Model, manifest: MemberManifest) -> tuple[str, ...]:
    """Return the variables that a member's leads hold, in the model's order."""
    made = manifest.settings.get("output")
    return model.delivered if made is None else tuple(name for name in model.delivered if name in made)


def area_of(manifest: MemberManifest) -> Box | None:
    """Return north, west, south and east of what a member's leads hold of the globe, None for all of it."""
    area: Sequence[Any] = manifest.settings.get("area") or ()
    if len(area) != 4 or not all(isinstance(edge, int | float) for edge in area):
        return None
    return (area[0], area[1], area[2], area[3])


def daily_of(manifest: MemberManifest) -> tuple[LeadField, ...]:
    """Return the daily statistics that a member's leads hold."""
    return lead_fields(manifest.settings.get("daily") or ())


def _output_differences(config: Config, manifest: MemberManifest) -> list[str]:
    """Return which fields a member's leads lack; or that leads beside them, of other fields, are asked for.

    Fields and leads more than asked for are fine.
    """
    made, asked = variables_of(config.model, manifest), config.output_variables
    days, wanted = daily_of(manifest), config.daily
    if lacking := [*(name for name in asked if name not in made), *(str(one) for one in wanted if one not in days)]:
        more = f" and {len(lacking) - 1} more variables" if len(lacking) > 1 else ""
        return [f"no {lacking[0]}{more} in its leads (forecast.output)"]
    area = area_of(manifest)
    other_area = f"leads of {_box(area)}, not of {_box(config.area)} (forecast.output.area)"
    if area not in (None, config.area):
        return [other_area]
    if set(config.leads) - {record.lead for record in manifest.leads}:
        if made != asked:
            return [f"{len(made)} variables in its leads, not {len(asked)} (forecast.output), and lacks leads"]
        if area != config.area:
            return [f"{other_area}, and lacks leads"]
        if days != wanted:
            return [f"{len(days)} daily statistics in its leads, not {len(wanted)} (forecast.output), and lacks leads"]
    return []


def _box(area: Box | None) -> str:
    return "the globe" if area is None else "/".join(f"{edge:g}" for edge in area)


def source_differences(config: Config, provenance: Mapping[str, Any], member: int | None = None) -> list[str]:
    """Return how the source of an initial state differs from the one asked for; converted pickles serve any.

    With `member`, so does a state of the source that another member shares, or no longer shares.
    """
    source = provenance.get("source")
    if not isinstance(source, Mapping):  # it does not say
        return []
    kind, asked = source.get("kind"), config.initial_conditions.source
    if kind in (None, "pickle"):
        return []
    if kind != asked:
        return [f"initial conditions {kind}, not {asked}"]
    wanted = _source_settings(config)
    if member is not None:
        source = {STATE_OF: member, **source}
        wanted |= {STATE_OF: config.state_of(member)}
    return [
        f"initial conditions' {key} {source[key]}, not {want}"
        for key, want in wanted.items()
        if source.get(key, want) != want
    ]


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
