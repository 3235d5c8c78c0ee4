"""What a run tells others at its end: JSON to a command that the user names, or to an address.

A notice never fails a run: what goes wrong with it is said in one line, and takes `SECONDS` at most. Of an address only
scheme and host are shown, for what follows them may be a secret.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from os.path import expandvars
from typing import Any
from urllib.parse import urlsplit

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, WorkflowError
from aifs_ensemble.common.names import format_members, parse_members
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.common.text import printable
from aifs_ensemble.delivery.ensemble import EnsembleManifest, parse_ensemble_manifest

SCHEMA = "aifs-ensemble-notice/1"
SECONDS = 30.0
_LOOK_SECONDS = 20.0
_TIME = "%Y-%m-%dT%H:%M:%SZ"
Say = Callable[[str], None]


def check_notify(config: Config) -> None:
    """Raise ConfigError, without the value, for a command or an address that cannot be used."""
    _words(config)
    _address(config)


def program_problem(config: Config) -> str | None:
    """Return why the command that ``notify`` names cannot be started here, or None."""
    words = _words(config)
    return f"notify.command: {words[0]}: no such program" if words and shutil.which(words[0]) is None else None


def notice(
    config: Config, *, finished: bool, began: datetime, reason: str = "", told: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return what a run says at its end.

    `finished` says that all of its jobs succeeded, `reason` why it did not begin, `told` is what it said of other
    cycles. `state` is that of the ensemble's manifest, unless it is complete and a job failed: then it is ``failed``.
    """
    found = None if reason else _manifest(config)
    state = found.state if found else "failed"
    if found and found.state == "complete" and not finished:
        state, reason = "failed", "every member is delivered, and another job failed"
    delivered = [one.member for one in found.members] if found else []
    wanted = parse_members(found.wanted) if found else config.members
    now = clock.now()
    page = f"{config.destination}/{config.objects.page}" if config.products.page.enabled else None
    return {
        "schema": SCHEMA,
        "cycle": config.cycle,
        **({"model": config.model.name} if config.model_folder else {}),
        "state": state,
        "text": f"ensemble {found or f'{config.cycle}: failed'}" + (f" ({reason})" if reason else ""),
        "reason": reason or None,
        "members": {
            "wanted": len(wanted),
            "delivered": len(delivered),
            "missing": format_members(set(wanted) - set(delivered)),
        },
        "bytes": found.bytes if found else 0,
        "fields": found.fields if found else 0,
        "destination": config.destination,
        "page": page if state != "failed" else None,
        "began": began.strftime(_TIME),
        "ended": now.strftime(_TIME),
        "seconds": round((now - began).total_seconds()),
        "other_cycles": list(told),
    }


def notify(config: Config, content: dict[str, Any], say: Say) -> None:
    """Give a notice to the command and to the address that ``notify`` names; say what went wrong, a line each."""
    data = json.dumps(content).encode()
    for send in (_to_command, _to_address):
        for line in send(config, data):
            say(printable(line))


def _manifest(config: Config) -> EnsembleManifest | None:
    key = config.objects.ensemble_manifest
    with suppress(WorkflowError):
        storage = open_destination(config, within=_LOOK_SECONDS)
        return parse_ensemble_manifest(storage.get_bytes(key), key, config.cycle)
    return None


def _words(config: Config) -> list[str]:
    try:
        return shlex.split(config.notify.command)
    except ValueError as error:
        raise ConfigError(f"config: notify.command: {error}, expected words as a shell takes them") from None


def _address(config: Config) -> str | None:
    if not config.notify.url:
        return None
    where = "config: notify.url: (not shown), expected"
    named = expandvars(config.notify.url)
    if unset := re.search(r"\$\{?(\w+)", named):
        raise ConfigError(f"{where} the environment variable {unset[1]} to be set")
    with suppress(ValueError):
        if urlsplit(named).scheme in ("http", "https") and urlsplit(named).hostname:
            return named
    raise ConfigError(f"{where} http://... or https://...")


def _to_command(config: Config, data: bytes) -> Iterator[str]:
    if not (words := _words(config)):
        return
    try:
        done = subprocess.run(words, input=data, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, ValueError) as error:
        yield f"notify.command: {words[0]}: {error.strerror if isinstance(error, OSError) else error}"
    except subprocess.TimeoutExpired:
        yield f"notify.command: {words[0]}: not done within {SECONDS:g} s"
    else:
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            yield f"notify.command: {words[0]}: exit code {done.returncode}{f' ({said})' if said else ''}"


def _to_address(config: Config, data: bytes) -> Iterator[str]:
    import requests  # slow to import, as is what follows

    from aifs_ensemble.common.http import Deadline, GuardedAdapter, as_transfer_error

    try:
        address = _address(config)
    except ConfigError as error:
        yield f"{error}"
        return
    if address is None:
        return
    parts = urlsplit(address)
    shown = f"notify.url: {parts.scheme}://{parts.hostname}"
    with requests.Session() as session:
        session.mount(f"{parts.scheme}://", GuardedAdapter(SECONDS, Deadline(SECONDS)))
        try:
            headers = {"Content-Type": "application/json"}
            answer = session.post(address, data=data, headers=headers, allow_redirects=False)
        except (WorkflowError, requests.RequestException) as error:
            yield f"{shown}: {as_transfer_error(error)}"
            return
        except Exception as error:
            yield f"{shown}: {type(error).__name__}"
            return
    if not 200 <= answer.status_code < 300:
        yield f"{shown}: HTTP {answer.status_code}"
