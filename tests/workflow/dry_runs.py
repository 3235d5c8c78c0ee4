"""Dry-runs of the real workflow, each in a fork of one process that has imported Snakemake."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")


def dry_run(
    folder: Path, *arguments: str, profile: str = "local", environment: dict[str, str] | None = None, code: int = 0
) -> str:
    """Return what ``snakemake --profile PROFILE -n ARGUMENTS`` says in a copy of the checkout; it ends with `code`."""
    _FORKS.set_forkserver_preload(["snakemake.cli", "aifs_ensemble.workflow.snakefile"])
    said = folder / "said.txt"
    process = _FORKS.Process(target=_snakemake, args=(folder, ["--profile", profile, "-n", *arguments], environment))
    process.start()
    process.join(200)
    text = said.read_text()
    assert process.exitcode == code, text[-4000:]
    return text


def _snakemake(folder: Path, arguments: list[str], environment: dict[str, str] | None) -> None:
    os.environ.update(environment or {})
    os.chdir(folder)
    with open("said.txt", "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    import atexit

    from snakemake.cli import main

    sys.argv = ["snakemake", *arguments]
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # a fork of multiprocessing runs none; the plan is said there


def jobs(said: str) -> dict[str, list[int]]:
    """Return by rule the members whose jobs are planned; none for the rules of the ensemble, ``all`` left out."""
    found: dict[str, list[int]] = {}
    rule = ""
    for line in map(str.strip, said.splitlines()):
        if line.startswith(("rule ", "localrule ")):
            rule = line.split()[1].rstrip(":")
            found.setdefault(rule, [])
        elif line.startswith("wildcards: member="):
            found[rule].append(int(line.partition("=")[2]))
    return {name: sorted(members) for name, members in found.items() if name != "all"}
