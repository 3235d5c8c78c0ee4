"""Time and peak memory of initial conditions, and 50 members from the small replica of open data.

    python benchmarks/initial_conditions.py member --members 2
    python benchmarks/initial_conditions.py ensemble --replica FOLDER
    python benchmarks/initial_conditions.py accuracy --messages FOLDER

`member`: per member at 0.25 degrees to N320, everything downloaded from a server on loopback, each in a
process of its own (one core's worth of work, no GPU). The replica is made up: idealised fields with enough
noise that messages have the size of the real ones (0.5 MB at 12 bits); the real service's latency and
bandwidth are not in these figures, and the size downloaded is printed so that they can be added.
Beside it runs what users do now at its best: MIR, GRIB to GRIB, field by field, on some of the fields.

`ensemble`: 50 members from the replica of 4. Members 5 to 50 are relabelled mixtures of the four members'
differences from the control: enough to try 50 distinct members, no new weather.

`accuracy`: real messages at 0.25 degrees, read and interpolated to N320 here, against MIR GRIB to GRIB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

import eccodes  # noqa: E402
import numpy as np  # noqa: E402
from aifs_ensemble.common.config import Config  # noqa: E402
from aifs_ensemble.common.errors import InputError  # noqa: E402
from aifs_ensemble.common.names import parse_cycle  # noqa: E402
from aifs_ensemble.fields.grib_reader import decode, scan_file  # noqa: E402
from aifs_ensemble.fields.state import read_state  # noqa: E402
from aifs_ensemble.initial.build import build_member, prepare_cycle  # noqa: E402
from aifs_ensemble.initial.source import Regridder  # noqa: E402
from aifs_ensemble.initial.spread import ensemble_statistics  # noqa: E402
from doubles import opendata_replica  # noqa: E402
from doubles.opendata_server import serve  # noqa: E402

CYCLE = "20250819_0000"
USERS_SECONDS = 150  # per member, what users record today

MEASURED = """
import json, resource, sys, time
from pathlib import Path
from aifs_ensemble.common.config import Config
from aifs_ensemble.initial import build
config, member = Config(json.loads(sys.argv[1])), int(sys.argv[2])
start = time.perf_counter()
if not member:
    build.prepare_cycle(config)
else:
    build.build_member(config, member, config.scratch.initial(member))
# VmHWM, because ru_maxrss starts from that of the parent process
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
used = resource.getrusage(resource.RUSAGE_SELF)
seconds, cpu = time.perf_counter() - start, used.ru_utime + used.ru_stime
print(json.dumps({"seconds": seconds, "peak_mb": max(peak, child), "cpu": cpu}))
"""


def configuration(folder: Path, url: str, model: str, members: str) -> dict:
    """Return the raw configuration of a run from the server at `url`."""
    return {
        "model": model,
        "cycle": CYCLE,
        "members": members,
        "lead_hours": 6,
        "scratch": str(folder / "scratch"),
        "initial_conditions": {"source": "ecmwf-open-data", "ecmwf_open_data": {"sources": [url]}},
    }


def noisy_replica(folder: Path, members: int) -> Path:
    """Build the replica at 0.25 degrees with noise, 12 bits a value as in the real files."""
    plain, random = opendata_replica.encode, np.random.default_rng(0)
    noise = random.standard_normal(1440 * 721) * 2e-3

    def encode(variable, values, grid, when, **keys):
        if variable not in opendata_replica.MODEL.constant:
            values = values + noise * np.std(values)
            if variable.startswith(("q_", "tcw")):
                values = np.maximum(values, 0)
        return plain(variable, values, grid, when, **{"bitsPerValue": 12, **keys})

    opendata_replica.encode = encode
    try:
        return opendata_replica.build_replica(folder, parse_cycle(CYCLE), range(1, members + 1), "0.25x0.25")
    finally:
        opendata_replica.encode = plain


def measure(raw: dict, member: int) -> dict:
    """Run preparation (member 0) or one member in a process of its own; return seconds and peak memory."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-c", MEASURED, json.dumps(raw), str(member)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def mir_field_by_field(replica: Path, count: int) -> float:
    """Return seconds per field of MIR, GRIB to GRIB, its weights in its own cache after the first."""
    import mir

    files = sorted(replica.rglob("*enfo-ef.grib2"))
    seconds = []
    with tempfile.TemporaryDirectory() as folder, files[0].open("rb") as file:
        os.environ.setdefault("MIR_CACHE_PATH", folder)
        for index in range(count + 1):
            handle = eccodes.codes_grib_new_from_file(file)
            one, out = Path(folder) / f"{index}.grib2", Path(folder) / f"{index}-out.grib2"
            one.write_bytes(eccodes.codes_get_message(handle))
            eccodes.codes_release(handle)
            start = time.perf_counter()
            job = mir.Job()
            job.set("grid", "N320")
            job.execute(mir.GribFileInput(str(one)), mir.GribFileOutput(str(out)))
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def member_benchmark(args: argparse.Namespace, folder: Path) -> None:
    """Print the table of time and memory per member."""
    replica = args.replica or noisy_replica(folder / "replica", args.members)
    sizes = sum(path.stat().st_size for path in replica.rglob("*.grib2"))
    with serve(replica) as server:
        raw = configuration(folder, server.url, "aifs-ens-1.0", f"1-{args.members}")
        rows = [("once per cycle", measure(raw, 0))]
        for member in range(1, args.members + 1):
            before = server.bytes_sent
            rows.append((f"member {member}", measure(raw, member)))
        downloaded = (server.bytes_sent - before) / 1e6
        rows.append((f"member {args.members} again, all cached", measure(raw, args.members)))
    print(f"\nreplica {sizes / 1e6:.0f} MB; {downloaded:.0f} MB downloaded for a member")
    print(f"{'':34} {'s':>7} {'CPU s':>7} {'peak MB':>8} {'users / this':>13}")
    for name, found in rows:
        ratio = f"{USERS_SECONDS / found['seconds']:.0f}" if name.startswith("member") else ""
        print(f"{name:34} {found['seconds']:7.1f} {found['cpu']:7.1f} {found['peak_mb']:8.0f} {ratio:>13}")
    path = Config(raw).scratch.initial(1)
    start = time.perf_counter()
    state = read_state(path)
    total = float(state.fields[:, 0].sum())
    print(f"state {path.stat().st_size / 1e6:.0f} MB, read in {time.perf_counter() - start:.2f} s (sum {total:.6g})")
    per_field = mir_field_by_field(replica, 8)
    print(f"beside it: MIR GRIB to GRIB field by field {per_field:.2f} s a field, {176 * per_field:.0f} s for 176")


def extend(replica: Path, target: Path, members: int) -> None:
    """Copy the replica with members up to `members`, mixtures of the first four, relabelled."""
    shutil.copytree(replica, target)
    for index in sorted(target.rglob("*-enfo-ef.index")):
        grib = index.with_suffix(".grib2")
        entries = [json.loads(line) for line in index.read_text().splitlines()]
        data = bytearray(grib.read_bytes())
        messages = {}
        for entry in entries:
            key = entry["param"], entry.get("levelist"), int(entry.get("number", 0))
            messages[key] = (entry, bytes(data[entry["_offset"] : entry["_offset"] + entry["_length"]]))
        with grib.open("ab") as file, index.open("a") as lines:
            for name, level in sorted({key[:2] for key in messages}, key=str):
                four = [_values(messages[name, level, number][1]) for number in range(5)]
                for member in range(5, members + 1):
                    mix = np.random.default_rng(member).dirichlet(np.ones(4)) * 1.5
                    field = four[0] + sum(w * (one - four[0]) for w, one in zip(mix, four[1:], strict=True))
                    field = np.maximum(field, 0) if name in ("q", "tcw") else field
                    message = _relabelled(messages[name, level, 1][1], field, member)
                    entry = {**messages[name, level, 1][0], "number": str(member)}
                    entry |= {"_offset": file.tell(), "_length": len(message)}
                    file.write(message)
                    lines.write(json.dumps(entry) + "\n")


def _values(message: bytes) -> np.ndarray:
    handle = eccodes.codes_new_from_message(message)
    values = eccodes.codes_get_values(handle)
    eccodes.codes_release(handle)
    return values


def _relabelled(message: bytes, values: np.ndarray, member: int) -> bytes:
    handle = eccodes.codes_new_from_message(message)
    eccodes.codes_set(handle, "number", member)
    eccodes.codes_set_values(handle, values)
    content = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return content


def ensemble_benchmark(args: argparse.Namespace, folder: Path) -> None:
    """Print time and spread of 50 members."""
    extend(args.replica, folder / "replica", args.members)
    with serve(folder / "replica") as server:
        config = Config(configuration(folder, server.url, "demo", f"1-{args.members}"))
        start = time.perf_counter()
        prepare_cycle(config)
        paths = [config.scratch.initial(member) for member in config.members]
        for member, path in zip(config.members, paths, strict=True):
            build_member(config, member, path)
        seconds = time.perf_counter() - start
        requests, constants = len(server.log), sum("oper" in path for path, _ in server.log)
    table = ensemble_statistics(paths)
    print(f"{len(paths)} members in {seconds:.0f} s, {requests} requests, of which {constants} for constants and index")
    print(table.loc[["2t", "msl", "t_850", "z_500", "u_250", "q_850", "lsm"]].to_string())
    print(f"identical members: {table.attrs['duplicates'] or 'none'}")
    window = f"{config.cycle_time - timedelta(hours=6):%Y%m%d_%H%M} to {config.cycle}"
    print(f"times {window}")


def accuracy(args: argparse.Namespace, folder: Path) -> None:
    """Print the largest difference from MIR's own result, and what a shift by one point would make of it."""
    os.environ.setdefault("MIR_CACHE_PATH", str(folder))
    import mir

    regridder = Regridder("N320", folder)
    for path in sorted(args.messages.glob("*.grib2")):
        for location in scan_file(path):
            one, out = folder / "one.grib2", folder / "out.grib2"
            one.write_bytes(location.read())
            job = mir.Job()
            for key, value in (("grid", "N320"), ("interpolation", "linear"), ("accuracy", 24)):
                job.set(key, value)
            job.execute(mir.GribFileInput(str(one)), mir.GribFileOutput(str(out)))
            try:
                grid, values = decode(location.read(), str(location.header))
            except InputError as error:
                print(error)
                continue
            expected = decode(scan_file(out)[0].read(), "mir")[1]
            own, shifted = (regridder.to_model(grid, {"x": v})["x"] for v in (values, np.roll(values, 1)))
            found, wrong = np.abs(own - expected).max(), np.abs(shifted - expected).max()
            print(f"{location.header}: {grid}, range {np.ptp(expected):.4g}, off by {found:.2g}, shifted {wrong:.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["member", "ensemble", "accuracy"])
    parser.add_argument("--members", type=int)
    parser.add_argument("--replica", type=Path, help="a tree of open data (ensemble: needed; member: made when absent)")
    parser.add_argument("--messages", type=Path, help="folder of GRIB messages at 0.25 degrees (accuracy)")
    args = parser.parse_args()
    args.members = args.members or (2 if args.what == "member" else 50)
    if args.what == "ensemble" and args.replica is None:
        parser.error("ensemble: --replica is needed")
    if args.what == "accuracy" and args.messages is None:
        parser.error("accuracy: --messages is needed")
    with tempfile.TemporaryDirectory() as folder:
        {"member": member_benchmark, "ensemble": ensemble_benchmark, "accuracy": accuracy}[args.what](
            args, Path(folder)
        )


if __name__ == "__main__":
    main()
