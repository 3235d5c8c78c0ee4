"""Which manifests Snakemake must have made again although they are there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import write_json
from aifs_ensemble.common.manifest import write_member_manifest
from aifs_ensemble.common.parameters import bits_for
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.workflow.outdated import outdated
from delivery.members import make_config, make_member

MANIFESTS = ["manifests/member001.json", "manifests/member002.json", "manifests/member003.json", "manifest.json"]
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the same again": ({}, []),
    "more leads": ({"lead_hours": 30}, ["manifest.json", "manifests/member001.json", "manifests/member002.json"]),
    "fewer leads": ({"lead_hours": 12}, ["manifest.json"]),
    "another member": ({"members": "1-3"}, ["manifest.json"]),
    "fewer members": ({"members": "2"}, ["manifest.json"]),
    "fewer are enough": ({"min_members": 1}, ["manifest.json"]),
    "other files": (
        {"delivery": {"layout": "both"}},
        ["manifest.json", "manifests/member001.json", "manifests/member002.json"],
    ),
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
    now = make_config(config.scratch.root, config.destination, **asked)
    base = now.cycle if now.cloud_destination else f"{now.destination}/{now.cycle}"
    receipts = {f"{base}/{name}": f"{base}/{name.replace('manifests', 'receipts')}" for name in MANIFESTS[:3]}
    paths = [f"{base}/{name}" for name in MANIFESTS]
    found = outdated(now, paths, open_destination(now) if now.cloud_destination else None, receipts=receipts)
    return [path.partition(f"{now.cycle}/")[2] for path in found]


@pytest.mark.parametrize("case", CASES)
def test_what_is_asked_for_now(case: str, config: Config) -> None:
    asked, expected = CASES[case]
    assert look(config, **asked) == expected


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"schema": "x"}'], ids=["empty", "a list", "another kind"])
def test_a_damaged_manifest_is_outdated(content: bytes, config: Config) -> None:
    storage = open_destination(config)
    for key in (config.objects.manifest(2), config.objects.ensemble_manifest):
        storage.put_bytes(content, key, overwrite=True)
    assert look(config) == ["manifest.json", "manifests/member002.json"]


SETTINGS = {"precision": "16", "compile": False, "accumulate": "from_start"}
IDEALISED = {"source": {"kind": "idealised", "seed": 0, "amplitude": 1.0}}
OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "aifs-ens-1.0"}, "model demo, not aifs-ens-1.0; grid N32, not N320"),
    "precision": ({"forecast": {"precision": "bf16"}}, "precision 16, not bf16"),
    "compilation": ({"forecast": {"precision": "16", "compile": True}}, "compile false, not true"),
    "source": (
        {"initial_conditions": {"source": "ecmwf-open-data"}},
        "initial conditions idealised, not ecmwf-open-data",
    ),
    "seed": ({"initial_conditions": {"idealised": {"seed": 3}}}, "initial conditions' seed 0, not 3"),
    "packing": ({"forecast": {"precision": "16", "packing": {"t": 12}}}, "packing of t_100 14 bits, not 12"),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_delivered_member_of_other_settings_is_refused_and_one_on_scratch_is_made_again(
    case: str, tmp_path: Path
) -> None:
    asked, expected = OTHER[case]
    asked = {"forecast": {"precision": "16"}} | asked
    config = make_config(tmp_path / "scratch", str(tmp_path / "out"), **asked)
    made = make_config(tmp_path / "scratch", str(tmp_path / "out"), forecast={"precision": "16"})
    packing = bits_for(made.model.delivered, {})
    manifest = replace(make_member(made, 1), settings=SETTINGS | {"packing": packing}, initial_conditions=IDEALISED)
    path = str(made.scratch.manifest(1))
    write_member_manifest(made.scratch.manifest(1), manifest)
    deliver_member(made, 1)
    there, receipt = (f"{made.destination}/{key(1)}" for key in (made.objects.manifest, made.objects.receipt))
    assert outdated(config, [path]) == [path]
    with pytest.raises(VerificationError, match=re.escape(f"made with {expected}")) as error:
        outdated(config, [there], receipts={there: receipt})
    assert "gc --finished 1 --delete" in str(error.value)
    assert outdated(made, [path, there], receipts={there: receipt}) == []
    Path(receipt).unlink()
    assert outdated(made, [there], receipts={there: receipt}) == [there]


@pytest.mark.parametrize(
    ("source", "asked", "again"),
    [
        (IDEALISED, {}, False),
        (IDEALISED, {"initial_conditions": {"idealised": {"seed": 1}}}, True),
        (IDEALISED, {"initial_conditions": {"source": "ecmwf-open-data"}}, True),
        ({"source": {"kind": "pickle"}}, {"initial_conditions": {"source": "ecmwf-open-data"}}, False),
        ({"source": {"kind": "ecmwf-open-data"}}, {}, True),
    ],
)
def test_an_initial_state_of_another_source_is_made_again(
    source: dict[str, Any], asked: dict[str, Any], again: bool, tmp_path: Path
) -> None:
    config = make_config(tmp_path / "scratch", str(tmp_path / "out"), **asked)
    summary, cycle = tmp_path / "initial" / "member001.json", tmp_path / "initial" / "cycle.json"
    write_json(summary, {"provenance": source})
    write_json(cycle, source)
    assert outdated(config, [str(summary), str(cycle)]) == ([str(cycle), str(summary)] if again else [])
