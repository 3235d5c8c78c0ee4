"""The settings that decide a member's bytes: declared once, and spelled as members made before spell them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import digest
from aifs_ensemble.forecast.request import ForecastRequest, member_settings
from aifs_ensemble.forecast.settings import ForecastSettings, settings_digest
from aifs_ensemble.forecast.work_folder import KnownFile
from aifs_ensemble.model.compile_cache import cache_name
from delivery.members import make_config

OTHERS = {
    "precision": "bf16",
    "compile": True,
    "deterministic": False,
    "chunks": 4,
    "packing": {"t": 12},
    "accumulate": "per_step",
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "demo": {},
    "real": {"model": "aifs-ens-1.0"},
    "others": {"forecast": OTHERS},
}
FILES = {
    "checkpoint": KnownFile("checkpoint", 1, 1, "c" * 64),
    "initial_state": KnownFile("state", 1, 1, "d" * 64),
}


def config_of(name: str, **forecast: Any) -> Config:
    over = CONFIGURATIONS[name]
    return make_config(Path("scratch"), "out", **{**over, "forecast": {**over.get("forecast", {}), **forecast}})


def fingerprint(config: Config) -> dict[str, Any]:
    return member_settings(ForecastRequest.from_config(config, 1, checkpoint=Path("checkpoint")), FILES, "cuda")


# Of members, machines' records and compile caches that exist: another digest makes every member afresh.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", "ab865fd76793724dd9d9f744386df8b4abeaed471169703e61478ad888a490a1"),
        ("real", "92ce23b22ae17c9d1e9ec0c4976368dd5437fc6c1a7e8debcb7d792eee683f81"),
        ("others", "ca2605bd8d492b705dc0f325ffa73f5a9640a160a8d2a651a18519e745a1693c"),
    ],
)
def test_the_fingerprint_of_a_member_stays(name: str, expected: str) -> None:
    assert digest(fingerprint(config_of(name))) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("demo", "9e65dbc9a541074a"), ("real", "75e4ef0eb3099191"), ("others", "6689cd4761b476d8")]
)
def test_the_digest_that_members_agree_by_stays(name: str, expected: str) -> None:
    assert settings_digest(config_of(name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", "_demo_precision-32_chunks-1_"),
        ("real", "_aifs-ens-1.0_precision-32_chunks-1_"),
        ("others", "_demo_precision-bf16_chunks-4_any-order_"),
    ],
)
def test_the_name_of_a_compile_cache_stays(name: str, expected: str) -> None:
    machine, sources = cache_name("NVIDIA L4", config_of(name)).split(expected)
    assert machine.startswith("NVIDIA-L4_torch-") and len(sources) == 12


def test_the_keys_of_a_manifests_settings_stay_in_their_order() -> None:
    assert list(fingerprint(config_of("demo"))) == [
        "model", "grid", "cycle", "member", "ensemble_size", "checkpoint", "initial_state", "variables", "seed",
        "device",
        "precision", "compile", "deterministic", "chunks", "packing", "accumulate",
    ]  # fmt: skip


@pytest.mark.parametrize("setting", [field.name for field in fields(ForecastSettings)])
def test_every_setting_of_the_list_decides(setting: str) -> None:
    """Fingerprint and comparison follow the list, so a setting that is added to it counts in both."""
    usual, other = config_of("demo"), config_of("demo", **{setting: OTHERS[setting]})
    assert fingerprint(usual)[setting] != fingerprint(other)[setting]
    assert settings_digest(usual) != settings_digest(other)


@pytest.mark.parametrize("setting", [{"device": "cpu"}, {"encoders": 7}, {"cuda_graph": True}, {"restart_hours": 24}])
def test_settings_outside_the_list_do_not_decide(setting: dict[str, Any]) -> None:
    usual, other = config_of("demo"), config_of("demo", **setting)
    assert fingerprint(usual) == fingerprint(other) and settings_digest(usual) == settings_digest(other)


@pytest.mark.parametrize("members", ["0-50", "1-50", "1", "0,1"])
def test_a_members_bytes_do_not_depend_on_the_members_that_one_run_makes(members: str) -> None:
    usual, run = config_of("demo"), make_config(Path("scratch"), "out", members=members)
    assert fingerprint(run) == fingerprint(usual) and settings_digest(run) == settings_digest(usual)
