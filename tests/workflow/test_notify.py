"""What a run tells others at its end: to a command, and to a server on loopback that is sometimes no good."""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.workflow import notify as module
from aifs_ensemble.workflow.notify import check_notify, notice, notify

BEGAN = datetime(2025, 8, 19, 7, tzinfo=UTC)
SECRET = "hunter2"


class Hook(http.server.ThreadingHTTPServer):
    """Takes JSON; answers `status` after `wait` seconds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.status, self.wait = 204, 0.0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def url(self, rest: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.server_port}{rest}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hook

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/json"
        self.server.got.append((self.path, json.loads(body)))
        time.sleep(self.server.wait)
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", self.server.url("/elsewhere"))
        self.end_headers()


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.shutdown()
    server.server_close()


Make = Callable[..., Config]


@pytest.fixture
def config_with(tmp_path: Path) -> Make:
    def make(changes: dict[str, Any] | None = None, **whom: Any) -> Config:
        raw = {
            "model": "demo", "cycle": "20250819_0000", "members": "1-4", "lead_hours": 6, "scratch": "scratch",
            "destination": str(tmp_path / "results"), "initial_conditions": {"source": "idealised"}, "notify": whom,
        }  # fmt: skip
        merge(raw, changes or {})
        return Config(raw)

    return make


def told(config: Config, **given: Any) -> tuple[dict[str, Any], list[str]]:
    """Send a notice; return it, and the lines that were said."""
    said: list[str] = []
    content = notice(config, **{"finished": True, "began": BEGAN, **given})
    notify(config, content, said.append)
    return content, said


def test_an_address_and_a_command_get_the_same(config_with: Make, hook: Hook, tmp_path: Path) -> None:
    out = tmp_path / "notice.json"
    config = config_with(
        url=hook.url(), command=f'{sys.executable} -c \'import sys; open("{out}", "w").write(sys.stdin.read())\''
    )
    content, said = told(config, reason="config: cycle: nobody has it", told=("one was missed",))
    assert said == [] and hook.got == [("/hook", content)] and json.loads(out.read_text()) == content
    assert content["state"] == "failed" and content["reason"] == "config: cycle: nobody has it"
    assert content["text"] == "ensemble 20250819_0000: failed (config: cycle: nobody has it)"
    assert content["members"] == {"wanted": 4, "delivered": 0, "missing": "1-4"}
    assert content["began"] == "2025-08-19T07:00:00Z" and content["other_cycles"] == ["one was missed"]


def test_numbers_are_those_of_the_ensembles_manifest(config_with: Make, tmp_path: Path) -> None:
    from aifs_ensemble.common.files import json_bytes
    from aifs_ensemble.common.manifest import ENSEMBLE_SCHEMA
    from aifs_ensemble.common.records import sealed

    config = config_with({"min_members": 1, "products": {"page": {"enabled": True}}})
    entry = {"member": 2, "manifest": None, "content_digest": "", "bytes": 5, "fields": 7, "leads": 1, "objects": []}
    manifest = {
        "schema": ENSEMBLE_SCHEMA, "cycle": "20250819_0000", "model": "demo", "untrained": True, "grid": "N32",
        "wanted": "1-4", "min_members": 1, "ensemble_size": 50, "lead_hours": [6], "layout": "leads", "state": "short",
        "delivered": "2", "missing": "1,3-4", "bytes": 5, "fields": 7, "members": [entry],
    }  # fmt: skip
    place = tmp_path / "results" / "20250819_0000"
    place.mkdir(parents=True)
    (place / "manifest.json").write_bytes(json_bytes(sealed(manifest)))
    content = notice(config, finished=False, began=BEGAN)
    assert (content["state"], content["bytes"], content["fields"]) == ("short", 5, 7)
    assert content["members"] == {"wanted": 4, "delivered": 1, "missing": "1,3-4"}
    assert content["page"] == f"{tmp_path}/results/20250819_0000/index.html"
    whole = manifest | {"state": "complete"}
    (place / "manifest.json").write_bytes(json_bytes(sealed(whole)))
    assert notice(config, finished=True, began=BEGAN)["state"] == "complete"
    product_failed = notice(config, finished=False, began=BEGAN)
    assert product_failed["state"] == "failed" and product_failed["page"] is None


@pytest.mark.parametrize(
    ("status", "line"), [(500, "HTTP 500"), (404, "HTTP 404"), (302, "HTTP 302"), (200, None), (204, None)]
)
def test_an_answer_that_is_no_good_is_one_line(config_with: Make, hook: Hook, status: int, line: str | None) -> None:
    hook.status = status
    _, said = told(config_with(url=hook.url(f"/{SECRET}?token={SECRET}")))
    assert said == ([f"notify.url: http://127.0.0.1: {line}"] if line else [])
    assert len(hook.got) == 1, "asked again, or followed elsewhere"


def test_nothing_behind_the_host_is_shown(config_with: Make, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    port = hook.server_port
    hook.shutdown()
    hook.server_close()
    monkeypatch.setenv("HOOK", f"http://{SECRET}:{SECRET}@127.0.0.1:{port}/{SECRET}?t={SECRET}")
    config = config_with(url="$HOOK")
    assert SECRET not in json.dumps(config.to_dict())
    check_notify(config)
    _, said = told(config)
    assert len(said) == 1 and said[0].startswith("notify.url: http://127.0.0.1: no connection")
    assert SECRET not in said[0]


def test_an_address_that_does_not_answer_is_left(
    config_with: Make, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.3)
    hook.wait = 5
    _, said = told(config_with(url=hook.url()))
    assert len(said) == 1 and said[0].startswith("notify.url: http://127.0.0.1: no answer in time")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("/nowhere/program --now", "notify.command: /nowhere/program: No such file or directory"),
        ("sh -c 'echo first >&2; echo no such list >&2; exit 3'", "notify.command: sh: exit code 3 (no such list)"),
        ("sleep 5", "notify.command: sleep: not done within 0.3 s"),
        ("true", None),  # which does not read what it is given
    ],
)
def test_a_command_that_fails_is_one_line(
    config_with: Make, monkeypatch: pytest.MonkeyPatch, command: str, line: str | None
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.3 if "sleep" in command else 30.0)
    assert told(config_with(command=command))[1] == ([line] if line else [])


@pytest.mark.parametrize("url", ["ftp://host/x", "hunter2", "http://", "http://[::1/x", "https:///hunter2"])
def test_an_address_is_checked_without_being_shown(config_with: Make, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^config: notify.url: \(not shown\), expected http"):
        check_notify(config_with(url=url))


def test_what_else_is_refused_before_a_run(config_with: Make) -> None:
    unset = r"^config: notify.url: \(not shown\), expected the environment variable NO_SUCH_HOOK to be set$"
    with pytest.raises(ConfigError, match=unset):
        check_notify(config_with(url=f"https://me:{SECRET}@host/${{NO_SUCH_HOOK}}"))
    with pytest.raises(ConfigError, match=r"notify\.command: No closing quotation"):
        check_notify(config_with(command="mail 'me"))
