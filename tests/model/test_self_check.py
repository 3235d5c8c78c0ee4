"""The comparison of the two passes, its record, and the classes that the accelerated pass stands in for."""

from __future__ import annotations

import importlib
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from aifs_ensemble.common.acceleration import Acceleration, why_not_accelerated
from aifs_ensemble.model import forms, known_classes, self_check
from aifs_ensemble.model.forms import network_class
from aifs_ensemble.model.self_check import THRESHOLDS, SelfCheck, compare_passes
from tested import MODEL

NAMES = {"t": 0, "q": 1}
POINTS = 400


def interface() -> Any:
    """What of an interface is looked at: t and q are read and made, tp is only made."""
    made = SimpleNamespace(name_to_index={"t": 0, "q": 1, "tp": 2})
    read = SimpleNamespace(name_to_index=NAMES)
    data = SimpleNamespace(input=SimpleNamespace(name_to_index={**NAMES, "tp": 2}))
    indices = SimpleNamespace(model=SimpleNamespace(input=read, output=made), data=data)
    return SimpleNamespace(data_indices=indices, statistics={"stdev": np.array([20.0, 1e-3, 2e-3])})


def passes(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """An input around usual values, and a step that changes t by 0.5 and q by 1e-5 rms, tp being 1e-3 rms apart."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, (POINTS, 3), generator=generator) * 2.0 - 1
    before = torch.tensor([280.0, 4e-3]).repeat(POINTS, 1)
    sign -= sign.mean(0)  # departures from the mean
    own = torch.cat([before, torch.full((POINTS, 1), 5e-3)], 1) + sign / sign.square().mean(0).sqrt() * torch.tensor(
        [0.5, 1e-5, 1e-3]
    )
    return before, own


@pytest.mark.parametrize(("place", "unit"), [(0, 0.5), (1, 1e-5), (2, 1e-3)])
def test_differences_are_in_units_of_what_the_step_changes(place: int, unit: float) -> None:
    before, own = passes()
    other = own.clone()
    other[:, place] += 0.02 * unit
    found = compare_passes(before, own, other, interface(), precision="16")
    assert found.variable == ["t", "q", "tp"][place] and found.largest == pytest.approx(0.02, rel=2e-2)
    assert not found.passed and found.threshold == THRESHOLDS["16"] == 1e-2
    assert compare_passes(before, own, other, interface(), precision="bf16").passed
    assert compare_passes(before, own, own, interface(), precision="16").largest == 0


def test_a_field_that_does_not_change_is_compared_with_its_deviation() -> None:
    before, own = passes()
    own[:, 1], other = before[:, 1], own.clone()
    other[:, 1] = before[:, 1] + 1e-3 * 1e-7
    found = compare_passes(before, own, own, interface(), precision="16")
    assert found.largest == 0 and math.isfinite(compare_passes(before, own, other, interface(), precision="16").largest)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_never_passes_and_survives_json(value: float) -> None:
    before, own = passes()
    other = own.clone()
    other[7, 0] = value
    found = compare_passes(before, own, other, interface(), precision="16")
    assert found.variable == "t" and math.isinf(found.largest) and not found.passed
    assert str(found) == "t is not finite, threshold 1e-02"
    again = SelfCheck.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again == found


def test_what_is_missing_in_both_is_left_out_and_in_one_never_passes() -> None:
    before, own = passes()
    land = torch.arange(POINTS) % 4 == 0
    for fields in (before[:, :1], own[:, :1], own[:, 2:]):
        fields[land] = torch.nan
    other = own.clone()
    other[:, 0] += 0.02 * (own - before.new_tensor([280.0, 4e-3, 0.0]))[~land, 0].square().mean().sqrt()
    found = compare_passes(before, own, other, interface(), precision="16")
    assert found.variable == "t" and found.largest == pytest.approx(0.02, rel=2e-3)
    assert compare_passes(before, own, own, interface(), precision="16").largest == 0
    for place, value in ((0, 281.0), (2, 5e-3)):
        filled = own.clone()
        filled[land, place] = value
        assert math.isinf(compare_passes(before, own, filled, interface(), precision="16").largest)
    nothing = torch.full_like(own, torch.nan)
    assert math.isinf(compare_passes(before, nothing, nothing, interface(), precision="16").largest)


def test_a_result_survives_json() -> None:
    before, own = passes()
    found = compare_passes(before, own, own * 1.0001, interface(), precision="16", device="a card", own_gpu_mb=1.5)
    again = SelfCheck.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json() and again.largest == pytest.approx(found.largest, rel=1e-3)
    assert again.passed == found.passed and (again.device, again.own_gpu_mb) == ("a card", 1.5)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "another"},
        {"largest": "much"},
        {"largest": -1.0},
        {"largest": math.nan},
        {"passed": False},
        {"threshold": None},
        {"worst": [1]},
        {"variable": 3},
    ],
    ids=str,
)
def test_a_damaged_result_is_none(change: dict) -> None:
    content = SelfCheck(1e-3, "t", 1e-2, {"t": 1e-3}).to_json()
    assert SelfCheck.from_json(content).passed
    with pytest.raises(ValueError, match="not a self-check"):
        SelfCheck.from_json(content | change)
    with pytest.raises(ValueError, match="not a self-check"):
        SelfCheck.from_json([content])


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({}, ""),
        (Acceleration(True).to_json(), ""),
        (Acceleration(False, "the device is cpu", asked=False).to_json(), ""),
        (Acceleration(False, "it differs").to_json(), "it differs"),
    ],
)
def test_only_what_is_not_as_planned_is_told(record: dict, told: str) -> None:
    assert why_not_accelerated(record) == told


# the classes


CLASSES = network_class(MODEL.anemoi_models).classes


@pytest.mark.models
@pytest.mark.parametrize("name", [f"{module}.{kind}" for module, kinds in CLASSES.items() for kind in kinds])
def test_the_installed_classes_are_those_that_were_read(name: str) -> None:
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(f"anemoi.models.{module}"), kind)
    assert known_classes.class_digest(found) == CLASSES[module][kind][0]


SOURCE = '''
class Layer(Base):
    """What it is."""

    scale = 2.0

    def forward(self, x):
        """Say what."""
        # why
        return x * self.scale
'''


def test_a_source_is_told_by_what_it_does() -> None:
    digest = known_classes.source_digest(SOURCE)
    indented = "\n".join(f"    {line}" if line else line for line in SOURCE.splitlines())
    for same in (
        SOURCE.replace("why", "because"),
        SOURCE.replace("What it is", "Another word"),
        indented,
        SOURCE + "\n",
    ):
        assert known_classes.source_digest(same) == digest
    for other in (SOURCE.replace("2.0", "2.5"), SOURCE.replace("x *", "x +"), SOURCE.replace("Base", "Other")):
        assert known_classes.source_digest(other) != digest


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("0.5.1", True),
        ("0.6.0", True),
        ("0.6.12", True),
        ("0.60.0", False),
        ("0.7.0", False),
        ("0.9.3", False),
        ("0.11.2", True),
        ("0.11.10", True),
        ("0.1.0", False),
        ("0.110.0", False),
        ("0.12.0", False),
        ("none", False),
    ],
)
def test_only_known_versions_are_accelerated(version: str, known: bool) -> None:
    reason = forms.unknown_version(version)
    assert (reason == "") == known and (known or (version in reason and "0.5, 0.6 and 0.11" in reason))


@pytest.mark.parametrize(
    ("form", "channels", "measured", "parameters"), [("0.6", 1024, 26.4e9, 0), ("0.11", 1536, 9.3e9, 539.7e6)]
)
def test_room_for_both_is_at_least_what_was_measured(
    form: str, channels: int, measured: float, parameters: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On H100 and H200, N320 (docs/performance.md); weights in float32 and float16 are on the card before the step."""
    held, nodes = 6 * parameters, 542_080
    model = SimpleNamespace(
        node_attributes=SimpleNamespace(num_nodes={"data": nodes}), _graph_name_data="data", num_channels=channels
    )
    monkeypatch.setattr(self_check, "form_of", lambda _: form)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    for free, fits in ((measured - held, False), (1.5 * measured, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (int(free), 0))
        told = self_check.no_room_for_both(SimpleNamespace(model=model), torch.device("cuda"))
        assert (told == "") == fits and (fits or told.startswith("the model's own pass needs about "))
