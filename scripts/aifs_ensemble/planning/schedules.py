"""What runs a configuration every day or week: files for systemd, cron, GitHub Actions and Cloud Run, as text.

Nothing here installs anything. All times are UTC. Each file starts the same command, in which the cycle is a word, so
that a run finds its own cycle, and waits for its inputs.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycle_words import WEEKDAYS, CycleWord

NAME = "aifs-ensemble"
# hours after the cycle at which a run begins: when its inputs are due (initial.publication), and a little
BEGIN_AFTER = 7
# a job on GitHub's machines ends after six hours, whatever it does
GITHUB_MINUTES = 360
_PLACEHOLDER = re.compile(r"\b(PROJECT|REGION|IMAGE|SERVICE_ACCOUNT|POOL_PROVIDER)\b")


@dataclass(frozen=True)
class Schedule:
    """When a run begins, and what it is.

    Attributes
    ----------
    weekday : 0 for Monday, of the day on which a run begins; None for each day
    hours, minute : UTC; several hours for a word that means any cycle
    folder : root of the checkout
    snakemake : path of the program
    arguments : what follows it
    config : for projects, images and accounts of the cloud
    wait_hours : how long a run may wait for its inputs
    """

    weekday: int | None
    hours: tuple[int, ...]
    minute: int
    folder: Path
    snakemake: Path
    arguments: tuple[str, ...]
    config: Config
    wait_hours: float

    @property
    def cron(self) -> str:
        """The five fields of cron."""
        day = "*" if self.weekday is None else str((self.weekday + 1) % 7)
        return f"{self.minute} {','.join(map(str, self.hours))} * * {day}"

    @property
    def in_words(self) -> str:
        """When it begins, for people."""
        day = "every day" if self.weekday is None else f"every {WEEKDAYS[self.weekday].capitalize()}"
        return f"{day} at {', '.join(f'{hour:02d}:{self.minute:02d}' for hour in self.hours)} UTC"


def begins(word: CycleWord) -> tuple[int | None, tuple[int, ...]]:
    """Return weekday and hours, UTC, at which runs of a word begin."""
    hours = tuple(
        sorted((hour + BEGIN_AFTER) % 24 for hour in ([word.hour] if word.hour is not None else range(0, 24, 6)))
    )
    weekday = word.weekday
    if weekday is not None and word.hour is not None and word.hour + BEGIN_AFTER >= 24:
        weekday = (weekday + 1) % 7
    return weekday, hours


def systemd(schedule: Schedule) -> dict[str, str]:
    """Return a timer and the service that it starts, for ``~/.config/systemd/user``."""
    day = "" if schedule.weekday is None else f"{WEEKDAYS[schedule.weekday][:3].capitalize()} "
    at = ",".join(f"{hour:02d}" for hour in schedule.hours)
    command = " ".join(map(_systemd_word, [str(schedule.snakemake), *schedule.arguments]))
    service = f"""\
# systemctl --user daemon-reload; loginctl enable-linger; journalctl --user -u {NAME}
[Unit]
Description=AIFS ENS ensemble
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={_systemd_path(str(schedule.folder))}
ExecStart={command}
# as Ctrl-C: the run ends its machines
KillSignal=SIGINT
TimeoutStopSec=300
"""
    timer = f"""\
# systemctl --user enable --now {NAME}.timer
[Unit]
Description=AIFS ENS ensemble, {schedule.in_words}

[Timer]
OnCalendar={day}*-*-* {at}:{schedule.minute:02d}:00 UTC
# a machine that was off runs it when it is on again
Persistent=true
RandomizedDelaySec=300

[Install]
WantedBy=timers.target
"""
    return {f"{NAME}.service": service, f"{NAME}.timer": timer}


def cron(schedule: Schedule) -> dict[str, str]:
    """Return a crontab of one line."""
    command = shlex.join([str(schedule.snakemake), *schedule.arguments])
    line = f"cd {shlex.quote(str(schedule.folder))} && {command} >> schedule.log 2>&1".replace("%", r"\%")
    text = f"""\
# {schedule.in_words}; crontab -e takes these lines. Where cron does not know CRON_TZ, as Debian's, write the hour of
# this machine's own time.
CRON_TZ=UTC
{schedule.cron} {line}
"""
    return {f"{NAME}.cron": text}


def github(schedule: Schedule) -> dict[str, str]:
    """Return a workflow of GitHub Actions, for ``.github/workflows``."""
    cloud = schedule.config.cloud
    steps: list[Mapping[str, object]] = [
        {"uses": "actions/checkout@v4", "with": {"persist-credentials": False}},
        {"uses": "actions/setup-python@v5", "with": {"python-version": "3.11", "cache": "pip"}},
        {"run": "make install"},
    ]
    environment = {name: f"${{{{ secrets.{name} }}}}" for name in cloud.secrets}
    for name in re.findall(r"\$\{?(\w+)", schedule.config.notify.url or ""):
        environment[name] = f"${{{{ secrets.{name} }}}}"
    if _profile(schedule) == "coiled-gpu":
        environment["DASK_COILED__TOKEN"] = "${{ secrets.COILED_TOKEN }}"
    permissions = {"contents": "read"}
    if schedule.config.cloud_destination:
        permissions["id-token"] = "write"
        steps.append(
            {
                "uses": "google-github-actions/auth@v2",
                "with": {
                    "workload_identity_provider": "POOL_PROVIDER",
                    "service_account": cloud.service_account or "SERVICE_ACCOUNT",
                },
            }
        )
    steps.append({"run": shlex.join([".venv/bin/snakemake", *schedule.arguments])})
    job: dict[str, object] = {"runs-on": "ubuntu-latest", "timeout-minutes": GITHUB_MINUTES, "steps": steps}
    if environment:
        job["env"] = environment
    content = {
        "name": NAME,
        "on": {"schedule": [{"cron": schedule.cron}], "workflow_dispatch": {}},
        "permissions": permissions,
        "concurrency": {"group": NAME, "cancel-in-progress": False},
        "jobs": {"forecast": job},
    }
    head = (
        f"# {schedule.in_words}; into .github/workflows/. GitHub may begin it late, and ends it after six hours,\n"
        "# the wait for its inputs included.\n"
    )
    return {f"{NAME}.yml": head + _yaml(content)}


def cloud_run(schedule: Schedule) -> dict[str, str]:
    """Return a Cloud Run job, and the commands that make it and a Cloud Scheduler job that starts it."""
    cloud = schedule.config.cloud
    project, region = cloud.project or "PROJECT", cloud.regions[0]
    account = cloud.service_account or "SERVICE_ACCOUNT"
    hours = schedule.wait_hours + cloud.max_hours + 1
    environment: list[Mapping[str, object]] = [{"name": "GOOGLE_CLOUD_PROJECT", "value": project}]
    secrets = [*cloud.secrets, *(["DASK_COILED__TOKEN"] if _profile(schedule) == "coiled-gpu" else [])]
    environment += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": name.lower().replace("_", "-"), "key": "latest"}}}
        for name in secrets
    ]
    container = {
        "image": "IMAGE",
        "command": [".venv/bin/snakemake"],
        "args": list(schedule.arguments),
        "env": environment,
        "resources": {"limits": {"cpu": "2", "memory": "4Gi"}},
    }
    task = {
        "maxRetries": 0,
        "timeoutSeconds": min(round(hours * 3600), 24 * 3600),
        "serviceAccountName": account,
        "containers": [container],
    }
    content = {
        "apiVersion": "run.googleapis.com/v1",
        "kind": "Job",
        "metadata": {"name": NAME},
        "spec": {"template": {"spec": {"taskCount": 1, "parallelism": 1, "template": {"spec": task}}}},
    }
    where = f"projects/{project}/locations/{region}/jobs/{NAME}:run"
    lines = f"""\
#!/bin/sh
# {schedule.in_words}. IMAGE is a container with this checkout, its .git and .venv, in which the command starts.
set -eu
gcloud run jobs replace {NAME}-job.yaml --project {project} --region {region}
gcloud scheduler jobs create http {NAME} --project {project} --location {region} \\
    --schedule {shlex.quote(schedule.cron)} --time-zone Etc/UTC --http-method POST \\
    --uri https://run.googleapis.com/v2/{where} --oauth-service-account-email {account}
"""
    return {f"{NAME}-job.yaml": _yaml(content), f"{NAME}-cloud-run.sh": lines}


KINDS: Mapping[str, Callable[[Schedule], dict[str, str]]] = {
    "systemd": systemd,
    "cron": cron,
    "github": github,
    "cloud-run": cloud_run,
}


def placeholders(files: Mapping[str, str]) -> list[str]:
    """Return the names in capitals that a user has still to fill in."""
    return sorted({name for text in files.values() for name in _PLACEHOLDER.findall(text)})


def run_arguments(
    profile: str, files: Sequence[str], keys: Mapping[str, Any], wait_hours: float | None
) -> tuple[str, ...]:
    """Return what follows ``snakemake``: profile, configuration files, `keys`, and the wait unless it is set there."""
    over = {**keys}
    if wait_hours is not None:
        over["initial_conditions"] = {**over.get("initial_conditions", {}), "wait_hours": wait_hours}
    # snakemake knows no dots in names of keys
    settings = [
        f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key, value in over.items()
    ]
    given = ["--configfile", *files] if files else []
    return ("--profile", profile, *given, *(["--config", *settings] if settings else []))


def _profile(schedule: Schedule) -> str:
    arguments = schedule.arguments
    return Path(arguments[arguments.index("--profile") + 1]).name


def _yaml(content: Mapping[str, object]) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=1000)


def _systemd_word(word: str) -> str:
    """Return a word of a command line as systemd reads it: quoted, with % and $ doubled."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if re.search(r"[^\w@%+=:,./-]", word) else text


def _systemd_path(path: str) -> str:
    return path.replace("%", "%%")
