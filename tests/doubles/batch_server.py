"""Google Batch and Cloud Logging on loopback: the gRPC services, with jobs run as local processes.

Every job's runnables run in a folder of their own; a container runnable is its entrypoint and commands run
as they are, with what the test calls the image's environment. Requests are kept as the protobuf messages
they came as, in `created` and `deleted`.

What it does not check: whether the real service accepts a request; images, drivers, disks, networks,
quotas and identities; that a container sees only its volumes; queueing; the service's own task retries
(a request that asks for them is refused here). A preemption is a killed task and a job that FAILED with
exit code 50001, which is how Batch reports one.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read when gRPC starts. With its handlers of a fork, processes that tests started were aborted before they began,
# and the server here stopped answering, now and then.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from google.cloud import batch_v1
from google.cloud.logging_v2.types import ListLogEntriesRequest, ListLogEntriesResponse, LogEntry
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2

State = batch_v1.JobStatus.State
PREEMPTED = 50001


def _pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@functools.cache
def certificate(*names: str) -> tuple[bytes, bytes]:
    """Return a self-signed certificate for `names` and its key, both PEM.

    The same for every server of a process, because gRPC reads its roots once a process.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM), _pem(key)


@dataclass
class BatchServer:
    """The service. `machine_env` is all that tasks find in their environment.

    It `refuses` to list jobs, or those of the regions in `closed`. A question about a job is answered after
    `answer_seconds`; `asked` counts those that came. Jobs in `kept` may not be deleted. `logs_of` has the projects
    whose logs were read.
    """

    folder: Path
    machine_env: dict[str, str] = field(default_factory=dict)
    on_start: Callable[[str, batch_v1.Job], None] = lambda name, job: None
    created: list[batch_v1.CreateJobRequest] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    refuses: bool = False
    answer_seconds: float = 0.0
    asked: int = 0
    logs_of: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.jobs: dict[str, batch_v1.Job] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.taken: set[str] = set()
        self.folder.mkdir(parents=True, exist_ok=True)
        crt, key = certificate("batch.localhost", "logging.localhost")
        (self.folder / "crt.pem").write_bytes(crt)
        self.server = grpc.server(futures.ThreadPoolExecutor(16))
        self.server.add_generic_rpc_handlers(self.handlers())
        self.port = self.server.add_secure_port("[::]:0", grpc.ssl_server_credentials([(key, crt)]))
        self.server.start()
        self._write_identity()

    def _write_identity(self) -> None:
        """Write a service account whose universe is this server; a self-signed token needs no token service."""
        key = _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)).decode()
        account = {
            "type": "service_account",
            "project_id": "loopback",
            "private_key_id": "1",
            "private_key": key,
            "client_email": "coordinator@loopback.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": "https://localhost:1/token",
            "universe_domain": f"localhost:{self.port}",
        }
        (self.folder / "account.json").write_text(json.dumps(account))

    def client_env(self) -> dict[str, str]:
        """Environment that sends the real clients here (gRPC resolves *.localhost to this machine)."""
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.folder / "account.json"),
            "GOOGLE_CLOUD_UNIVERSE_DOMAIN": f"localhost:{self.port}",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.folder / "crt.pem"),
            "GOOGLE_CLOUD_PROJECT": "loopback",
            "NO_GCE_CHECK": "true",
        }

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        def unary(function: Callable[..., Any], request: Any, answer: Any) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(
                function, request_deserializer=request, response_serializer=answer
            )

        def done(operation: operations_pb2.Operation) -> bytes:
            return operation.SerializeToString()

        jobs = {
            "CreateJob": unary(self.create, batch_v1.CreateJobRequest.deserialize, batch_v1.Job.serialize),
            "GetJob": unary(self.get, batch_v1.GetJobRequest.deserialize, batch_v1.Job.serialize),
            "ListJobs": unary(self.list, batch_v1.ListJobsRequest.deserialize, batch_v1.ListJobsResponse.serialize),
            "DeleteJob": unary(self.delete, batch_v1.DeleteJobRequest.deserialize, done),
        }
        logs = {
            "ListLogEntries": unary(self.entries, ListLogEntriesRequest.deserialize, ListLogEntriesResponse.serialize)
        }
        return (
            grpc.method_handlers_generic_handler("google.cloud.batch.v1.BatchService", jobs),
            grpc.method_handlers_generic_handler("google.logging.v2.LoggingServiceV2", logs),
        )

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.server.stop(None)

    def running(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is None]

    # -- requests

    def create(self, request: batch_v1.CreateJobRequest, context: grpc.ServicerContext) -> batch_v1.Job:
        job = batch_v1.Job(request.job)
        if job.task_groups[0].task_spec.max_retry_count:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the double does not repeat tasks")
        job.name = f"{request.parent}/jobs/{request.job_id}"
        job.uid = f"{request.job_id}-{uuid.uuid4().hex[:8]}"
        job.status.state = State.QUEUED
        job.create_time = datetime.datetime.now(datetime.UTC)
        with self.lock:
            self.created.append(request)
            self.jobs[job.name] = job
        threading.Thread(target=self.run, args=(job,), daemon=True).start()
        return job

    def get(self, request: batch_v1.GetJobRequest, context: grpc.ServicerContext) -> batch_v1.Job:
        self.asked += 1
        time.sleep(self.answer_seconds)
        with self.lock:
            if request.name not in self.jobs:
                context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} not found")
            return self.jobs[request.name]

    def list(self, request: batch_v1.ListJobsRequest, context: grpc.ServicerContext) -> batch_v1.ListJobsResponse:
        """Return the jobs of a location, one a page."""
        if self.refuses or request.parent.rpartition("/")[2] in self.closed:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "batch.jobs.list denied")
        with self.lock:
            names = sorted(name for name in self.jobs if name.startswith(f"{request.parent}/jobs/"))
            place = int(request.page_token or 0)
            more = str(place + 1) if place + 1 < len(names) else ""
            page = [self.jobs[name] for name in names[place : place + 1]]
            return batch_v1.ListJobsResponse(jobs=page, next_page_token=more)

    def delete(self, request: batch_v1.DeleteJobRequest, context: grpc.ServicerContext) -> operations_pb2.Operation:
        if request.name in self.kept:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "batch.jobs.delete denied")
        with self.lock:
            if request.name not in self.jobs:
                context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} not found")
            self.deleted.append(request.name)
            self.jobs.pop(request.name)
        self.kill(request.name)
        operation = operations_pb2.Operation(name=f"{request.name}/operations/delete", done=True)
        answer = any_pb2.Any()
        answer.Pack(empty_pb2.Empty())
        operation.response.CopyFrom(answer)
        return operation

    def entries(self, request: ListLogEntriesRequest, context: grpc.ServicerContext) -> ListLogEntriesResponse:
        self.logs_of |= set(request.resource_names)
        uid = request.filter.split("labels.job_uid=")[-1].split()[0]
        log = self.folder / uid / "task.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        name = "projects/loopback/logs/batch_task_logs"
        return ListLogEntriesResponse(entries=[LogEntry(text_payload=line, log_name=name) for line in lines])

    # -- machines

    def run(self, job: batch_v1.Job) -> None:
        folder = self.folder / job.uid
        (folder / "workdir").mkdir(parents=True)
        self._state(job, State.RUNNING, "running")
        code = 0
        with open(folder / "task.log", "ab") as log:
            for number, runnable in enumerate(job.task_groups[0].task_spec.runnables):
                if "barrier" in runnable:
                    continue
                script = folder / f"runnable{number}.sh"
                if "script" in runnable:
                    text = runnable.script.text
                else:
                    text = " ".join([runnable.container.entrypoint, *runnable.container.commands])
                script.write_text(text.replace("/tmp/workdir", str(folder / "workdir")))
                code = self._run_task(job, runnable, script, folder, log)
                if code:
                    break
        if job.name in self.taken:
            code = PREEMPTED
        self._state(
            job,
            State.FAILED if code else State.SUCCEEDED,
            f"Task failed with exit code {code}" if code else "Job succeeded",
        )

    def _run_task(self, job: batch_v1.Job, runnable: batch_v1.Runnable, script: Path, folder: Path, log: Any) -> int:
        env = {"HOME": str(folder), "TMPDIR": str(folder), **self.machine_env}
        process = subprocess.Popen(
            ["/bin/bash", str(script)],
            cwd=folder / "workdir",
            env={**env, **dict(runnable.environment.variables)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes[job.name] = process
        if "container" in runnable:
            self.on_start(job.name, job)
        return process.wait()

    def _state(self, job: batch_v1.Job, state: State, why: str) -> None:
        with self.lock:
            job.status.state = state
            moment = {"seconds": int(time.time()), "nanos": time.time_ns() % 10**9}
            job.status.status_events.append(
                batch_v1.StatusEvent(type_="STATUS_CHANGED", description=why, event_time=moment)
            )

    def kill(self, name: str) -> None:
        process = self.processes.get(name)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    def preempt(self, name: str) -> None:
        """Take the machine away from a running job."""
        self.taken.add(name)
        self.kill(name)
