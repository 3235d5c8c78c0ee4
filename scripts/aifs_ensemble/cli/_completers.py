"""What a shell offers behind Tab: files by themselves, and here names of profiles, keys and models.

They come from the checkout's files without the library, so that Tab answers at once.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aifs_ensemble.cli._checkout import CHECKOUT

_OF_PROFILE = re.compile(r"^(executor|cores|jobs):", re.MULTILINE)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks through the environment, and end."""
    import argcomplete

    for action in _actions(parser):
        if completer := _COMPLETERS.get(action.option_strings[0] if action.option_strings else action.dest):
            action.completer = completer  # type: ignore[attr-defined]  # argcomplete's own place for it
    argcomplete.autocomplete(parser, always_complete_options="long")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
        else:
            yield action


def profiles(**_: Any) -> list[str]:
    """Return the names of the profiles here."""
    return sorted(file.parent.name for file in Path().glob("*/config.yaml") if _OF_PROFILE.search(file.read_text()))


def keys(prefix: str = "", **_: Any) -> list[str]:
    """Return the keys of the configuration, each with the sign that its value follows."""
    schema = json.loads((CHECKOUT / "config" / "config.schema.json").read_text())
    return [f"{key}=" for key in _leaves(schema) if key.startswith(prefix)]


def _leaves(node: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, below in node.get("properties", {}).items():
        if "properties" in below:
            yield from _leaves(below, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def models(**_: Any) -> list[str]:
    """Return the entries of config/models.yaml."""
    return re.findall(r"^  ([\w.-]+):$", (CHECKOUT / "config" / "models.yaml").read_text(), re.MULTILINE)


_COMPLETERS: Mapping[str, Callable[..., list[str]]] = {
    "--profile": profiles,
    "--config": keys,
    "--model": models,
    "model": models,
}
