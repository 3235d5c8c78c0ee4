"""Delivery of a member against google-cloud-storage's transfer_manager: the same files, the same emulator.

    PYTHONPATH=scripts:tests python benchmarks/sync.py --leads 12 --lead-mb 20 --repeats 5

Runs take turns, each to a fresh prefix. Ours also lists, verifies every checksum at the service, refuses to
overwrite, and leaves receipt and manifest; transfer_manager only sends. Processor seconds are those of the sender and
its processes, without the emulator's: on a busy machine they say more than the clock does.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aifs_ensemble.common.storage import TransferSettings, open_storage
from aifs_ensemble.delivery.member import deliver_member
from delivery.members import make_config, make_member
from doubles.gcs_server import gcs_server
from google.cloud import storage
from google.cloud.storage import transfer_manager


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--leads", type=int, default=12)
    parser.add_argument("--lead-mb", type=float, default=20)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder, gcs_server():
        print_table(measure(args, Path(folder)), args)
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return seconds and processor seconds of each run by way of sending."""

    def config(url: str):  # type: ignore[no-untyped-def]
        delivery = {"threads": args.threads}
        return make_config(folder, url, members="1", lead_hours=6 * args.leads, delivery=delivery)

    manifest = make_member(config("gs://ensembles/none"), 1, size=int(args.lead_mb * 1e6))
    leads = config("gs://ensembles/none").scratch.forecasts()
    names = [file.name for record in manifest.leads for file in (record.grib, record.index)]
    client = storage.Client()

    def theirs(prefix: str, worker: str, checksum: str | None) -> None:
        results = transfer_manager.upload_many_from_filenames(
            client.bucket("ensembles"),
            names,
            source_directory=str(leads),
            blob_name_prefix=f"{prefix}/",
            max_workers=args.threads,
            worker_type=worker,
            upload_kwargs={"checksum": checksum},
            raise_exception=True,
        )
        assert len(results) == len(names)

    def sending_only(prefix: str) -> None:
        destination = open_storage(f"gs://ensembles/{prefix}", TransferSettings(threads=args.threads))
        records = [file for record in manifest.leads for file in (record.grib, record.index)]
        with ThreadPoolExecutor(args.threads) as pool:
            list(pool.map(lambda file: destination.put_file(leads / file.name, file.name, crc32c=file.crc32c), records))

    ways: dict[str, Callable[[str], object]] = {
        "aifs-ensemble": lambda prefix: deliver_member(config(f"gs://ensembles/{prefix}"), 1),
        "aifs-ensemble, sending only": sending_only,
        "transfer_manager, threads": lambda prefix: theirs(prefix, transfer_manager.THREAD, None),
        "transfer_manager, threads, crc32c": lambda prefix: theirs(prefix, transfer_manager.THREAD, "crc32c"),
        "transfer_manager, processes": lambda prefix: theirs(prefix, transfer_manager.PROCESS, None),
    }
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for repeat in range(args.repeats + 1):
        for number, (way, send) in enumerate(ways.items()):
            prefix = f"{repeat}-{number}"
            began, processor = time.perf_counter(), processor_seconds()
            send(prefix)
            if repeat:  # the first warms up
                seconds[way].append((time.perf_counter() - began, processor_seconds() - processor))
            for blob in list(client.list_blobs("ensembles", prefix=f"{prefix}/")):
                blob.delete()
    return seconds


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def print_table(seconds: dict[str, list[tuple[float, float]]], args: argparse.Namespace) -> None:
    """Print medians, and the time of ours divided by theirs: below 1, ours is faster."""
    size = args.leads * args.lead_mb
    medians = {
        way: [statistics.median(figures) for figures in zip(*runs, strict=True)] for way, runs in seconds.items()
    }
    ours, _ = medians["aifs-ensemble"]
    print(
        f"{args.leads} leads of {args.lead_mb:g} MB and their indexes, {args.threads} at once, {args.repeats} runs each"
    )
    print(f"{'way':36}{'median s':>10}{'MB/s':>8}{'processor s':>13}{'time of ours':>14}")
    for way, (median, processor) in medians.items():
        print(f"{way:36}{median:10.2f}{size / median:8.0f}{processor:13.2f}{ours / median:14.2f}")


if __name__ == "__main__":
    sys.exit(main())
