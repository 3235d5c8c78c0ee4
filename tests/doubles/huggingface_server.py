"""A Hugging Face hub on loopback, as far as the real client asks it when it looks up and downloads one file.

It answers HEAD and GET of ``/{owner}/{name}/resolve/{revision}/{file}`` with the hub's headers (X-Repo-Commit,
X-Linked-Etag, X-Linked-Size, X-Error-Code) and a redirect to a second host name that plays the CDN, where ranges
are honoured and faults happen: stalls, resets, truncation, a trickle, wrong bytes, HTTP errors.

What it does not check: tokens (any is accepted, and it records which requests carried one), Xet storage, signatures
of CDN URLs, TLS, rate limits, the rest of the hub's API. The headers were written from the client's code, not
recorded from the service.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer.

    `kind` is ``stall`` (silence after `at` bytes), ``reset``, ``truncate``, ``trickle`` (a byte now and then),
    ``corrupt`` (one byte altered), ``ignore-range`` (the whole file, whatever was asked) or ``status`` (an HTTP error).
    """

    kind: str
    at: int = 0
    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Seen:
    """A request that came: its method, path, Range header and whether it carried a token."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """A running hub: its files, the faults to come (one an answer), and what was asked.

    `lookup_faults` concern the hub's own answers, `faults` those of the CDN with the content.
    `gated` repositories answer as gated ones do to requests without a token.
    """

    url: str
    files: dict[tuple[str, str], bytes]
    lookup_faults: list[Fault] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    seen: list[Seen] = field(default_factory=list)

    def sent(self) -> list[Seen]:
        """Requests for content."""
        return [seen for seen in self.seen if seen.path.startswith("/cdn/") and seen.method == "GET"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server.hub
        token = self.headers.get("Authorization")
        hub.seen.append(Seen(self.command, self.path, self.headers.get("Range"), token))
        if self.path.startswith("/cdn/"):
            self._content(hub)
        elif match := _RESOLVE.fullmatch(self.path):
            self._resolve(hub, match["repository"], match["revision"], match["file"])
        else:
            self._plain(404, {})

    def _plain(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _resolve(self, hub: Hub, repository: str, revision: str, file: str) -> None:
        fault = hub.lookup_faults.pop(0) if hub.lookup_faults else None
        if fault and fault.kind == "stall":
            time.sleep(fault.at)
        elif fault:
            self._plain(fault.status, dict(fault.headers))
            return
        known = {name for name, _ in hub.files}
        content = hub.files.get((repository, file))
        if repository not in known:
            self._plain(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif repository in hub.gated and not self.headers.get("Authorization"):
            self._plain(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"})
        elif revision not in ("main", COMMIT):
            self._plain(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif content is None:
            self._plain(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        else:
            digest = hashlib.sha256(content).hexdigest()
            self._plain(
                302,
                {
                    "Location": f"http://localhost:{self.server.server_port}/cdn/{digest}?X-Signature=secret",
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{digest}"',
                    "X-Linked-Size": str(len(content)),
                    "ETag": '"pointer"',
                },
            )

    def _content(self, hub: Hub) -> None:
        digest = self.path.removeprefix("/cdn/").partition("?")[0]
        content = next((c for c in hub.files.values() if hashlib.sha256(c).hexdigest() == digest), None)
        fault = hub.faults.pop(0) if hub.faults and self.command == "GET" else None
        if content is None or (fault and fault.kind == "status"):
            self._plain(fault.status if fault else 404, dict(fault.headers) if fault else {})
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        ranged = start and not (fault and fault.kind == "ignore-range")
        start = start if ranged else 0
        if start >= len(content):
            self._plain(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{digest}"')
        self.end_headers()
        if self.command == "GET":
            with suppress(OSError):
                self._send(content, start, fault)

    def _send(self, content: bytes, start: int, fault: Fault | None) -> None:
        if fault is None or fault.kind == "ignore-range":
            self.wfile.write(content[start:])
            return
        if fault.kind == "corrupt":
            altered = bytearray(content)
            altered[fault.at] ^= 1
            self.wfile.write(altered[start:])
            return
        self.wfile.write(content[start : fault.at])
        self.wfile.flush()
        if fault.kind == "stall":
            time.sleep(60)
        elif fault.kind == "trickle":
            for byte in content[max(start, fault.at) :]:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
        elif fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


@contextmanager
def huggingface_hub_server(files: dict[tuple[str, str], bytes]) -> Iterator[Hub]:
    """Yield a running hub with `files`, content by (repository, file)."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.hub = Hub(f"http://127.0.0.1:{server.server_port}", dict(files))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server.hub
        server.shutdown()
