"""Weekly quintiles of an ensemble at N320, and a member's share beside the steps that users run today.

    python benchmarks/products.py                     50 members, and the users' steps on one 72 h block
    python benchmarks/products.py --members 3 --tiny  N32, a few seconds: the smoke test of CI

The members are synthetic: four leads of all variables are encoded, and each member's leads are links to them, under
names, indexes, receipt and manifest of their own. So every field is read and decoded, from the page cache.

Ours are the six weekly fields of every member (two weeks of a mean of 2t and of msl, and of the amount of tp), mean and
spread, probabilities of climatological quintiles and the files of a submission, by the functions that the rules call.

The users' steps are those of ``process_single_grib`` in ea-aifs: a 72 h block of 12 leads of all fields is opened,
interpolated, three variables are kept, and written. Their error at ``to_xarray`` on files with soil levels is avoided:
the three are chosen before it. The matrix is given locally. A member has five blocks of two weeks.

CPU seconds count, each in a process of its own; the largest resident memory is that of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

BLOCK_LEADS, BLOCKS = 12, 5


def make_config(folder: Path, members: int, *, tiny: bool) -> Any:
    """Return the configuration of a synthetic ensemble in a folder."""
    from aifs_ensemble.common.config import Config

    return Config(
        {
            "model": "demo" if tiny else "aifs-ens-1.0",
            "cycle": "20250819_0000",
            "members": f"1-{members}",
            "lead_hours": 792,
            "scratch": str(folder / "scratch"),
            "destination": str(folder / "results"),
            "initial_conditions": {"source": "idealised"},
            "forecast": {"device": "cpu"},
            "products": {
                "members": {"enabled": False},
                "weekly": {
                    "enabled": True,
                    "climatology": str(folder / "climatology"),
                    "team": "bench",
                    "submission_model": "bench",
                },
            },
        }
    )


def make_ensemble(config: Any, kinds: int = 4) -> None:
    """Write a delivered ensemble whose leads are links to `kinds` encoded ones."""
    from aifs_ensemble.common.files import crc32c_bytes, write_bytes
    from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest, write_member_manifest
    from aifs_ensemble.common.names import index_file, lead_file
    from aifs_ensemble.common.parameters import bits_for
    from aifs_ensemble.common.storage import open_destination
    from aifs_ensemble.common.storage.base import ObjectInfo
    from aifs_ensemble.delivery.member import Receipt
    from aifs_ensemble.delivery.receipt import receipt_bytes
    from aifs_ensemble.fields.encoder_process import publish
    from aifs_ensemble.fields.grib_encoder import FieldEncoder, output_spec
    from encoding import make_fields

    root, keys = Path(str(config.destination)), config.objects
    parts = root / "made"
    parts.mkdir(parents=True)
    bits = bits_for(config.model.delivered)
    spec = output_spec(config.model, config.cycle, 1, ensemble_size=50, bits=bits)
    fields, encoder, made = make_fields(spec), FieldEncoder(spec), []
    for kind in range(kinds):
        lead = 240 + 6 * kind
        turned = np.roll(fields, 1000 * kind, axis=1)
        messages = [
            np.frombuffer(bytes(encoder.encode(name, lead, turned[row])), np.uint8)
            for row, name in enumerate(spec.variables)
        ]
        made.append(publish(parts, spec, lead, messages))
    storage = open_destination(config)
    for member in config.members:
        records, objects = [], []
        for lead in config.leads:
            record = made[lead // 6 % kinds]
            name = lead_file(config.cycle, member, lead)
            target = root / keys.lead(member, lead)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(parts / record.grib.name, target)
            lines = (parts / record.index.name).read_text().splitlines()
            index = "".join(f"{json.dumps(_of_lead(json.loads(line), member, lead))}\n" for line in lines).encode()
            write_bytes(root / keys.index(member, lead), index)
            files = replace(record.grib, name=name), FileRecord(index_file(name), len(index), crc32c_bytes(index))
            records.append(LeadRecord(lead, files[0], files[1], record.messages))
            objects += [ObjectInfo(keys.published(file.name), file.size, file.crc32c, 1) for file in files]
        manifest = MemberManifest(
            model=config.model.name,
            untrained=True,
            cycle=config.cycle,
            member=member,
            ensemble_size=50,
            grid=config.model.grid,
            leads=tuple(records),
            timings={"total": 1.0},
        )
        digest = manifest.content_digest
        receipt = Receipt(member, config.cycle, storage.url, "leads", digest, tuple(objects))
        content = {**receipt.lasting(), "leads": [asdict(record) for record in records], "work": {}}
        (root / keys.receipt(member)).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(root / keys.receipt(member), receipt_bytes(content))
        write_member_manifest(root / keys.manifest(member), manifest)
    _make_climatology(config)


def _of_lead(entry: dict[str, Any], member: int, lead: int) -> dict[str, Any]:
    """Return a line of an index as of another member and lead."""
    step = f"0-{lead}" if "-" in str(entry["step"]) else str(lead)
    return {**entry, "step": step, "number": str(member)}


def _make_climatology(config: Any) -> None:
    """Write quantiles that any field falls between."""
    import xarray as xr
    from aifs_ensemble.products.climatology_names import climatology_path
    from aifs_ensemble.products.regular_grid import RegularGrid

    grid, middle = RegularGrid(config), {"tas": (280.0, 20.0), "mslp": (101100.0, 1000.0), "pr": (20.0, 15.0)}
    units = {"tas": "K", "mslp": "Pa", "pr": "kg m-2"}
    for name in config.products.weekly.variables:
        for period in config.periods:
            mean, step = middle[name]
            bounds = mean + step * np.array([-0.8, -0.3, 0.3, 0.8])[:, None, None] * np.ones((1, *grid.shape))
            data = xr.Dataset(
                {name: (("quantile", "latitude", "longitude"), bounds.astype("f4"), {"units": units[name]})},
                {
                    "quantile": [0.2, 0.4, 0.6, 0.8],
                    "latitude": grid.latitudes,
                    "longitude": grid.longitudes,
                },
            )
            path = climatology_path(config, name, period)
            path.parent.mkdir(parents=True, exist_ok=True)
            data.to_netcdf(path)


def ours(config: Any) -> None:
    """Make every member's weekly file, the ensemble's, the probabilities and the submission."""
    from aifs_ensemble.products.quantile_classes import write_quintiles, write_weekly_ensemble
    from aifs_ensemble.products.submission import submission_names
    from aifs_ensemble.products.weekly import write_weekly_file

    root, keys = Path(str(config.destination)), config.objects
    paths = [root / keys.weekly(member) for member in config.members]
    for member, path in zip(config.members, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_weekly_file(config, member, path)
    write_weekly_ensemble(config, paths, root / keys.product("weekly/ensemble.nc"))
    files = {name: root / keys.submission(name) for _, _, name in submission_names(config)}
    next(iter(files.values())).parent.mkdir(parents=True, exist_ok=True)
    write_quintiles(config, paths, root / keys.quintiles, files)


def users(config: Any, folder: Path) -> None:
    """Run the users' steps on one block of 12 leads."""
    import earthkit.data
    import earthkit.regrid
    from earthkit.regrid import db

    db.SYS_DB = db.MatrixDb(db.LocalAccessor(str(folder / "weights")))
    block = earthkit.data.from_source("file", str(folder / "block.grib"))
    grid = float(config.products.grid.partition("x")[0])
    regular = earthkit.regrid.interpolate(
        block, in_grid={"grid": config.model.grid}, out_grid={"grid": [grid, grid]}, method="linear"
    )
    kept = regular.sel(levtype="sfc", shortName=["2t", "msl", "tp"]).to_xarray(add_earthkit_attrs=False)
    kept.load().to_netcdf(folder / "users.nc")


def prepare_users(config: Any, folder: Path) -> None:
    """Write a block of 12 leads, and the matrix as earthkit-regrid keeps it."""
    import eccodes
    import scipy.sparse
    from aifs_ensemble.fields.interpolation import interpolation_weights

    root, keys = Path(str(config.destination)), config.objects
    with open(folder / "block.grib", "wb") as out:
        for lead in config.leads[72 : 72 + BLOCK_LEADS]:
            with open(root / keys.lead(1, lead), "rb") as file:
                while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
                    point = eccodes.codes_get(handle, "productDefinitionTemplateNumber") == 1
                    eccodes.codes_set(handle, "step" if point else "endStep", lead)
                    eccodes.codes_write(handle, out)
                    eccodes.codes_release(handle)
    found = interpolation_weights(config.model.grid, config.products.grid, config.cache, "linear")
    matrix = scipy.sparse.csr_matrix(found.matrix.astype("f8"))
    place = folder / "weights" / "mir_1_linear"
    place.mkdir(parents=True)
    scipy.sparse.save_npz(place / "m1.npz", matrix)
    step = float(config.products.grid.partition("x")[0])
    rows = int(180 / step) + 1
    entry = {
        "input": {"grid": config.model.grid},
        "output": {"grid": [step, step], "shape": [rows, matrix.shape[0] // rows]},
        "interpolation": {"engine": "mir", "version": "1", "method": "linear"},
    }
    (folder / "weights" / "index.json").write_text(json.dumps({"version": 1, "matrix": {"m1": entry}}))


def timed(what: str, folder: Path, arguments: Sequence[str]) -> dict[str, float]:
    """Run one part in a process of its own; return its CPU and wall seconds, without the imports, and memory in MB."""
    command = [sys.executable, __file__, "--part", what, "--folder", str(folder), *arguments]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def part(what: str, config: Any, folder: Path) -> None:
    """Run one part here, and print what it took."""
    import aifs_ensemble.products.quantile_classes
    import aifs_ensemble.products.weekly  # noqa: F401

    if what == "users":
        pass
    cpu, wall = time.process_time(), time.perf_counter()
    users(config, folder) if what == "users" else ours(config)
    # not ru_maxrss: that counts the parent's memory from before exec
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory = int(status["VmHWM"].split()[0]) / 1e3
    content = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "rss_mb": memory}
    print(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=50, help="members of the ensemble (default 50)")
    parser.add_argument("--tiny", action="store_true", help="the toy model's grid, N32")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=("ours", "users"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    arguments = ["--members", str(given.members), *(["--tiny"] if given.tiny else [])]
    if given.part:
        part(given.part, make_config(given.folder, given.members, tiny=given.tiny), given.folder)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        config = make_config(folder, given.members, tiny=given.tiny)
        make_ensemble(config)
        prepare_users(config, folder)
        theirs, mine = timed("users", folder, arguments), timed("ours", folder, arguments)
    fields = given.members * 2 * (28 + 28 + 2)
    print(
        f"ours: {given.members} members, {fields} fields read: {mine['cpu']:.1f} CPU s, {mine['wall']:.1f} s, "
        f"{mine['rss_mb']:.0f} MB"
    )
    print(
        f"users' steps on one block of {BLOCK_LEADS} leads: {theirs['cpu']:.1f} CPU s, {theirs['wall']:.1f} s, "
        f"{theirs['rss_mb']:.0f} MB"
    )
    print(f"a member: {BLOCKS * theirs['cpu'] / (mine['cpu'] / given.members):.0f} times the CPU seconds of ours")


if __name__ == "__main__":
    main()
