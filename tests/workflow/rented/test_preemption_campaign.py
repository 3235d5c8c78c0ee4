"""Twenty preemptions at random moments of a four-member run on preemptible machines, with the real forecast.

Once the whole workflow through the coiled-gpu profile, a group on a machine; once the forecast jobs alone, every
attempt a process on an empty scratch that is killed. No more than a restart interval is made again since the newest
restart state, and no more than another because that state was on its way; the bytes are those of an undisturbed run.
Minutes on a quiet machine: `pytest -m long`.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config, merge, read_files
from aifs_ensemble.common.storage import open_destination
from coiled_server import Cluster, CoiledServer

from workflow.rented import member_machine
from workflow.rented.conftest import BUCKET, ROOT, SETTINGS, Project, published, published_on

pytestmark = [pytest.mark.cloud, pytest.mark.long, pytest.mark.timeout(3600)]

MEMBERS, LEAD_HOURS, RESTART_HOURS = 4, 96, 24
PREEMPTIONS = 20
# two intervals, after which the forecast waits for the state between them, and the leads in flight then (engine.SLOTS)
MOST_LOST = 2 * RESTART_HOURS // 6 + 3
SEED = int(os.environ.get("CAMPAIGN_SEED", "20251123"))


def configure(project: Project, name: str) -> Config:
    return project.configure(
        members=f"1-{MEMBERS}",
        lead_hours=LEAD_HOURS,
        destination=f"gs://{BUCKET}/{name}",
        forecast={"restart_hours": RESTART_HOURS},
        delivery={"streaming": True, "mirror_restarts": True},
        cloud={"spot": True, "spot_attempts": 1000},
    )


class Preemptions:
    """Takes machines of the forecast away, `limit` times in all.

    A machine goes once its members together have published a random number of leads, and a random moment
    later; or when one of them is about to end, because there would be nothing left to take away.
    """

    def __init__(self, server: CoiledServer, config: Config, limit: int):
        self.server, self.config, self.limit = server, config, limit
        self.random = random.Random(SEED)
        self.lock = threading.Lock()
        self.taken: list[int] = []

    def watch(self, cluster: Cluster) -> None:
        if "forecast_member" in cluster.title:
            threading.Thread(target=self._take, args=(cluster,), daemon=True).start()

    def _take(self, cluster: Cluster) -> None:
        with self.lock:
            wanted, pause = self.random.randint(0, 6), self.random.uniform(0, 0.5)
        late = LEAD_HOURS - RESTART_HOURS // 2
        while cluster.process.poll() is None:
            leads = [lead for found in published_on(cluster, self.config).values() for lead in found]
            if len(leads) >= wanted or max(leads, default=0) >= late:
                time.sleep(pause if len(leads) >= wanted and max(leads, default=0) < late else 0)
                with self.lock:
                    if len(self.taken) >= self.limit or cluster.process.poll() is not None:
                        return
                    self.taken.append(cluster.id)
                self.server.preempt(cluster)
                return
            time.sleep(0.02)


def manifests(config: Config) -> dict[int, dict]:
    storage = open_destination(config)
    return {m: json.loads(storage.get_bytes(config.objects.manifest(m))) for m in config.members}


def losses(clusters: Iterable[Cluster], config: Config) -> list[tuple[int, int]]:
    """Return what was lost each time a member went on elsewhere, in leads.

    First those published since the machine's newest restart state, then those before it that were made again
    because that state had not reached the bucket yet.
    """
    found, before = [], {}
    for cluster in clusters:
        log = (cluster.folder / "log").read_text(errors="replace")
        for member, own in published_on(cluster, config).items():
            delivered = re.search(rf"member {member}: (\d+) leads are at \S+, going on after", log)
            start = 6 * int(delivered[1]) if delivered else 0
            if member in before:
                reached, state = before[member]
                found.append((max(0, reached - max(state, start)) // 6, max(0, min(state, reached) - start) // 6))
            states = cluster.folder.glob(
                f"job.*/scratch/{config.cycle}/work/member{member:03d}/restarts/h*.safetensors"
            )
            before[member] = max([start, *own]), max([start, *(int(path.stem[1:]) for path in states)])
    return found


def test_twenty_preemptions(whole: Project, coiled: CoiledServer):
    arguments = ["--profile", "coiled-gpu", "--group-components", "members=2", "initial=1000", "--retries", "60"]
    calm = configure(whole, "calm")
    code, output = whole.run(*arguments, timeout=1500)
    assert code == 0, output
    expected = {m: manifest["content_digest"] for m, manifest in manifests(calm).items()}

    config = configure(whole, "preempted")
    coiled.clusters.clear()
    shutil.rmtree(coiled.folder)
    storm = Preemptions(coiled, config, PREEMPTIONS)
    coiled.on_start = storm.watch
    code, output = whole.run(*arguments, timeout=3000)
    assert code == 0, output[-5000:]
    found = {m: manifest["content_digest"] for m, manifest in manifests(config).items()}
    lost = losses(coiled.clusters.values(), config)
    again = sorted(Counter(map(sum, lost)).items())
    print(f"preemptions {len(storm.taken)}, machines {len(coiled.clusters)}, leads made again: times {dict(again)}")
    print(f"since the newest restart state, and before it because it was on its way: {sorted(lost)}")
    assert len(storm.taken) == PREEMPTIONS
    assert found == expected
    assert lost and max(since for since, _ in lost) <= RESTART_HOURS // 6
    assert max(map(sum, lost)) <= MOST_LOST


def attempt(context, config: Config, scratch: Path, member: int, inputs: tuple[Path, Path]):
    """Start a member on a machine that has nothing but its inputs; return the process and its log."""
    content = json.loads(json.dumps(config.to_dict()))
    content["scratch"] = str(scratch)
    scratch.mkdir(parents=True)
    log = scratch / "log"
    arguments = (json.dumps(content), member, str(inputs[0]), str(inputs[1]), str(log))
    process = context.Process(target=member_machine.forecast, args=arguments)
    process.start()
    return process, log


def kill_machine(process) -> None:
    """Kill a machine's process with its encoders."""
    with contextlib.suppress(ProcessLookupError):
        # no group yet when it has only just started
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def started_at(log: Path) -> int:
    found = re.search(r"going on after h(\d+)", log.read_text() if log.exists() else "")
    return int(found[1]) if found else 0


def test_twenty_kills_of_the_forecast_job(gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from aifs_ensemble.initial.build import build_member, prepare_cycle
    from aifs_ensemble.model.checkpoint.fetch import provide_checkpoint

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["workflow.rented.member_machine", "aifs_ensemble.forecast.engine", "torch", "anemoi.inference"]
    )
    raw = read_files(ROOT / "config" / "config.yaml", ROOT / "config" / "operational.yaml")
    merge(raw, SETTINGS)
    merge(raw, {"members": f"1-{MEMBERS}", "lead_hours": LEAD_HOURS, "forecast": {"restart_hours": RESTART_HOURS}})
    merge(raw, {"scratch": str(tmp_path / "inputs"), "delivery": {"streaming": True, "mirror_restarts": True}})
    calm = Config({**raw, "destination": f"gs://{BUCKET}/calm-jobs"})
    storm = Config({**raw, "destination": f"gs://{BUCKET}/killed-jobs"})
    checkpoint = tmp_path / "demo.ckpt"
    provide_checkpoint(calm.model, checkpoint, trust=False)
    prepare_cycle(calm, tmp_path / "inputs" / calm.cycle / "initial" / "cycle.json")
    inputs = {}
    for member in calm.members:
        inputs[member] = (tmp_path / f"initial{member}.safetensors", checkpoint)
        build_member(calm, member, inputs[member][0])
        process, log = attempt(context, calm, tmp_path / f"calm{member}", member, inputs[member])
        process.join()
        assert process.exitcode == 0, log.read_text()

    moments, kills, lost, number = random.Random(SEED), 0, [], 0
    for member in storm.members:
        quota = kills + -(-(PREEMPTIONS - kills) // (MEMBERS - member + 1))
        reached = 0
        while True:
            number += 1
            scratch = tmp_path / f"machine{number}"
            process, log = attempt(context, storm, scratch, member, inputs[member])
            kill = kills < quota
            new, pause = moments.randint(0, 3), moments.uniform(0, 0.2)
            while process.is_alive() and not (kill and len(published(scratch, storm.cycle, member)) >= new):
                time.sleep(0.01)
            time.sleep(pause if kill else 0)
            if kill and process.is_alive():
                kill_machine(process)
                kills += 1
            process.join()
            start = started_at(log)
            if reached:
                lost.append((reached - start) // 6)
            reached = max([start, *published(scratch, storm.cycle, member)])
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL, log.read_text()
    print(f"kills {kills}, attempts {number}, leads made again after each {lost}")
    digests = [{m: found["content_digest"] for m, found in manifests(config).items()} for config in (calm, storm)]
    assert kills == PREEMPTIONS
    assert digests[0] == digests[1]
    assert max(lost) <= MOST_LOST, lost
