"""Which manifests Snakemake must have made again although they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.config import Config
from aifs_ensemble.delivery import deliver_member
from aifs_ensemble.ensemble import write_ensemble_manifest
from aifs_ensemble.outdated import outdated
from aifs_ensemble.storage import open_destination

from storage.members import make_config, make_member

MANIFESTS = ["manifests/member001.json", "manifests/member002.json", "manifests/member003.json", "manifest.json"]
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the same again": ({}, []),
    "more leads": ({"lead_hours": 30}, ["manifest.json", "manifests/member001.json", "manifests/member002.json"]),
    "fewer leads": ({"lead_hours": 12}, ["manifest.json"]),
    "another member": ({"members": "1-3"}, ["manifest.json"]),
    "fewer members": ({"members": "2"}, ["manifest.json"]),
    "fewer are enough": ({"min_members": 1}, ["manifest.json"]),
    "other files": ({"delivery": {"layout": "both"}}, ["manifest.json"]),
}


@pytest.fixture
def config(tmp_path: Path, destination: str) -> Config:
    """Members 1 and 2 delivered, and the ensemble's manifest written."""
    made = make_config(tmp_path / "scratch", destination)
    for member in made.members:
        make_member(made, member)
        deliver_member(made, member)
    write_ensemble_manifest(made)
    return made


def look(config: Config, **asked: Any) -> list[str]:
    """Return what is outdated at the destination, by the paths of a folder or the keys of a bucket."""
    now = make_config(config.scratch.root, config["destination"], **asked)
    if now.cloud_destination:
        found = outdated(now, [f"{now.cycle}/{name}" for name in MANIFESTS], open_destination(now))
    else:
        found = outdated(now, [f"{now['destination']}/{now.cycle}/{name}" for name in MANIFESTS])
    return [path.partition(f"{now.cycle}/")[2] for path in found]


@pytest.mark.parametrize("case", CASES)
def test_what_is_asked_for_now(case: str, config: Config) -> None:
    asked, expected = CASES[case]
    assert look(config, **asked) == expected


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"schema": "x"}'], ids=["empty", "a list", "another kind"])
def test_a_damaged_manifest_is_outdated(content: bytes, config: Config) -> None:
    storage = open_destination(config)
    for key in (config.keys_.manifest(2), config.keys_.ensemble_manifest):
        storage.put_bytes(content, key, overwrite=True)
    assert look(config) == ["manifest.json", "manifests/member002.json"]
