"""What a job script that Snakemake wrote for a remote machine is about."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aifs_ensemble.common.errors import CloudError
from aifs_ensemble.common.names import format_members

FORECAST_RULE = "forecast_member"
_PROPERTIES = re.compile(r"^# properties = (\{.*\})$", re.MULTILINE)


@dataclass(frozen=True)
class RemoteJob:
    """One job or group of jobs that runs on one machine.

    `targets` are Snakemake's own, ``rule:wildcard=value,...``; `resources` those of the job or, for a
    group, of all its jobs together; `attempt` counts from 1.
    """

    script: str
    targets: tuple[str, ...]
    resources: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(sorted({target.split(":", 1)[0] for target in self.targets}))

    @property
    def members(self) -> tuple[int, ...]:
        """Members that this job forecasts."""
        found = (
            re.search(r"\bmember=(\d+)", target) for target in self.targets if target.startswith(f"{FORECAST_RULE}:")
        )
        return tuple(sorted(int(match[1]) for match in found if match))

    @property
    def machine_class(self) -> str:
        """``gpu`` or ``cpu``."""
        return str(self.resources.get("machine", "cpu"))

    @property
    def spot(self) -> bool:
        """Whether this attempt asks for a preemptible machine."""
        return self.resources.get("provisioning") == "spot"

    @property
    def title(self) -> str:
        """What a person calls the job, e.g. ``forecast_member 1-7``."""
        members = f" {format_members(self.members)}" if self.members else ""
        return "+".join(self.rules) + members


def parse_job(script: str, name: str) -> RemoteJob:
    """Return the job in a script; CloudError naming `name` when Snakemake did not write it."""
    properties = _PROPERTIES.search(script)
    try:
        words = shlex.split(script, comments=True)
        start = words.index("--target-jobs") + 1
    except ValueError:
        raise CloudError(f"{name}: not a Snakemake job script, no --target-jobs in it") from None
    if properties is None:
        raise CloudError(f"{name}: not a Snakemake job script, no properties line in it")
    targets = []
    for word in words[start:]:
        if word.startswith("-"):
            break
        targets.append(word)
    attempt = int(words[words.index("--attempt") + 1]) if "--attempt" in words else 1
    return RemoteJob(script, tuple(targets), json.loads(properties[1])["resources"], attempt)


def read_job(path: Path) -> RemoteJob:
    """Return the job in a script file; CloudError when it is absent or not one."""
    try:
        return parse_job(path.read_text(), str(path))
    except FileNotFoundError:
        raise CloudError(f"{path}: no such job script") from None
