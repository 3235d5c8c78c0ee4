"""What a workflow can tell the executor; every method has a default that knows nothing of any workflow."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from snakemake_interface_common.exceptions import WorkflowError

if TYPE_CHECKING:
    from snakemake_executor_plugin_coiled import ExecutorSettings
    from snakemake_executor_plugin_coiled.records import JobRecord


class Hooks:
    """A subclass is named with ``--coiled-hooks module:Class`` and made once, when a run starts.

    A target is ``rule:wildcard=value,...``, as in Snakemake's ``--target-jobs``.
    """

    def __init__(self, settings: ExecutorSettings):
        """Take the settings, which may be changed; WorkflowError for what cannot work."""
        self.settings = settings

    def work(self) -> Any:
        """Return what tells a job from one of the same targets in another run from this folder, as JSON.

        A machine left by a coordinator that died is taken up again for the same targets of the same work alone.
        """
        return None

    def machine(self, resources: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the `vm_type`, `image` and `spot` of a job by its resources; what is absent is as the settings say."""
        asked = {name: resources.get(f"coiled_{name}") for name in ("vm_type", "image")}
        if spot := resources.get("coiled_spot"):
            asked["spot"] = spot == "spot"
        return asked

    def regions(self) -> Sequence[str]:
        """Return the regions to ask, in order; called where a machine is needed, so it may take a while."""
        return self.settings.regions or [""]

    def title(self, targets: Sequence[str]) -> str:
        """Return what a person calls a job."""
        return "+".join(sorted({target.split(":", 1)[0] for target in targets}))

    def tags(self, targets: Sequence[str]) -> dict[str, str]:
        """Return tags of the machine beside those of the settings."""
        return {}

    def environment(self, job_id: str) -> dict[str, str]:
        """Return variables for the machine beside those of Snakemake."""
        return {}

    def judge(self, targets: Sequence[str]) -> Mapping[str, str]:
        """Return, for targets whose outcome can be seen without the exit code, why they are not made; empty: they are.

        Called when a job has ended. What it raises is logged, and it is asked again at the next look.
        """
        return {}

    def rented(self, records: Sequence[JobRecord]) -> str | None:
        """Return a line to say after a machine was asked for, such as what is spent; `records` are of this work."""
        return None


def load_hooks(settings: ExecutorSettings) -> Hooks:
    """Return the hooks that the settings name. Raises WorkflowError when there are none of the name."""
    if not settings.hooks:
        return Hooks(settings)
    module, _, name = settings.hooks.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise WorkflowError(f"--coiled-hooks: {settings.hooks!r}, expected module:Class ({error})") from None
    with errors_in_one_line():
        made: Hooks = kind(settings)
    return made


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Have Snakemake show what a hook raises as its message alone."""
    try:
        yield
    except WorkflowError:
        raise
    except Exception as error:
        raise WorkflowError(" ".join(str(error).split()) or type(error).__name__) from None
