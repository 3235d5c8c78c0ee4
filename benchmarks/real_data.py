"""Weather in, GRIB out: 72 h of members 1 to 3 from the replica of open data, through snakemake and the real client.

    python benchmarks/real_data.py --replica FOLDER
    python benchmarks/real_data.py --replica FOLDER --members 1-4 --hours 240

Prints t at 500 hPa of step 6 against its input by member, what was asked of the server, and seconds: of the whole run,
and of its forecasts, as the members' manifests have them. The model is the untrained demonstration, so that nothing
here is a forecast; the server is on loopback, so that no latency of the real service is in the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from aifs_ensemble.common.names import lead_file, lead_hours, parse_members  # noqa: E402
from doubles.opendata_server import OpenDataServer, serve  # noqa: E402
from workflow.project import CYCLE, Project  # noqa: E402
from workflow.realdata import correlation, manifest, requests_by_kind, settings, t500  # noqa: E402


def print_weather(project: Project, members: tuple[int, ...]) -> None:
    """Print t500 of step 6 against its input, and how members differ."""
    print("t500 at step 6   min K   mean K    max K  rms change K  correlation with input")
    fields = [t500(project, member) for member in members]
    for field in fields:
        row = field.figures()
        print(
            f"member {row['member']:<6} {row['minimum']:8.2f} {row['mean']:8.2f} {row['maximum']:8.2f} "
            f"{row['change']:13.3f} {row['correlation']:23.5f}"
        )
    for one in fields:
        for other in fields:
            if one.member < other.member:
                before, after = (float(((a - b) ** 2).mean() ** 0.5) for a, b in
                                 ((one.before, other.before), (one.after, other.after)))  # fmt: skip
                between = f"correlation {correlation(one.after, other.after):.5f}"
                print(f"members {one.member}, {other.member}: rms difference {before:.3f} K before, "
                      f"{after:.3f} K at step 6, {between}")  # fmt: skip


def print_requests(server: OpenDataServer) -> None:
    """Print what was asked of the server, and how often the same."""
    for kind, counted in requests_by_kind(server.log).items():
        print(f"{kind}: {len(counted)} asked for, each at most {max(counted.values())} times")
    print(f"{server.bytes_sent / 1e6:.1f} MB sent in {len(server.log)} requests")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replica", type=Path, required=True, help="folder laid out as the service is")
    parser.add_argument("--members", default="1-3")
    parser.add_argument("--hours", type=int, default=72)
    args = parser.parse_args()
    members, leads = parse_members(args.members), lead_hours(args.hours)
    with tempfile.TemporaryDirectory() as folder, serve(args.replica) as server:
        project = Project.copy(Path(folder) / "project", **settings(server.url, args.members, args.hours))
        start = time.perf_counter()
        said = project.snakemake()
        seconds = time.perf_counter() - start
        if project.code:
            sys.exit(said)
        wanted = {lead_file(CYCLE, member, lead) for member in members for lead in leads}
        absent = wanted - set(project.leads())
        content = manifest(project)
        print(f"cycle {CYCLE}, members {args.members}, {args.hours} h, {os.cpu_count()} cores")
        print(f"{len(wanted) - len(absent)} of {len(wanted)} leads, {content['fields']} fields, "
              f"{content['bytes'] / 1e6:.1f} MB: {content['state']}")  # type: ignore[operator] # fmt: skip
        print_weather(project, members)
        print_requests(server)
        print(f"{seconds:.1f} s for all of it")
        for member in members:
            found = json.loads((project.results / "manifests" / f"member{member:03d}.json").read_text())
            print(f"member {member}: {found['timings']}")


if __name__ == "__main__":
    main()
