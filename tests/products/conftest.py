"""A delivered ensemble of real GRIB messages, which tests read products from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.fields.grib_encoder import OutputSpec, output_spec
from delivery.members import finish_member, make_config
from fields.members import make_fields, write_member

MEMBERS, HOURS = (1, 2, 3), 48
PRODUCTS: dict[str, Any] = {
    "members": {"enabled": True},
    "weekly": {"enabled": True, "hours": 24, "periods": [12, 24]},
}


def spec_of(config: Config, member: int) -> OutputSpec:
    """Return what a member's leads are made with."""
    bits = dict.fromkeys(config.model.delivered, 16)
    return output_spec(
        config.model, config.cycle, member, ensemble_size=50, bits=bits, accumulate=config.forecast.accumulate
    )


def true_fields(config: Config, member: int, lead: int) -> dict[str, np.ndarray]:
    """Return the fields that went into a lead, by variable, in GRIB's units; packing changes them a little."""
    spec = spec_of(config, member)
    fields = make_fields(spec, lead)
    return {name: field * parameter_of(name).factor for name, field in zip(spec.variables, fields, strict=True)}


def make_ensemble(scratch: Path, destination: str, **over: Any) -> Config:
    """Make and deliver three members of 48 hours."""
    over = {"members": "1-3", "lead_hours": HOURS, "products": PRODUCTS, **over}
    config = make_config(scratch, destination, **over)
    for member in config.members:
        folder = config.scratch.work(member) / "leads"
        folder.mkdir(parents=True)
        records = write_member(spec_of(config, member), folder, config.leads)
        finish_member(config, member, sorted(records, key=lambda record: record.lead))
        deliver_member(config, member)
    return config


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path) -> Config:
    """Three members in a folder. Don't change them."""
    folder = tmp_path_factory.mktemp("products")
    cache = {"initial_conditions": {"source": "idealised", "cache": str(weights_cache)}}
    return make_ensemble(folder / "scratch", str(folder / "results"), **cache)
