"""Google's metadata server on loopback, as far as a machine asks it what it is.

It answers GET of ``/computeMetadata/v1/instance/{path}`` in plain text to requests with ``Metadata-Flavor: Google``,
403 without it and 404 for a path that it was not given. Paths and forms of the values are those of Google's
documentation, not recorded from a machine.

What it does not check or have: tokens, ``recursive`` and ``wait_for_change``, HTTPS, the network that only a machine
of Google's can reach.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ROOT = "/computeMetadata/v1/instance/"


@dataclass
class Metadata:
    """What the server says, by path under ``instance/``, and what it was asked.

    `busy` answers are 503 before anything is said; `stall` seconds pass before each answer; without `flavor` answers
    lack the header by which Google's are known.
    """

    host: str
    values: dict[str, str]
    busy: int = 0
    stall: float = 0.0
    flavor: bool = True
    asked: list[str] = field(default_factory=list)


def machine(kind: str, zone: str, name: str, *, spot: bool) -> dict[str, str]:
    """Return the values of a machine as Google spells them."""
    return {
        "machine-type": f"projects/123456789/machineTypes/{kind}",
        "zone": f"projects/123456789/zones/{zone}",
        "name": name,
        "scheduling/preemptible": str(spot).upper(),
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    metadata: Metadata


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        metadata = self.server.metadata
        path = self.path.removeprefix(_ROOT)
        metadata.asked.append(path)
        time.sleep(metadata.stall)
        if metadata.busy:
            metadata.busy -= 1
            self._say(503, "")
        elif self.headers.get("Metadata-Flavor") != "Google":
            self._say(403, "")
        elif self.path.startswith(_ROOT) and path in metadata.values:
            self._say(200, metadata.values[path])
        else:
            self._say(404, "")

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        if self.server.metadata.flavor:
            self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked may have lost patience
            self.wfile.write(text.encode())


@contextmanager
def metadata_server(values: dict[str, str]) -> Iterator[Metadata]:
    """Serve `values` on a free port while entered."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.metadata = Metadata(f"127.0.0.1:{server.server_address[1]}", values)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.metadata
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
