"""The ensemble as one data set: seconds to make and to open it, and its size, of synthetic indexes.

    python benchmarks/cube.py                    50 members x 132 leads x all fields on N320, as AIFS ENS v1 has them
    python benchmarks/cube.py --tiny             2 x 4 on N32, a second or two: the smoke test of CI

One lead is encoded; every other is a link to it with an index of its own, so that 165 MB of indexes and 60 MB of fields
stand for 385 GB. Values are compared with ecCodes' own. CPU seconds are of this process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.names import index_file
from aifs_ensemble.common.parameters import bits_for, split_variable
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.fields.grib_encoder import FieldEncoder, output_spec
from aifs_ensemble.fields.grib_index import index_bytes, index_entry, read_fields
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.cube.open import open_virtual
from aifs_ensemble.products.cube.virtual import find_references, write_virtual
from aifs_ensemble.products.delivered_fields import DeliveredFields


class IndexedFields(DeliveredFields):
    """A member of which there are leads and indexes, and no manifest."""

    def __init__(self, config: Config, member: int, storage: Storage) -> None:
        self.config, self.member, self._storage, self._blocks = config, member, storage, {}
        self._points = grid_coordinates(config.model.grid).points
        self._index = lru_cache(8)(self._read_index)


def make_leads(config: Config) -> None:
    """Write a lead, and links to it with indexes for all others."""
    folder = Path(config.destination or "") / config.objects.folder("forecasts")
    folder.mkdir(parents=True)
    model, rng = config.model, np.random.default_rng(1)
    spec = output_spec(model, config.cycle, 1, ensemble_size=50, bits=bits_for(model.delivered))
    encoder, points = FieldEncoder(spec), grid_coordinates(model.grid)
    wave = np.sin(np.deg2rad(3 * points.longitudes)) * np.cos(np.deg2rad(points.latitudes))
    entries: list[tuple[str, int, int]] = []
    first = Path(config.destination or "") / config.objects.lead(config.members[0], config.leads[0])
    with open(first, "wb") as file:
        for variable in model.delivered:
            values = (wave + 0.01 * rng.standard_normal(points.points)).astype(np.float32)
            message = encoder.encode(variable, config.leads[0], values)
            entries.append((variable, file.tell(), len(message)))
            file.write(message)
    for member in config.members:
        own = output_spec(model, config.cycle, member, ensemble_size=50, bits=bits_for(model.delivered))
        for lead in config.leads:
            path = Path(config.destination or "") / config.objects.lead(member, lead)
            if path != first:
                os.link(first, path)
            index = index_bytes(index_entry(own, name, lead, offset, length) for name, offset, length in entries)
            path.with_name(index_file(path.name)).write_bytes(index)


def measure(config: Config) -> dict[str, Any]:
    """Return seconds, sizes and what was compared."""
    clock = _Clock()
    make_leads(config)
    clock.lap()
    storage = open_destination(config)
    members = [IndexedFields(config, member, storage) for member in config.members]
    references = find_references(config, members)
    found = {"indexes": clock.lap()}
    cycle = Path(config.destination or "") / config.cycle
    folder = cycle / "products" / "ensemble.icechunk"
    folder.mkdir(parents=True)
    write_virtual(config, references, storage, folder, {"title": "benchmark"})
    found["written"] = clock.lap()
    data = open_virtual(str(cycle))
    found["opened"] = clock.lap()
    for variable in config.model.delivered[:: max(1, len(config.model.delivered) // 12)]:
        _compare(config, data, variable)
    clock.lap()
    values = data["2t"].isel(step=0).to_numpy()
    found["all members of 2t at one lead"] = clock.lap()
    return {
        "references": int((references.places[..., 1] > 0).sum()),
        "terabytes referred to": data.nbytes / 1e12,
        "megabytes of the data set": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
        "files of the data set": sum(path.is_file() for path in folder.rglob("*")),
        "wall and CPU seconds": found,
        "fields read": len(values),
        "resident megabytes at most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def _compare(config: Config, data: Any, variable: str) -> None:
    """Raise AssertionError unless the last member's last lead has ecCodes' values."""
    name, level = split_variable(variable)
    chosen = data[name].isel(number=-1, step=-1)
    chosen = chosen.sel(isobaricInhPa=level) if level else chosen
    path = Path(config.destination or "") / config.objects.lead(config.members[-1], config.leads[-1])
    entry = json.loads(
        path.with_name(index_file(path.name)).read_text().splitlines()[config.model.delivered.index(variable)]
    )
    asked = {key: entry[key] for key in ("param", "levtype", "levelist") if key in entry}
    np.testing.assert_array_equal(chosen.to_numpy(), read_fields(path, **asked)[0])


class _Clock:
    def __init__(self) -> None:
        self._now = (time.perf_counter(), time.process_time())

    def lap(self) -> list[float]:
        """Return wall and CPU seconds since the last time."""
        before, self._now = self._now, (time.perf_counter(), time.process_time())
        return [round(now - then, 2) for now, then in zip(self._now, before, strict=True)]


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--leads", type=int, default=132)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    members, leads = (2, 4) if args.tiny else (args.members, args.leads)
    with tempfile.TemporaryDirectory(prefix="cube-") as work:
        raw = {
            "model": "demo" if args.tiny else "aifs-ens-1.0",
            "cycle": "20250819_0000",
            "members": f"1-{members}",
            "lead_hours": 6 * leads,
            "scratch": f"{work}/scratch",
            "destination": f"{work}/results",
            "initial_conditions": {"source": "idealised"},
        }
        print(json.dumps(measure(Config(raw)), indent=1))


if __name__ == "__main__":
    main()
