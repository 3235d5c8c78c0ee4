"""Twenty preemptions at random moments of a four-member run on preemptible machines.

The whole workflow with the real forecast (the demo model), through the coiled-gpu profile; a machine is taken
away when the bucket has a random number of new leads from it. A few minutes: `pytest -m long`.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml
from cloud.conftest import BUCKET, ROOT, SETTINGS, Project
from doubles.coiled_server import CoiledServer, Cluster

from aifs_ensemble.config import Config, merge, read_files
from aifs_ensemble.storage import open_destination

pytestmark = [pytest.mark.cloud, pytest.mark.long, pytest.mark.timeout(3600)]

MEMBERS, LEAD_HOURS, RESTART_HOURS = 4, 96, 24
PREEMPTIONS = 20
SEED = int(os.environ.get("CAMPAIGN_SEED", "20251123"))


@pytest.fixture
def whole(project: Project) -> Project:
    """The real Snakefile and rules instead of the small ones."""
    for name in ("rules", "report", "envs"):
        shutil.copytree(ROOT / name, project.folder / name)
    shutil.copy(ROOT / "Snakefile", project.folder / "Snakefile")
    return project


def configure(project: Project, name: str) -> Config:
    settings = yaml.safe_load((ROOT / "config" / "operational.yaml").read_text())
    merge(settings, SETTINGS)
    forecast = {"restart_hours": RESTART_HOURS}
    merge(settings, {"members": f"1-{MEMBERS}", "lead_hours": LEAD_HOURS, "forecast": forecast})
    merge(settings, {"destination": f"gs://{BUCKET}/{name}", "delivery": {"streaming": True, "mirror_restarts": True}})
    merge(settings, {"cloud": {"spot": True, "spot_attempts": 1000}})
    path = project.folder / "config" / "operational.yaml"
    path.write_text(yaml.safe_dump(settings))
    subprocess.run(["git", "add", "-A"], cwd=project.folder, check=True)
    return Config(read_files(project.folder / "config" / "config.yaml", path))


class Preemptions:
    """Takes machines of the forecast away, each after a random number of new leads, `limit` times."""

    def __init__(self, server: CoiledServer, config: Config, limit: int):
        self.server, self.config, self.limit = server, config, limit
        self.random = random.Random(SEED)
        self.lock = threading.Lock()
        self.done: list[tuple[int, int]] = []
        self.leads = open_destination(config)

    def members(self, cluster: Cluster) -> list[int]:
        text = re.search(r"forecast_member ([\d,-]*\d)", cluster.title)
        if text is None:
            return []
        spans = [item.partition("-") for item in text[1].split(",")]
        return [m for first, _, last in spans for m in range(int(first), int(last or first) + 1)]

    def delivered(self, members: list[int]) -> int:
        names = [info.key for info in self.leads.list(f"{self.config.cycle}/forecasts/")]
        return sum(f"member{m:03d}_" in name and name.endswith(".grib2") for m in members for name in names)

    def watch(self, cluster: Cluster) -> None:
        members = self.members(cluster)
        if members:
            threading.Thread(target=self._take, args=(cluster, members), daemon=True).start()

    def _take(self, cluster: Cluster, members: list[int]) -> None:
        with self.lock:
            wanted = self.delivered(members) + self.random.randint(0, 6)
            pause = self.random.uniform(0, 1.5)
        while cluster.process.poll() is None:
            if self.delivered(members) >= wanted:
                time.sleep(pause)
                with self.lock:
                    if len(self.done) >= self.limit or cluster.process.poll() is not None:
                        return
                    self.done.append((cluster.id, self.delivered(members)))
                self.server.preempt(cluster)
                return
            time.sleep(0.1)


def manifests(config: Config) -> dict[int, dict]:
    storage = open_destination(config)
    return {m: json.loads(storage.get_bytes(config.keys_.manifest(m))) for m in config.members}


def lost_leads(server: CoiledServer, config: Config) -> list[int]:
    """Return, for each time a member went on elsewhere, how many leads it had published and made again."""
    lost = []
    for member in config.members:
        published = 0
        for cluster in server.clusters.values():
            folders = list(cluster.folder.glob(f"job.*/scratch/{config.cycle}/work/member{member:03d}"))
            if not folders:
                continue
            log = (cluster.folder / "log").read_text(errors="replace")
            again = re.search(rf"member {member}: \d+ leads are at \S+, going on after h(\d+)", log)
            start = int(again[1]) // 6 if again else 0
            if published:
                lost.append(max(0, published - start))
            journal = folders[0] / "journal.jsonl"
            own = len(journal.read_text().splitlines()) if journal.exists() else 0
            published = max(published if again is None else 0, start + own)
    return lost


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
    lost = lost_leads(coiled, config)
    print(f"preemptions {len(storm.done)}, machines {len(coiled.clusters)}, leads made again {sorted(lost)}")
    assert len(storm.done) == PREEMPTIONS, f"the run ended after {len(storm.done)} preemptions"
    assert found == expected
    assert lost and max(lost) <= RESTART_HOURS // 6, f"leads made again: {sorted(lost)}"
