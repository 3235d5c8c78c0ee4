"""GRIB encoding: fields per second against ecCodes from float64, whole leads through the pool, packing errors.

    python benchmarks/encoding.py                       N320, all output variables, this machine's cores
    python benchmarks/encoding.py --tiny                N32, a second or two: the smoke test of CI
    python benchmarks/encoding.py --grib FILE           packing errors on the fields of a GRIB file (open data)

Three ways make one message of the same field, turn and turn about, the median counts. All is computation in one
thread, so CPU seconds are counted, which a busy machine disturbs least:
naive    a sample cloned, every key set, values converted to float64: what a simple writer does
reuse    a handle per variable kept, only step and values set, float64 as ecCodes needs it
ours     aifs_ensemble.fields.grib_encoder.FieldEncoder
coarse   what a coarse lead adds to ours, turn and turn about with it: 1.5 degrees, and 1 degree
Fields are sums of plane waves on the sphere with the slope of the atmosphere's kinetic energy spectrum, so that
they compress about as weather does; each parameter has its own mean, spread and shape.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.parameters import bits_for, split_variable
from aifs_ensemble.fields.coarse_encoder import CoarseEncoder
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.grib_encoder import (
    CoarseSpec,
    FieldEncoder,
    OutputSpec,
    grib_parameter,
    member_keys,
    output_spec,
)
from aifs_ensemble.fields.grids import Grid, grid_coordinates
from packing_error import measure_error

LEAD = 240
# Mean and standard deviation of what a model makes, in its units; sums from the start after ten days.
TYPICAL = {
    "t": (255, 15), "u": (5, 12), "v": (0, 10), "w": (0, 0.15), "q": (3e-3, 3e-3), "z": (5e4, 3e3),
    "10u": (0, 5), "10v": (0, 5), "100u": (0, 7), "100v": (0, 7), "2t": (280, 20), "2d": (275, 20), "skt": (281, 22),
    "stl1": (281, 20), "stl2": (281, 18), "msl": (101100, 1000), "sp": (96600, 9000), "tcw": (18, 15),
    "tcc": (0.6, 0.4), "lcc": (0.3, 0.4), "mcc": (0.3, 0.4), "hcc": (0.3, 0.4),
    "tp": (0.03, 0.05), "cp": (0.015, 0.03), "sf": (0.003, 0.01), "ro": (0.005, 0.02), "ssrd": (1.6e8, 6e7),
    "strd": (2.8e8, 6e7),
}  # fmt: skip
NOT_NEGATIVE = {"q", "tcw", "tp", "cp", "sf", "ro"}
ROUGH = {"w", "tp", "cp", "sf", "ro", "tcc", "lcc", "mcc", "hcc"}


def pattern(grid: Grid, seed: int, slope: float, waves: int = 200) -> np.ndarray:
    """Return a field of mean 0 and deviation 1, float32 ``(value,)``, with amplitudes falling as wave number**slope."""
    rng = np.random.default_rng(seed)
    latitude, longitude = np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes)
    level = np.cos(latitude)
    points = np.stack([level * np.cos(longitude), level * np.sin(longitude), np.sin(latitude)]).astype(np.float32)
    field = np.zeros(grid.points, np.float32)
    for number in np.geomspace(2, 320, waves):
        direction = rng.standard_normal(3).astype(np.float32)
        direction *= np.float32(number / np.linalg.norm(direction))
        field += np.float32(number**slope) * np.cos(direction @ points + np.float32(rng.uniform(0, 2 * np.pi)))
    return (field - field.mean()) / field.std()


def make_fields(spec: OutputSpec) -> np.ndarray:
    """Return fields for all variables, float32 ``(variable, value)``."""
    grid = grid_coordinates(spec.grid)
    # Geometric spacing has a wave per octave in equal number, so the slopes are those of amplitude per octave.
    smooth = [pattern(grid, seed, -1.0) for seed in range(4)]
    rough = [pattern(grid, 10 + seed, -0.3) for seed in range(4)]
    rows = []
    for number, variable in enumerate(spec.variables):
        name = split_variable(variable)[0]
        mean, deviation = TYPICAL[name]
        field = mean + deviation * (rough if name in ROUGH else smooth)[number % 4]
        if name in NOT_NEGATIVE:
            field = np.maximum(field, 0)
        if name.endswith("cc"):
            field = np.clip(field, 0, 1)
        rows.append(field.astype(np.float32))
    return np.array(rows)


def naive_writer(spec: OutputSpec) -> Callable[[str, np.ndarray], bytes]:
    """Return a writer that makes every message from a sample, all keys and float64."""

    def write(variable: str, values: np.ndarray) -> bytes:
        handle = eccodes.codes_grib_new_from_samples(f"reduced_gg_pl_{spec.grid[1:]}_grib2")
        parameter = grib_parameter(variable)
        template = {"productDefinitionTemplateNumber": 11 if variable in spec.accumulated else 1}
        for key, value in {**member_keys(spec), **template, "paramId": parameter.param_id, **parameter.keys}.items():
            eccodes.codes_set(handle, key, value)
        eccodes.codes_set(handle, "stepRange", spec.step_range(variable, LEAD))
        eccodes.codes_set(handle, "bitsPerValue", spec.bits[variable])
        eccodes.codes_set_values(handle, values.astype(np.float64) * parameter.factor)
        message = eccodes.codes_get_message(handle)
        eccodes.codes_release(handle)
        return message

    return write


def reuse_writer(spec: OutputSpec) -> Callable[[str, np.ndarray], bytes]:
    """Return a writer that keeps a handle per variable, as the first prototype of the pool did."""
    encoder, handles = FieldEncoder(spec, native=False), {}

    def write(variable: str, values: np.ndarray) -> bytes:
        if variable not in handles:
            handles[variable] = eccodes.codes_new_from_message(encoder.header(variable, LEAD))
        handle = handles[variable]
        eccodes.codes_set(handle, "stepRange", spec.step_range(variable, LEAD))
        eccodes.codes_set(handle, "bitsPerValue", spec.bits[variable])
        eccodes.codes_set_values(handle, values.astype(np.float64) * grib_parameter(variable).factor)
        return eccodes.codes_get_message(handle)

    return write


def time_fields(spec: OutputSpec, fields: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """Return CPU seconds per field of one process for each way, all variables, medians over repeats."""
    encoder = FieldEncoder(spec)
    ways: dict[str, Callable[[str, np.ndarray], Any]] = {
        "naive": naive_writer(spec),
        "reuse": reuse_writer(spec),
        "ours": lambda variable, values: encoder.encode(variable, LEAD, values),
    }
    for write in ways.values():
        for row, variable in enumerate(spec.variables):
            write(variable, fields[row])  # handles made, libraries loaded
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, write in ways.items():
            start = time.process_time()
            for row, variable in enumerate(spec.variables):
                write(variable, fields[row])
            seconds[name].append((time.process_time() - start) / len(spec.variables))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {"seconds": s, "fields_per_second": 1 / s, "times_naive": median["naive"] / s}
        for name, s in median.items()
    }


COARSE = (("1.5x1.5", "linear"), ("1.5x1.5", "grid-box-average"), ("1x1", "linear"), ("1x1", "grid-box-average"))


def time_coarse(spec: OutputSpec, fields: np.ndarray, repeats: int, cache: Path) -> list[dict[str, Any]]:
    """Return CPU seconds per field of one process: of its own message, and of the coarse one, by grid and method.

    Medians over repeats; ours is measured anew beside each way, so that the ratio is of the same minute.
    """
    ours, found = FieldEncoder(spec), []
    for grid, method in COARSE:
        wanted = CoarseSpec(grid, spec.variables, {"default": method}, str(cache))
        coarse = CoarseEncoder(dataclasses.replace(spec, coarse=wanted))
        own, added, size = [], [], 0
        for number in range(repeats + 1):  # the first makes handles and loads libraries
            seconds, size = [0.0, 0.0], 0
            for row, variable in enumerate(spec.variables):
                start = time.process_time()
                own_message = ours.encode(variable, LEAD, fields[row])
                between = time.process_time()
                message = np.frombuffer(coarse.encode(variable, LEAD, [fields[row]], own_message), np.uint8)
                coarse.index_keys(variable, message)
                seconds[0] += between - start
                seconds[1] += time.process_time() - between
                size += message.size
            if number:
                own.append(seconds[0] / len(spec.variables))
                added.append(seconds[1] / len(spec.variables))
        row = {"grid": grid, "method": method, "ours": statistics.median(own), "coarse": statistics.median(added)}
        ratios = [more / less for more, less in zip(added, own, strict=True)]
        found.append(row | {"ratio": statistics.median(ratios), "mb_per_lead": size / 1e6})
    return found


def time_pool(spec: OutputSpec, fields: np.ndarray, processes: int, leads: int, folder: Path) -> dict[str, float]:
    """Return seconds per lead through the pool in steady state: its processes warm, its slots always full.

    `copy` is the part that filling the slots took here, which on a GPU machine the card does.
    """
    spec = dataclasses.replace(spec, member=processes)
    copying, size = 0.0, 0
    with EncoderPool(spec, folder, processes) as pool:

        def send(lead: int) -> None:
            nonlocal copying
            slot = pool.acquire()
            start = time.perf_counter()
            slot.array[:] = fields
            copying += time.perf_counter() - start
            pool.submit(slot, lead)

        for lead in range(6, 6 * len(pool.buffer) + 1, 6):
            send(lead)
        pool.drain()
        copying, start = 0.0, time.perf_counter()
        for number in range(leads):
            send(LEAD + 6 * number)
            size += sum(record.grib.size for record in pool.completed())
        size += sum(record.grib.size for record in pool.drain())
        seconds = time.perf_counter() - start
    return {
        "processes": processes,
        "seconds_per_lead": seconds / leads,
        "fields_per_second": leads * len(spec.variables) / seconds,
        "copy_seconds_per_lead": copying / leads,
        "mb_per_lead": size / leads / 1e6,
    }


def read_fields(path: Path, spec: OutputSpec) -> dict[str, np.ndarray]:
    """Return the variables that a GRIB file holds (first of each), moved to the nearest points of the model's grid."""
    grid = grid_coordinates(spec.grid)
    names = {(grib_parameter(v).short_name, grib_parameter(v).level): v for v in spec.variables}
    found: dict[str, np.ndarray] = {}
    with open(path, "rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            short, level = eccodes.codes_get(handle, "shortName"), eccodes.codes_get(handle, "level")
            factor, short = (9.80665, "z") if short == "gh" else (1.0, short)
            variable = names.get((short, level), names.get((short, None)))
            if variable and variable not in found and eccodes.codes_get(handle, "gridType") == "regular_ll":
                ni, nj = eccodes.codes_get(handle, "Ni"), eccodes.codes_get(handle, "Nj")
                first = eccodes.codes_get(handle, "longitudeOfFirstGridPointInDegrees")
                values = eccodes.codes_get_values(handle).reshape(nj, ni) * factor / grib_parameter(variable).factor
                rows = np.rint((90 - grid.latitudes) / 180 * (nj - 1)).astype(int)
                columns = np.rint((grid.longitudes - first) % 360 / 360 * ni).astype(int) % ni
                found[variable] = values[rows, columns].astype(np.float32)
            eccodes.codes_release(handle)
    return found


def packing_errors(spec: OutputSpec, fields: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the largest error of each parameter over its levels, with the field's own deviation and its size."""
    encoder, rows = FieldEncoder(spec), {}
    for variable, values in fields.items():
        error = measure_error(encoder, variable, LEAD, values)
        name, previous = split_variable(variable)[0], rows.get(split_variable(variable)[0])
        if previous is None or error.largest > previous["largest"]:
            stored = 8 * error.bytes / encoder.points
            rows[name] = {
                "parameter": name,
                "bits": spec.bits[variable],
                "stored_bits": stored,
                "units": grib_parameter(variable).units,
                "largest": error.largest,
                "rms": error.rms,
                "rms_by_deviation": error.rms / error.deviation if error.deviation else 0.0,
                "variable": variable,
            }
    return list(rows.values())


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{result['grid']}, {result['variables']} fields, {result['bits']}, {result['machine']}")
    print(f"\n{'one process':<12} {'CPU ms':>10} {'fields/s':>9} {'x naive':>8}")
    for name, row in result["fields"].items():
        speed = f"{row['fields_per_second']:9.0f} {row['times_naive']:8.2f}"
        print(f"{name:<12} {1e3 * row['seconds']:10.2f} {speed}")
    print(f"\n{'coarse lead':<26} {'ours, CPU ms':>12} {'added':>7} {'ratio':>7} {'MB a lead':>10}")
    for row in result["coarse"]:
        name = f"{row['grid']} {row['method']}"
        print(f"{name:<26} {1e3 * row['ours']:12.2f} {1e3 * row['coarse']:7.2f} {row['ratio']:7.1%} "
              f"{row['mb_per_lead']:10.2f}")  # fmt: skip
    print(f"\n{'pool of':<12} {'s a lead':>10} {'fields/s':>9} {'MB a lead':>10} {'s copying':>11}")
    for row in result["pool"]:
        speed = f"{row['seconds_per_lead']:10.3f} {row['fields_per_second']:9.0f}"
        print(f"{row['processes']:<12} {speed} {row['mb_per_lead']:10.1f} {row['copy_seconds_per_lead']:11.3f}")
    print(
        f"\n{'parameter':<10} {'bits':>4} {'stored':>7} {'largest error':>14} {'rms error':>10} {'/ deviation':>11}  at"
    )
    for row in result["errors"]:
        numbers = f"{row['largest']:14.3g} {row['rms']:10.3g} {row['rms_by_deviation']:11.2g}"
        where = f"{row['variable']} {row['units']}"
        print(f"{row['parameter']:<10} {row['bits']:>4} {row['stored_bits']:7.2f} {numbers}  {where}")


def main() -> None:
    """Run the benchmark."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="N32, few repeats")
    parser.add_argument("--bits", type=int, help="the same bits for all (default: config/parameters.yaml)")
    parser.add_argument("--processes", type=int, nargs="+", default=sorted({1, max(1, cores // 2), cores}))
    parser.add_argument("--leads", type=int, default=10, help="leads timed through the pool")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where leads go (default: a temporary folder)")
    parser.add_argument("--cache", type=Path, help="where interpolation weights are kept (default: made each time)")
    parser.add_argument("--grib", type=Path, nargs="+", default=[], help="fields for the packing errors")
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    model = get_model("demo" if args.tiny else "aifs-ens-1.0")
    bits = dict.fromkeys(model.delivered, args.bits) if args.bits else bits_for(model.delivered)
    spec = output_spec(model, "20250819_0000", 1, ensemble_size=50, bits=bits)
    fields = make_fields(spec)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        coarse = time_coarse(spec, fields, 2 if args.tiny else args.repeats, args.cache or Path(folder) / "cache")
        pool = [
            time_pool(spec, fields, n, 2 if args.tiny else args.leads, Path(folder) / str(n)) for n in args.processes
        ]
    real = {v: f for path in args.grib for v, f in read_fields(path, spec).items()}
    result = {
        "grid": spec.grid,
        "variables": len(spec.variables),
        "bits": f"{args.bits} bits" if args.bits else "bits of config/parameters.yaml",
        "machine": f"{cores} cores of {platform.processor() or platform.machine()}",
        "ecCodes": eccodes.codes_get_api_version(),
        "fields": time_fields(spec, fields, 2 if args.tiny else args.repeats),
        "coarse": coarse,
        "pool": pool,
        "errors": packing_errors(spec, real or dict(zip(spec.variables, fields, strict=True))),
    }
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
