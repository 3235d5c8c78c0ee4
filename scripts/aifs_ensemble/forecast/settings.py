"""What a member or an initial state was made with, against what the configuration asks for.

Only what a configuration decides everywhere alike is compared: not the device, nor versions, nor digests of files
that this machine may not have. Anything that the record does not say agrees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import digest
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.parameters import bits_for
from aifs_ensemble.forecast.work_folder import KnownFile
from aifs_ensemble.model import noise

if TYPE_CHECKING:
    from aifs_ensemble.forecast.request import ForecastRequest

_FORECAST = ("precision", "compile", "deterministic", "chunks", "accumulate")
_IDEALISED = ("seed", "amplitude")


def _asked(config: Config) -> dict[str, Any]:
    """Return what a configuration asks of a member, but for packing and source."""
    return {
        "model": config.model.name,
        "grid": config.model.grid,
        "ensemble_size": config["ensemble_size"],
        **{key: config["forecast"][key] for key in _FORECAST},
    }


def _bits(config: Config) -> dict[str, int]:
    return bits_for(config.model.outputs, config["forecast"]["packing"])


def _source_settings(config: Config) -> dict[str, Any]:
    """Return the settings of the source that decide its fields."""
    initial = config["initial_conditions"]
    return {key: initial["idealised"][key] for key in _IDEALISED} if initial["source"] == "idealised" else {}


def settings_digest(config: Config) -> str:
    """Return a digest of what `member_differences` compares: with another one, members do not agree."""
    source = [config["initial_conditions"]["source"], _source_settings(config)]
    return sha256(json.dumps([_asked(config), _bits(config), source], sort_keys=True).encode()).hexdigest()[:16]


def member_differences(config: Config, manifest: MemberManifest) -> list[str]:
    """Return how a member differs from what is asked for, e.g. ``precision bf16, not 32``."""
    settings = manifest.settings
    told = {**settings, "model": manifest.model, "grid": manifest.grid, "ensemble_size": manifest.ensemble_size}
    pairs = [(name, told.get(name), want) for name, want in _asked(config).items()]
    found = [f"{name} {_plain(have)}, not {_plain(want)}" for name, have, want in pairs if have not in (None, want)]
    if not found and settings.get("packing"):
        bits = _bits(config)
        other = sorted(name for name, have in settings["packing"].items() if bits.get(name) != have)
        found += [f"packing of {name} {settings['packing'][name]} bits, not {bits.get(name)}" for name in other[:1]]
    return found + source_differences(config, manifest.initial_conditions)


def source_differences(config: Config, provenance: Mapping[str, Any]) -> list[str]:
    """Return how the source of an initial state differs from the one asked for; converted pickles serve any."""
    source = provenance.get("source") or {}
    kind, asked = source.get("kind"), config["initial_conditions"]["source"]
    if kind in (None, "pickle"):
        return []
    if kind != asked:
        return [f"initial conditions {kind}, not {asked}"]
    return [
        f"initial conditions' {key} {source[key]}, not {want}"
        for key, want in _source_settings(config).items()
        if source.get(key, want) != want
    ]


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _settings(request: ForecastRequest, files: Mapping[str, KnownFile], device: str) -> dict[str, Any]:
    """Return everything that decides the content of the leads, JSON-compatible."""
    model = request.model
    return {
        "model": model.name,
        "grid": model.grid,
        "cycle": request.cycle,
        "member": request.member,
        "ensemble_size": request.ensemble_size,
        "checkpoint": files["checkpoint"].sha256,
        "initial_state": files["initial_state"].sha256,
        "variables": digest({"outputs": model.outputs, "accumulated": model.accumulated, "name": model.grib_model}),
        "seed": noise.SCHEME,
        "device": device,
        "precision": request.precision,
        "compile": request.compile,
        "deterministic": request.deterministic,
        "chunks": request.chunks,
        "packing": request.bits,
        "accumulate": request.accumulate,
    }
