"""Requests, processor time and words of a dry-run with every lead declared, on an empty and on a full bucket.

    python benchmarks/dry_run_requests.py --members 50 --lead-hours 792

The bucket is fake-gcs-server behind the counting proxy of the tests. It lists everything in one page, while Google's
pages have 1,000 objects: `pages` adds what these would take, two listings of the cycle.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from aifs_ensemble.common.config import Config, merge, read_files  # noqa: E402
from aifs_ensemble.delivery.standing import Destination  # noqa: E402
from doubles.gcs_fault_proxy import fault_proxy  # noqa: E402
from doubles.gcs_server import gcs_server  # noqa: E402
from workflow.full_bucket import fill  # noqa: E402
from workflow.project import Project  # noqa: E402

DESTINATION = "gs://ensembles/weekly"


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--lead-hours", type=int, default=792)
    args = parser.parse_args()
    own = {"model": "demo", "members": f"1-{args.members}", "lead_hours": args.lead_hours, "destination": DESTINATION}
    with tempfile.TemporaryDirectory() as folder, gcs_server() as server, fault_proxy(server) as proxy:
        os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
        project = Project.copy(Path(folder) / "project")
        raw = read_files(project.folder / "config" / "config.yaml", project.folder / "config" / "operational.yaml")
        merge(raw, own)
        emulator = {"STORAGE_EMULATOR_HOST": proxy.url, "NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}
        for bucket in ("empty", "full"):
            pages = 0
            if bucket == "full":
                fill(Config(raw))
                pages = 2 * (-(-len(Destination(Config(raw)).listed) // 1000) - 1)
            proxy.schedule.log.clear()
            before = processor_seconds()
            keys = [f"{key}={value}" for key, value in own.items()]
            said = project.run("-n", "--config", *keys, profile="coiled-gpu", environment=emulator)
            requests, used = proxy.schedule.log["requests"], processor_seconds() - before
            print(f"{bucket}: {requests} requests, pages {pages}, {used:.1f} s of processor, {len(said):,} characters")


if __name__ == "__main__":
    main()
