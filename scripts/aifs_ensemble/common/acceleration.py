"""Which forward pass a member was made with, and why: the record in its attempts, its manifest and its status.

The accelerated pass and the model's own differ in their last bits, so a member is made with one of them throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The precision whose products are in float8: no other pass has it, and members that ask for it are made with no other.
FLOAT8 = "fp8"


@dataclass(frozen=True)
class Acceleration:
    """Whether the accelerated pass is used.

    Attributes
    ----------
    accelerated : it is
    reason : why not, empty where it is
    asked : the settings ask for it; without, its absence is as planned
    self_check : how far it was from the model's own pass, as `SelfCheck.to_json` gives it; None where not compared
    unchecked : why the two were not compared
    attention : by what the accelerated pass attends within its window, empty for the model's own
    """

    accelerated: bool
    reason: str = ""
    asked: bool = True
    self_check: Mapping[str, Any] | None = None
    unchecked: str = ""
    attention: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as manifests hold it."""
        found: dict[str, Any] = {"accelerated": self.accelerated, "asked": self.asked}
        found |= {"reason": self.reason} if self.reason else {}
        found |= {"attention": self.attention} if self.attention else {}
        found |= {"self_check": dict(self.self_check)} if self.self_check is not None else {}
        return found | ({"self_check_not_done": self.unchecked} if self.unchecked else {})

    def __str__(self) -> str:
        return "accelerated: yes" if self.accelerated else f"accelerated: no, because {self.reason}"


def why_not_accelerated(record: Mapping[str, Any]) -> str:
    """Return why a member was not accelerated although its settings ask for it; empty where all is as planned."""
    if record.get("accelerated", True) or not record.get("asked", True):
        return ""
    return str(record.get("reason") or "for no known reason")
