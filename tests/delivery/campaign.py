"""The fault campaign: one member's delivery under seeded schedules of faults and kills.

Each schedule draws a way of delivering (after the forecast, or streaming beside it), a layout, sizes, a rate of
faults on the network and up to four kills, of which some take the machine's scratch with them. A kill comes some
milliseconds after a drawn number of requests (of files, where a folder is delivered to), so that it finds the
delivery at work however fast the machine is. The delivery is started again after each until it ends. Some that stream
then lose scratch and the manifest at the destination, as when Snakemake clears up after another member of the group,
and are started once more. In the end the destination must equal the source byte for byte, and nothing else may be
there. A command too:

    PYTHONPATH=scripts:tests python -m delivery.campaign --schedules 240
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.files import read_json, write_bytes, write_json
from aifs_ensemble.common.manifest import LeadRecord, read_member_manifest
from aifs_ensemble.common.names import lead_name
from aifs_ensemble.common.storage import Storage, TransferSettings, open_storage
from aifs_ensemble.delivery.blocks import make_blocks
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.restore import restore_member
from aifs_ensemble.delivery.streaming import StreamingDelivery
from aifs_ensemble.forecast.work_folder import WorkFolder
from doubles.gcs_fault_proxy import FaultProxy, Schedule, fault_proxy
from doubles.gcs_server import gcs_server

from delivery.members import finish_member, make_config, publish_lead

MEMBER = 1
STARTS = 30
SETTINGS = TransferSettings(
    threads=4, resumable_above=256 << 10, chunk=256 << 10, deadline=20.0, backoff=0.01, backoff_most=0.05
)


@dataclass(frozen=True)
class Kill:
    """When a start is killed: so many seconds after its n-th request, or its n-th file in a folder."""

    after: int
    delay: float


@dataclass(frozen=True)
class Case:
    """What a seed stands for."""

    seed: int
    destination: str
    streaming: bool
    layout: str
    keep_scratch: bool
    rate: float
    sizes: tuple[int, ...]
    kills: tuple[Kill, ...]
    machine_lost: tuple[bool, ...]
    manifest_lost: bool

    @classmethod
    def draw(cls, seed: int, bucket: bool) -> Case:
        """Return the case of a seed, on the bucket or on a folder."""
        rng = random.Random(seed)
        most = 40 if bucket else 8
        kills = tuple(Kill(rng.randint(0, most), rng.uniform(0.0, 0.03)) for _ in range(rng.choice((0, 1, 2, 4))))
        streaming = rng.random() < 0.6
        return cls(
            seed=seed,
            destination=f"gs://ensembles/{seed}" if bucket else "",
            streaming=streaming,
            layout=rng.choice(("leads", "blocks", "both")),
            keep_scratch=rng.random() < 0.5,
            rate=rng.choice((0.0, 0.1, 0.25, 0.4)) if bucket else 0.0,
            sizes=tuple(rng.choice((3000, 90_000, 700_000, 1_200_000)) for _ in range(6)),
            kills=kills,
            machine_lost=tuple(streaming and rng.random() < 0.4 for _ in kills),
            manifest_lost=streaming and rng.random() < 0.4,
        )

    def config(self, folder: Path) -> Config:
        """Return the configuration, everything below `folder`."""
        return make_config(
            folder / "scratch",
            self.destination or str(folder / "destination"),
            lead_hours=36,
            members="1",
            keep_scratch=self.keep_scratch,
            forecast={"restart_hours": 12, "restarts_kept": 1},
            delivery={"layout": self.layout, "block_hours": 18, "mirror_restarts": True, "streaming": self.streaming},
        )


def run_once(case: Case, folder: Path, emulator: str) -> None:
    """Go on with the member until it is delivered; this is what gets killed.

    `emulator`: a process of a fork server has the environment of whoever started the server.
    """
    os.environ["STORAGE_EMULATOR_HOST"] = emulator
    config = case.config(folder)
    storage = open_storage(str(config.destination), SETTINGS)
    code = 0
    try:
        _stream(case, config, storage) if case.streaming else _batch(case, config, storage)
    except WorkflowError as error:
        write_bytes(folder / "error", str(error).encode())
        code = error.exit_code
    write_json(folder / f"counts-{os.getpid()}.json", asdict(storage.counts))
    os._exit(code)


def _batch(case: Case, config: Config, storage: Storage) -> None:
    if not config.scratch.manifest(MEMBER).exists():
        finish_member(config, MEMBER, [_publish(case, config, lead) for lead in config.leads])
    deliver_member(config, MEMBER, storage)


def _stream(case: Case, config: Config, storage: Storage) -> None:
    """Publish leads as the forecast does, from the nearest restart state before the first that is missing."""
    restored = restore_member(config, MEMBER, storage)
    work = WorkFolder(config.scratch.work(MEMBER), config.cycle, MEMBER)
    done = work.finished(config.leads, local=False)
    known = {record.lead for record in restored.leads} - set(done)
    assert not known, f"restored but not counted: {known}"
    delivery = StreamingDelivery(config, MEMBER, storage).__enter__()
    try:
        delivery.started(MEMBER, len(config.leads), len(done))
        work.restarts.mkdir(parents=True, exist_ok=True)
        for lead in config.leads:
            if lead not in done:
                time.sleep(0.02)
                done[lead] = _publish(case, config, lead)
                delivery.lead_published(done[lead], work.leads)
            if lead % config.forecast.restart_hours == 0:
                path = work.restarts / f"{lead_name(lead)}.safetensors"
                write_bytes(path, random.Random(lead).randbytes(300_000))
                delivery.restart_written(lead, path)
                for old in sorted(work.restarts.glob("*.safetensors"))[:-1]:
                    old.unlink()
        manifest = finish_member(config, MEMBER, [done[lead] for lead in config.leads])
        delivery.finished(manifest)
    except BaseException as error:
        delivery.failed(error)
        raise


def _publish(case: Case, config: Config, lead: int) -> LeadRecord:
    return publish_lead(config, MEMBER, lead, case.sizes[lead // 6 - 1], content=case.seed)


@dataclass
class Result:
    """What a schedule came to."""

    case: Case
    starts: int = 0
    killed: int = 0
    manifest_lost: bool = False
    failed: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def run_case(case: Case, folder: Path, proxy: FaultProxy | None) -> Result:
    """Run a schedule to its end and compare destination with source."""
    context = multiprocessing.get_context("forkserver")
    result = Result(case)
    if proxy is not None:
        proxy.schedule = Schedule(case.seed, case.rate)
    began = time.perf_counter()

    def progress() -> int:
        return proxy.schedule.log["requests"] if proxy else sum(1 for _ in (folder / "destination").rglob("*.*"))

    for start in range(STARTS):
        result.starts += 1
        process = context.Process(target=run_once, args=(case, folder, os.environ["STORAGE_EMULATOR_HOST"]))
        process.start()
        if start < len(case.kills):
            _wait_for(case.kills[start], process, progress)
        else:
            process.join(60)
        if process.is_alive():
            process.kill()
            process.join()
            result.killed += 1
            if start < len(case.machine_lost) and case.machine_lost[start]:
                shutil.rmtree(folder / "scratch", ignore_errors=True)
            continue
        result.failed += process.exitcode != 0
        if process.exitcode == 0:
            if result.manifest_lost or not case.manifest_lost:
                break
            result.manifest_lost = True
            _lose_manifest(case, folder)
    else:
        error = (folder / "error").read_text() if (folder / "error").exists() else "killed each time"
        result.differences.append(f"not delivered after {STARTS} starts: {error}")
    result.seconds = time.perf_counter() - began
    if proxy is not None:
        result.faults = proxy.schedule.log
        proxy.schedule = Schedule(0, 0.0)
    for path in folder.glob("counts-*.json"):
        result.counts.update(read_json(path))
    if not result.differences:
        result.differences = differences(case, folder)
    return result


def _wait_for(kill: Kill, process: BaseProcess, progress: Callable[[], int]) -> None:
    """Return when the process has ended or it is time to kill it."""
    began = progress()
    while progress() < began + kill.after and process.is_alive():
        process.join(0.002)
    process.join(kill.delay)


def _lose_manifest(case: Case, folder: Path) -> None:
    """Remove the manifest at the destination of a member that is delivered, and everything on scratch."""
    config = case.config(folder)
    open_storage(str(config.destination), SETTINGS).delete(config.objects.manifest(MEMBER))
    shutil.rmtree(folder / "scratch")


def differences(case: Case, folder: Path) -> list[str]:
    """Return how the destination differs from what the source says it must be."""
    config = case.config(folder)
    storage = open_storage(str(config.destination))
    manifest = read_member_manifest(config.scratch.manifest(MEMBER))
    source = case.config(folder / "again")  # the same seed gives the same leads
    records = [_publish(case, source, lead) for lead in source.leads]
    leads = source.scratch.work(MEMBER) / "leads"
    data = {f.name: (leads / f.name).read_bytes() for r in records for f in (r.grib, r.index)}
    keys = config.objects
    expected = {keys.manifest(MEMBER): config.scratch.manifest(MEMBER).read_bytes()}
    prefix = f"{config.cycle}/forecasts/"
    if case.layout != "blocks":
        expected |= {prefix + name: content for name, content in data.items()}
    if case.layout != "leads":
        for block in make_blocks(config.cycle, MEMBER, records, 18):
            expected[prefix + block.grib.name] = b"".join(data[r.grib.name] for r in block.leads)
            expected[prefix + block.index_name] = block.index([data[r.index.name] for r in block.leads])
    found = {info.key: storage.get_bytes(info.key) for info in storage.list("")}
    receipt = json.loads(found.pop(keys.receipt(MEMBER), b"{}"))
    wrong = [f"{key}: missing" for key in expected.keys() - found.keys()]
    wrong += [f"{key}: not expected" for key in found.keys() - expected.keys()]
    wrong += [f"{key}: other content" for key in expected.keys() & found.keys() if expected[key] != found[key]]
    if receipt.get("content_digest") != manifest.content_digest:
        wrong.append("receipt: of other content")
    named = {item["key"] for item in receipt.get("objects", ())}
    wrong += [f"receipt: {key}" for key in named ^ (set(expected) - {keys.manifest(MEMBER)})]
    if not case.destination:
        hidden = [str(path) for path in (folder / "destination").rglob(".*")]
        wrong += [f"{path}: left over" for path in hidden]
    return wrong


def run_campaign(seeds: range, folder_every: int = 6) -> list[Result]:
    """Run the schedules of `seeds`; every sixth delivers to a folder (kills only), the others to a bucket."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["delivery.members", "aifs_ensemble.delivery.member", "aifs_ensemble.common.storage.gcs"]
    )
    results = []
    with (
        gcs_server() as server,
        fault_proxy(server) as proxy,
        patch.dict(os.environ, {"STORAGE_EMULATOR_HOST": proxy.url}),
    ):
        for seed in seeds:
            case = Case.draw(seed, bucket=seed % folder_every != 0)
            with tempfile.TemporaryDirectory() as folder:
                results.append(run_case(case, Path(folder), proxy if case.destination else None))
    return results


def summary(results: list[Result]) -> dict[str, object]:
    """Return the figures of a campaign."""
    faults: Counter[str] = sum((result.faults for result in results), Counter())
    counts: Counter[str] = sum((result.counts for result in results), Counter())
    return {
        "schedules": len(results),
        "to a bucket": sum(bool(result.case.destination) for result in results),
        "streaming": sum(result.case.streaming for result in results),
        "starts": sum(result.starts for result in results),
        "kills": sum(result.killed for result in results),
        "machines lost": sum(sum(result.case.machine_lost[: result.killed]) for result in results),
        "manifests lost after the delivery": sum(result.manifest_lost for result in results),
        "ended with an error and started again": sum(result.failed for result in results),
        "requests": faults.pop("requests", 0),
        "faults": dict(sorted(item for item in faults.items() if item[0] != "none")),
        "repeated, renewed, settled": [counts["retries"], counts["sessions_renewed"], counts["settled"]],
        "seconds": round(sum(result.seconds for result in results), 1),
        "with differences": sum(bool(result.differences) for result in results),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--schedules", type=int, default=240)
    parser.add_argument("--first", type=int, default=1, help="first seed")
    args = parser.parse_args()
    results = run_campaign(range(args.first, args.first + args.schedules))
    for name, value in summary(results).items():
        print(f"{name}: {value}")
    for result in results:
        for line in result.differences:
            print(f"seed {result.case.seed}: {line}", file=sys.stderr)
    return int(any(result.differences for result in results))


if __name__ == "__main__":
    sys.exit(main())
