"""What is told of a target that no rule makes: which members, leads and cycles there are, or which targets."""

from __future__ import annotations

import re

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import name_cycles
from aifs_ensemble.common.names import format_members
from aifs_ensemble.common.text import nearest
from aifs_ensemble.workflow.run_hooks import READ_ONLY

_MEMBER = re.compile(r"(?<![a-z])member(?P<number>\d{3,})(?!\d)")
_LEAD = re.compile(r"_h(?P<hours>\d{3,})(?!\d)")
_CYCLE = re.compile(r"(?<!\d)\d{8}_\d{4}(?!\d)")


def no_rule(config: Config, target: str) -> str:
    """Return in one line why nothing makes a target, as far as its name says it."""
    member, lead, cycle = (form.search(target) for form in (_MEMBER, _LEAD, _CYCLE))
    if cycle and cycle[0] not in config.cycles:
        return f"{target}: cycle {cycle[0]}, expected {name_cycles(config.cycles)}"
    if member and int(member["number"]) not in config.members:
        return f"{target}: member {int(member['number'])}, expected members {format_members(config.members)}"
    if lead and int(lead["hours"]) not in config.leads:
        return f"{target}: lead {int(lead['hours'])} h, expected one of {len(config.leads)} to {config.leads[-1]} h"
    near = nearest(target, READ_ONLY)
    meant = f", did you mean {near!r}?" if near else ""
    return (
        f"{target}: no rule makes it, expected one of {', '.join(sorted(READ_ONLY))}, or a file of the configuration: "
        f"members {format_members(config.members)}, leads to {config.leads[-1]} h, {name_cycles(config.cycles)}{meant}"
    )


def no_input(config: Config, rule: str, path: str) -> str:
    """Return in one line which file of the user's a rule needs, with its key."""
    for one in config.of_each_model:
        if one.checkpoint == path:
            own = one.model_folder or (one.model.name if one.model.name in one.given.by_model else "")
            key = f"by_model.{own}.checkpoint" if own else "checkpoint"
            return f"config: {key}: {path!r}: no such file, expected the checkpoint of {one.model.name}, or null"
    return f"{path}: no such file, expected the input of {rule}"
