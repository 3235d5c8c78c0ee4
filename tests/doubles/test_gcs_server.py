"""The double of the storage service outlives its own process."""

from __future__ import annotations

import os
import signal

import pytest
from aifs_ensemble.common.storage import open_storage
from waiting import wait_until

from doubles.gcs_server import watched_gcs_server


@pytest.mark.cloud
@pytest.mark.filterwarnings("ignore:fake-gcs-server ended:UserWarning")
def test_a_server_that_dies_comes_back_with_its_objects() -> None:
    with watched_gcs_server() as server:
        storage = open_storage("gs://ensembles/kept")
        stored = storage.put_bytes(b"content", "a")
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.restarts == 1 and server.pid != pid)
        assert storage.get_bytes("a") == b"content"
        found = storage.stat("a")
        assert found is not None and (found.size, found.crc32c) == (stored.size, stored.crc32c)
        storage.put_bytes(b"more", "b")
