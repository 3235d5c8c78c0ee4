"""Coiled's HTTP API on loopback, for the real `coiled` client: batch jobs that run as local processes.

Each job runs in an empty folder of its own with nothing of the coordinator's environment but what the
test gives the "machine", so that a job finds no file that it was not sent. Everything asked is in `calls`.

What it does not check: whether Coiled's real service accepts the request (the names and places of fields
are those of client 1.135, the answers are what that client reads); images, machine types, disks, quotas
and identities; how fast machines come; that a lifetime limit really stops a machine (here the
job's timeout does). A preemption is a killed process and a cluster in state ``error``; the wording of reasons is ours.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

WORKSPACE = "loopback"


@dataclass
class Cluster:
    """A cluster with one batch job."""

    id: int
    request: dict[str, Any]
    job: dict[str, Any]
    folder: Path
    state: str = "pending"
    reason: str = ""
    process: subprocess.Popen | None = None
    started: float | None = None
    stopped: float | None = None
    exit_code: int | None = None
    worker: str = "started"
    machine: str = "queued"  # until the task starts

    @property
    def region(self) -> str:
        return (self.request.get("options") or {}).get("region_name") or ""

    @property
    def title(self) -> str:
        return self.job["user_files"][0]["content"].splitlines()[1]

    def task_state(self) -> str:
        if self.exit_code is not None:
            return "done"
        return "assigned" if self.started else "pending"


@dataclass
class CoiledServer:
    """The service. `machine_env` is all that jobs find in their environment beside what they are sent.

    `no_machines` : regions without machines; with `refuse_at_once` the request itself fails.
    `on_start` : called with every cluster whose process has started.
    `after_tasks` : called with a cluster when its tasks were asked for and the answer stands.
    """

    folder: Path
    machine_env: dict[str, str] = field(default_factory=dict)
    no_machines: set[str] = field(default_factory=set)
    never_ready: set[str] = field(default_factory=set)
    refuse_at_once: bool = False
    failing: int = 0
    on_start: Callable[[Cluster], None] = lambda cluster: None
    after_tasks: Callable[[Cluster], None] = lambda cluster: None
    after_tasks: Callable[[Cluster], None] = lambda cluster: None
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    clusters: dict[int, Cluster] = field(default_factory=dict)
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    environments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = service.answer(self.command, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def client_env(self) -> dict[str, str]:
        """Environment that sends the real client here."""
        return {"DASK_COILED__SERVER": self.url, "DASK_COILED__TOKEN": "loopback-token", "COILED_ANALYTICS": "false"}

    def close(self) -> None:
        for cluster in list(self.clusters.values()):
            self.kill(cluster)
        self.http.shutdown()
        self.http.server_close()

    def running(self) -> list[Cluster]:
        return [c for c in self.clusters.values() if c.process is not None and c.process.poll() is None]

    # -- requests

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        path = urlparse(target).path
        content: Any = None
        if body:
            content = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        with self.lock:
            self.calls.append((method, path, content))
            if self.failing:
                self.failing -= 1
                return 503, {"message": "try again later"}
            for pattern, verb, handler in self.routes():
                match = re.fullmatch(pattern, path)
                if match and verb == method:
                    return handler(*match.groups(), content=content, query=parse_qs(urlparse(target).query))
            self.unknown.append(f"{method} {target}")
        return 404, {"detail": f"the double has no {method} {path}"}

    def routes(self) -> list[tuple[str, str, Callable[..., tuple[int, Any]]]]:
        me = {"username": "tester", "email": "tester@example.org", "id": 1}
        member = [
            {"account": {"slug": WORKSPACE, "name": WORKSPACE, "id": 1}, "is_admin": True, "is_default_account": True}
        ]
        account = rf"/api/v2/clusters/account/{WORKSPACE}"
        return [
            (r"/api/v2/user/me", "GET", lambda **_: (200, me)),
            (r"/api/v2/user/me/memberships", "GET", lambda **_: (200, member)),
            (rf"/api/v2/user/workspace/{WORKSPACE}/dask-config-overrides", "GET", lambda **_: (200, {})),
            (rf"/api/v1/{WORKSPACE}/backend_options/", "GET", lambda **_: (200, {"backend": "vm_gcp"})),
            (rf"/api/v2/software-environment/account/{WORKSPACE}", "POST", self.create_environment),
            (r"/api/v2/jobs/compressed", "POST", self.create_job),
            (r"/api/v2/jobs/cluster/(\d+)", "GET", self.job_status),
            (rf"{account}/", "POST", self.create_cluster),
            (rf"{account}/id/(\d+)", "GET", self.cluster_details),
            (rf"{account}/id/(\d+)", "DELETE", self.delete_cluster),
            (rf"{account}/name/(.+)", "GET", self.by_name),
            (rf"{account}/", "GET", self.all_by_name),
            (r"/api/v2/interactions/.*", "POST", lambda **_: (200, {})),
        ]

    def create_environment(self, content: Any, query: Any) -> tuple[int, Any]:
        self.environments[content["name"]] = content
        return 200, {"id": len(self.environments), "name": content["name"], "latest_spec": None}

    def create_job(self, content: Any, query: Any) -> tuple[int, Any]:
        job_id = len(self.jobs) + 1
        self.jobs[job_id] = content
        return 200, {"id": job_id}

    def create_cluster(self, content: Any, query: Any) -> tuple[int, Any]:
        region = (content.get("options") or {}).get("region_name")
        if region in self.no_machines and self.refuse_at_once:
            return 400, {"message": f"ZONE_RESOURCE_POOL_EXHAUSTED: {region} does not have enough resources available"}
        number = len(self.clusters) + 1
        cluster = Cluster(number, content, self.jobs[content["batch_job_ids"][0]], self.folder / f"machine{number}")
        self.clusters[number] = cluster
        if region in self.no_machines:
            cluster.state, cluster.reason = "error", f"Failed to get an instance: {region} ZONE_RESOURCE_POOL_EXHAUSTED"
        elif region not in self.never_ready:
            threading.Thread(target=self.run, args=(cluster,), daemon=True).start()
        return 201, {"id": number, "existing": False}

    def job_status(self, cluster_id: str, content: Any, query: Any) -> tuple[int, Any]:
        cluster = self.clusters[int(cluster_id)]

        def when(t: float | None) -> str | None:
            return None if t is None else time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(t))

        task = {
            "array_task_id": 0,
            "state": cluster.task_state(),
            "exit_code": cluster.exit_code,
            "assigned_to": None,
            "start": when(cluster.started),
            "stop": when(cluster.stopped),
        }
        job = {"cluster_id": cluster.id, "cluster_state": cluster.state, "user_command": "script", "tasks": [task]}
        self.after_tasks(cluster)
        return 200, [job]

    def cluster_details(self, cluster_id: str, content: Any, query: Any) -> tuple[int, Any]:
        if int(cluster_id) not in self.clusters:
            return 404, {"detail": "not found"}
        cluster = self.clusters[int(cluster_id)]
        state = {"state": cluster.state, "reason": cluster.reason, "updated": ""}
        machine = {"state": "ready" if cluster.started else cluster.machine, "reason": "", "updated": ""}
        instance = {"id": cluster.id, "created": "", "name": "scheduler", "current_state": machine}
        instance |= {"public_ip_address": None, "private_ip_address": None}
        process = {"created": "", "name": "scheduler", "current_state": state, "instance": instance}
        name = cluster.request["name"]
        details = {
            "id": cluster.id,
            "name": name,
            "workers": self.workers(cluster),
            "scheduler": process,
            "current_state": state,
            "created": "",
        }
        return 200, details

    def workers(self, cluster: Cluster) -> list[dict[str, Any]]:
        """The worker of a job that does not run on the scheduler's machine, once it has begun."""
        if not cluster.request["workers"] or cluster.started is None:
            return []
        over = cluster.worker != "started"
        state = {"state": cluster.worker, "reason": "instance was preempted" if over else "", "updated": ""}
        instance = {"id": cluster.id, "created": "", "name": "worker", "current_state": state}
        instance |= {"public_ip_address": None, "private_ip_address": None}
        return [{"created": "", "name": "worker", "current_state": state, "instance": instance}]

    def by_name(self, name: str, content: Any, query: Any) -> tuple[int, Any]:
        """The live cluster of a name, which keeps the client from making a second one."""
        live = [c for c in self.clusters.values() if c.request["name"] == name and c.state not in ("stopped", "error")]
        return (200, {"id": live[-1].id}) if live else (404, {"detail": "not found"})

    def all_by_name(self, content: Any, query: Any) -> tuple[int, Any]:
        found = [c for c in self.clusters.values() if c.request["name"] == query["name"][0]]
        return 200, [{"id": c.id, "name": c.request["name"], "created": c.id} for c in found]

    def delete_cluster(self, cluster_id: str, content: Any, query: Any) -> tuple[int, Any]:
        cluster = self.clusters[int(cluster_id)]
        self.kill(cluster)
        if cluster.state != "stopped":
            cluster.state, cluster.reason = "stopped", "stopped by request"
        return 200, {}

    # -- machines

    def run(self, cluster: Cluster) -> None:
        cluster.folder.mkdir(parents=True)
        script = cluster.folder / "script"
        script.write_text(cluster.job["user_files"][0]["content"])
        env = {"HOME": str(cluster.folder), **self.machine_env, **(cluster.job["env_vars"] or {})}
        env |= cluster.job["secret_env_vars"] or {}
        with open(cluster.folder / "log", "wb") as log:
            cluster.process = subprocess.Popen(
                ["/bin/bash", str(script)],
                cwd=cluster.folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            cluster.started, cluster.state = time.time(), "ready"
            if seconds := cluster.job.get("job_timeout_seconds"):
                limit = threading.Timer(seconds, self.reach_limit, (cluster,))
                limit.daemon = True
                limit.start()
            try:
                self.on_start(cluster)
            finally:
                self._ended(cluster, cluster.process.wait())

    def _ended(self, cluster: Cluster, code: int) -> None:
        with self.lock:
            if cluster.state == "ready" and cluster.worker == "started":
                cluster.exit_code, cluster.stopped, cluster.state = code, time.time(), "stopped"

    def kill(self, cluster: Cluster) -> None:
        if cluster.process is not None and cluster.process.poll() is None:
            with suppress(ProcessLookupError):  # it ended since
                os.killpg(cluster.process.pid, signal.SIGKILL)

    def reach_limit(self, cluster: Cluster) -> None:
        """End a job that runs for as long as it may."""
        with self.lock:
            if cluster.state != "ready":
                return
            cluster.state, cluster.reason = "error", "job timeout"
        self.kill(cluster)

    def preempt(self, cluster: Cluster) -> None:
        """Take the machine away: the process dies without warning, the task never ends."""
        with self.lock:
            if cluster.state != "ready":
                return
            cluster.state, cluster.reason = "error", "scheduler instance was preempted"
        self.kill(cluster)

    def preempt_worker(self, cluster: Cluster) -> None:
        """Take the worker away from a job that has one: the cluster stays, the task has no end."""
        with self.lock:
            cluster.worker = "stopped"
        self.kill(cluster)
