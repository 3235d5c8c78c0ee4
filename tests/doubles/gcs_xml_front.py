"""The XML interface of Google Cloud Storage for readers, in front of the server of `gcs_server`.

Icechunk's client (the object_store of Rust) reads objects as ``/bucket/name``, the name percent-encoded throughout,
which the service decodes and that server does not. This front decodes names, and counts reads and bytes. It checks no
credentials, and takes no writes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import requests

_PUBLIC_HOST = "storage.googleapis.com"  # by which the server knows this interface
_KEPT = ("etag", "last-modified", "content-range", "x-goog-generation")


class XmlFront(ThreadingHTTPServer):
    """Serves what the server at `upstream` holds; `reads` are the names of objects that were read, `size` the bytes."""

    daemon_threads = True

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.reads: list[str] = []
        self.size = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: XmlFront

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._forward()

    def do_HEAD(self) -> None:
        self._forward()

    def _forward(self) -> None:
        name = unquote(self.path)
        asked = {key: value for key, value in self.headers.items() if key.lower() in ("range", "if-match")}
        answer = requests.request(
            self.command, self.server.upstream + quote(name), headers={"Host": _PUBLIC_HOST, **asked}, timeout=60
        )
        if self.command == "GET" and answer.ok:
            self.server.reads.append(name)
            self.server.size += len(answer.content)
        self.send_response(answer.status_code)
        for key in _KEPT:
            if key in answer.headers:
                self.send_header(key, answer.headers[key])
        length = len(answer.content) if self.command == "GET" else int(answer.headers.get("content-length", 0))
        self.send_header("content-length", str(length))
        self.end_headers()
        self.wfile.write(answer.content)


@contextmanager
def xml_front(upstream: str) -> Iterator[XmlFront]:
    """Serve on a free port until the end of the block."""
    with XmlFront(upstream) as front:
        thread = threading.Thread(target=front.serve_forever, daemon=True)
        thread.start()
        try:
            yield front
        finally:
            front.shutdown()
            thread.join()
