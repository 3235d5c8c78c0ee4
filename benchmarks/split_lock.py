"""Part the installed packages: what users install, and what only tests need. For `make lock`.

usage: split_lock.py requirements.in requirements.txt requirements-test.txt     reads `pip freeze` from standard input
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def canonical(name: str) -> str:
    """Return a package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(roots: list[Requirement]) -> set[str]:
    """Return the installed packages that the roots need, themselves included, with the extras they ask for."""
    found: set[tuple[str, str]] = set()
    waiting = [(canonical(root.name), extra) for root in roots for extra in ("", *root.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        found.add((name, extra))
        for text in requires:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonical(requirement.name), each) for each in ("", *requirement.extras)]
    return {name for name, _ in found}


def markers_of(*sources: Path) -> dict[str, str]:
    """Return what lists say of the platforms of a package, which `pip freeze` does not know."""
    lines = [line.partition("#")[0].strip() for source in sources for line in source.read_text().splitlines()]
    found = [Requirement(line) for line in lines if line]
    return {canonical(item.name): f"; {item.marker}" for item in found if item.marker}


def main() -> None:
    source, users, tests = map(Path, sys.argv[1:])
    lines = [line.partition("#")[0].strip() for line in source.read_text().splitlines()]
    wanted = needed([Requirement(line) for line in lines if line])
    markers = markers_of(source, source.with_name("requirements-test.in"))
    frozen = [line.replace("+cpu", "") for line in sys.stdin.read().splitlines() if line.strip()]
    frozen = [line + markers.get(canonical(line.partition("==")[0]), "") for line in frozen]
    note = "# Made by `make lock` from {}: every package at the version that was tested.\n"
    mine = [line for line in frozen if canonical(line.partition("==")[0]) in wanted]
    users.write_text(note.format(source.name) + "".join(f"{line}\n" for line in mine))
    rest = [line for line in frozen if line not in mine]
    tests.write_text(note.format("requirements-test.in") + "".join(f"{line}\n" for line in rest))


if __name__ == "__main__":
    main()
