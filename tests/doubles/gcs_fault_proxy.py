"""A proxy on loopback before fake-gcs-server, which breaks requests by a seeded schedule.

It also does itself what that server leaves out or does otherwise than Google's documentation: resumable upload
sessions (there a status query ends an upload, a repeated chunk is appended twice, generation preconditions are
ignored), stated checksums, bucket locations, and the generation preconditions of compose and delete. A session's
bytes are kept here and go on to the server in one checked request once they are whole.

What it does not imitate: request rates and the Retry-After that goes with 429, redirects, HTTP/2, expired credentials,
uploads of unknown size, and damage in headers or in the metadata part of an upload (only the object's own bytes are
ever flipped).
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import ssl
import struct
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import google_crc32c
from urllib3 import encode_multipart_formdata
from urllib3.fields import RequestField

_Answer = tuple[int, dict[str, str], bytes]
_CONDITION: _Answer = (412, {}, b'{"error": {"code": 412, "message": "conditionNotMet"}}')
STATUSES = (408, 429, 500, 502, 503, 504)
QUANTUM = 256 << 10  # a service keeps whole multiples of this of a chunk
_HOP = {"transfer-encoding", "content-length", "connection"}


@dataclass
class Schedule:
    """Which requests break, and how: `rate` of them, kinds drawn from `kinds` with the seed.

    ``status`` an error instead of an answer; ``reset`` the connection breaks before the server sees the request;
    ``lost`` after the server acted on it; ``cut`` in the middle of the answer; ``gone`` the upload session is
    forgotten (410); ``part`` only a part of the chunk is kept; ``flip`` one byte of the object changes on the way;
    ``slow`` a short delay.
    """

    seed: int
    rate: float
    kinds: tuple[str, ...] = ("status", "reset", "lost", "cut", "gone", "part", "flip", "slow")
    most: int = 10**9
    log: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._left = self.most

    def next(self, session: bool, media: bool) -> tuple[str, random.Random]:
        """Return the kind of fault for a request (``none`` mostly) and a generator for its details."""
        with self._lock:
            kind = self._random.choice(self.kinds) if self._random.random() < self.rate and self._left > 0 else "none"
            possible = {"gone": session, "part": session, "flip": media}.get(kind, True)
            kind = kind if possible else "none"
            self._left -= kind != "none"
            self.log["requests"] += 1
            self.log[kind] += 1
            return kind, random.Random(self._random.random())


class FaultProxy(ThreadingHTTPServer):
    """The proxy; `schedule` may be exchanged between runs; `locations` says where buckets are.

    Whoever asks for a description of the buckets in `undescribed` has no right to it. With `seconds_per_mib` what
    clients send is read so slowly.
    """

    daemon_threads = True

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.schedule = Schedule(0, 0.0)
        self.sessions: dict[str, _Session] = {}
        self.names = threading.Lock()
        self.locations: dict[str, str] = {}
        self.undescribed: set[str] = set()
        self.seconds_per_mib = 0.0

    @property
    def url(self) -> str:
        if isinstance(self.socket, ssl.SSLSocket):
            return f"https://localhost:{self.server_address[1]}"
        return f"http://127.0.0.1:{self.server_address[1]}"

    def use_tls(self, certificate: Path) -> None:
        """Speak TLS from now on, with the certificate and key in a file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what this server is for."""


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Yield a running proxy before the server at `upstream`."""
    with FaultProxy(upstream) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield proxy
        proxy.shutdown()


@dataclass
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}

    @property
    def range(self) -> tuple[int, int, int] | None:
        """First byte, last byte and total of an upload chunk."""
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self.headers.get("content-range", ""))
        return (int(match[1]), int(match[2]), int(match[3])) if match else None


@dataclass
class _Session:
    """A resumable upload as the documentation of the service describes it."""

    upstream: str
    bucket: str
    metadata: dict[str, str]
    match: str | None
    data: bytearray = field(default_factory=bytearray)
    answer: _Answer | None = None

    def put(self, request: _Request) -> _Answer:
        """Take a chunk, or a question how far the upload got."""
        if self.answer is not None:
            return self.answer
        if request.range is None:
            return self._progress()
        first, last, total = request.range
        if first > len(self.data) or last + 1 - first != len(request.body):
            return 400, {}, b"chunk out of step"
        new = request.body[len(self.data) - first :]  # what is there already is not taken again
        if last + 1 < total:
            new = new[: len(new) // QUANTUM * QUANTUM]
        self.data += new
        if len(self.data) < total:
            return self._progress()
        answer = self._commit()
        if answer[0] == 200:
            self.answer = answer
            self.data.clear()
        return answer

    def _progress(self) -> _Answer:
        return 308, ({"range": f"bytes=0-{len(self.data) - 1}"} if self.data else {}), b""

    def _commit(self) -> _Answer:
        wrong = _wrong_checksum(self.metadata, bytes(self.data))
        if wrong:
            return wrong
        body, content_type = encode_multipart_formdata(
            [
                RequestField("m", json.dumps(self.metadata), headers={"Content-Type": "application/json"}),
                RequestField("d", bytes(self.data), headers={"Content-Type": "application/octet-stream"}),
            ]
        )
        headers = {"content-type": content_type.replace("form-data", "related")}
        condition = "" if self.match is None else f"&ifGenerationMatch={self.match}"
        path = f"/upload/storage/v1/b/{self.bucket}/o?uploadType=multipart{condition}"
        return _call(self.upstream, _Request("POST", path, headers, body))


def _wrong_checksum(metadata: dict[str, str], data: bytes) -> _Answer | None:
    """Return the service's refusal of content that has not the checksum stated, None when it has."""
    found = b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    stated = metadata.get("crc32c", found)
    if found == stated:
        return None
    message = f'Provided CRC32C "{stated}" doesn\'t match calculated CRC32C "{found}".'
    return 400, {}, json.dumps({"error": {"code": 400, "message": message}}).encode()


def _parts(request: _Request) -> tuple[dict[str, str], bytes]:
    """Return the metadata and the object in the body of a multipart upload."""
    match = re.search(r"boundary=\"?([^\";]+)", request.headers["content-type"])
    assert match
    _, metadata, media, _ = request.body.split(b"--" + match[1].encode())
    return json.loads(metadata.split(b"\r\n\r\n", 1)[1]), media.split(b"\r\n\r\n", 1)[1][:-2]


def _generation(upstream: str, bucket: str, name: str) -> int:
    """Return an object's generation, 0 when there is none."""
    path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
    status, _, body = _call(upstream, _Request("GET", path, {}, b""))
    return int(json.loads(body)["generation"]) if status == 200 else 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: FaultProxy

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = _Request(self.command, self.path, headers, self._body())
        upload_id = request.query.get("upload_id")
        session = request.range is not None and upload_id is not None
        media = session or request.query.get("uploadType") == "multipart"
        kind, details = self.server.schedule.next(session, media)
        if kind == "reset":
            self._reset()
        elif kind == "status":
            self._answer(details.choice(STATUSES), {}, b"")
        elif kind == "gone":
            self._answer(410, {}, b"")
        else:
            self._forward(_spoiled(request, kind, details), kind)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any  # noqa: N815

    def _forward(self, request: _Request, kind: str) -> None:
        if kind == "slow":
            time.sleep(0.02)
        with self.server.names:  # preconditions are looked at and acted on in one step
            status, headers, body = self._act(request)
        if kind == "lost":
            self._reset()
        elif kind == "cut" and body:
            self._answer(status, headers, body, cut=len(body) // 2)
        else:
            self._answer(status, headers, body)

    def _act(self, request: _Request) -> _Answer:
        query, path = request.query, urlsplit(request.path).path
        match = query.get("ifGenerationMatch")
        if query.get("uploadType") == "resumable" and request.method == "POST":
            return self._open_session(request, path.split("/b/")[1].split("/")[0])
        if query.get("uploadType") == "multipart" and (wrong := _wrong_checksum(*_parts(request))):
            return wrong
        if "upload_id" in query:
            session = self.server.sessions.get(query["upload_id"])
            return (404, {}, b"no such session") if session is None else session.put(request)
        found = re.fullmatch(r".*/b/([^/]+)/o/(.+?)(/compose)?", path)
        ours = found and match is not None and (found[3] or request.method == "DELETE")
        if ours and _generation(self.server.upstream, found[1], unquote(found[2])) != int(match):
            return _CONDITION
        answer = _call(self.server.upstream, request)
        bucket = re.fullmatch(r"/storage/v1/b/([^/]+)", path)
        if bucket and bucket[1] in self.server.undescribed:
            return 403, {}, b'{"error": {"code": 403, "message": "no storage.buckets.get access"}}'
        if bucket and bucket[1] in self.server.locations:
            return 200, {}, json.dumps(json.loads(answer[2]) | {"location": self.server.locations[bucket[1]]}).encode()
        return answer

    def _open_session(self, request: _Request, bucket: str) -> _Answer:
        metadata = json.loads(request.body)
        match = request.query.get("ifGenerationMatch")
        if match is not None and _generation(self.server.upstream, bucket, metadata["name"]) != int(match):
            return _CONDITION
        upload_id = str(len(self.server.sessions))
        self.server.sessions[upload_id] = _Session(self.server.upstream, bucket, metadata, match)
        query = f"uploadType=resumable&upload_id={upload_id}"
        return 200, {"location": f"{self.server.url}/upload/storage/v1/b/{bucket}/o?{query}"}, b""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _read(self, size: int) -> bytes:
        if not self.server.seconds_per_mib:
            return self.rfile.read(size)
        data = bytearray()
        while len(data) < size:
            time.sleep(self.server.seconds_per_mib)
            data += self.rfile.read(min(1 << 20, size - len(data)))
        return bytes(data)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name not in _HOP:
                self.send_header(name, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self._reset()

    def _reset(self) -> None:
        """Break the connection with a TCP reset."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()


def _spoiled(request: _Request, kind: str, details: random.Random) -> _Request:
    """Return the request as the server gets to see it."""
    if kind == "flip":
        first, last = 0, len(request.body)
        if request.range is None:  # the object is the second part of the body
            first = request.body.index(b"\r\n\r\n", request.body.index(b"\r\n\r\n") + 4) + 4
            last = request.body.rindex(b"\r\n--")
        if last <= first:
            return request
        place = details.randrange(first, last)
        flipped = bytes([request.body[place] ^ 1 << details.randrange(8)])
        return _Request(
            request.method, request.path, request.headers, request.body[:place] + flipped + request.body[place + 1 :]
        )
    if kind == "part" and request.range is not None:
        first, last, total = request.range
        kept = (last + 1 - first) // 2 // QUANTUM * QUANTUM
        if kept:
            headers = {**request.headers, "content-range": f"bytes {first}-{first + kept - 1}/{total}"}
            return _Request(request.method, request.path, headers, request.body[:kept])
    return request


def _call(upstream: str, request: _Request) -> _Answer:
    connection = http.client.HTTPConnection(upstream, timeout=60)
    headers = {name: value for name, value in request.headers.items() if name not in _HOP}
    headers["content-length"] = str(len(request.body))
    try:
        connection.request(request.method, request.path, request.body, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()
