"""A loopback double of the servers of ECMWF open data, with faults on demand.

It serves a folder over HTTP/1.1 with single byte ranges. It does not check, and so cannot prove, anything
about TLS, redirects, proxies, HTTP/2, several ranges in one request, the real services' rate limits and
latencies, Azure's access tokens, or files that are being written while they are read.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Fault:
    """What goes wrong with the requests whose path matches.

    `times` requests are hit after `skip` (-1: all). Of the rest, those given apply: answer `status` with
    `headers`; `reset` the connection; `stall` seconds of silence after the headers; `cut`: send that share of
    the body and close (the length announced is the full one); `shorten`: that share as if it were all;
    `whole`: 200 and the whole file to a range; `zeros`: as many zero bytes;
    `trickle`: a byte every so many seconds.
    """

    match: str = ""
    times: int = -1
    skip: int = 0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    stall: float = 0
    cut: float = 0
    shorten: float = 0
    whole: bool = False
    zeros: bool = False
    trickle: float = 0


class OpenDataServer:
    """Serves `root`. `url` is its base address, `log` the requests (path, range) and the bytes sent to each."""

    def __init__(self, root: Path, faults: list[Fault] | None = None):
        self.root = root
        self.faults = faults or []
        self.log: list[tuple[str, str | None]] = []
        self.bytes_sent = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"double": self}))
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.server.handle_error = lambda *_: None  # clients that hang up are part of the tests
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def fault_for(self, path: str) -> Fault:
        """Return the fault that hits this request, and count it."""
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.match, path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return Fault()

    def close(self) -> None:
        """Stop serving; the address then refuses connections."""
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def serve(root: Path, *faults: Fault):
    """Serve `root` within the context."""
    server = OpenDataServer(root, list(faults))
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: OpenDataServer

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        with self.double.lock:
            self.double.log.append((self.path, asked))
        fault = self.double.fault_for(self.path)
        file = self.double.root / self.path.lstrip("/")
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault.status:
            self._start(fault.status, 0, fault.headers)
        elif not file.is_file():
            self._start(404, 0, {})
        else:
            self._send(file, asked, fault)

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, file: Path, asked: str | None, fault: Fault) -> None:
        size = file.stat().st_size
        headers, status, first, last = {}, 200, 0, size - 1
        if asked and not fault.whole:
            first, last = (int(text) for text in asked.removeprefix("bytes=").split("-"))
            if first >= size:
                return self._start(416, 0, {"Content-Range": f"bytes */{size}"})
            last = min(last, size - 1)
            status, headers = 206, {"Content-Range": f"bytes {first}-{last}/{size}"}
        with file.open("rb") as stream:
            stream.seek(first)
            body = bytearray(stream.read(last - first + 1))
        if fault.zeros:
            body = bytearray(len(body))
        if fault.shorten:
            body = body[: int(len(body) * fault.shorten)]
        self._start(status, len(body), headers)
        self._body(bytes(body[: int(len(body) * fault.cut)] if fault.cut else body), fault)
        if fault.cut:
            self.close_connection = True
        return None

    def _body(self, body: bytes, fault: Fault) -> None:
        try:
            if fault.stall:
                time.sleep(fault.stall)
            if fault.trickle:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(fault.trickle)
            else:
                self.wfile.write(body)
            with self.double.lock:
                self.double.bytes_sent += len(body)
        except OSError:
            self.close_connection = True
