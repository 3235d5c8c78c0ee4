"""Cards: every estimate lies where its neighbours let it, and a card that no table knows is the nearest known one."""

from __future__ import annotations

import dataclasses
from itertools import permutations, product
from pathlib import Path

import pytest
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.gpu import Card
from aifs_ensemble.planning import plan as plan_module
from aifs_ensemble.planning.cards import own_card
from aifs_ensemble.planning.machines import Machines, load_machines
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.speeds import Speed
from aifs_ensemble.planning.throughput import Throughput

from planning import synthetic

MODEL = "aifs-ens-1.0"
WAYS = [("accelerated", True, True), ("compiled", True, False), ("eager", False, True)]


@pytest.mark.parametrize(("way", "deterministic"), product(WAYS, (True, False)))
def test_every_estimate_lies_between_what_its_neighbours_let_it(
    machines: Machines, throughput: Throughput, way: tuple[str, bool, bool], deterministic: bool
) -> None:
    """Of two cards, the forward passes differ by a factor between those of their arithmetic rates and bandwidths.

    A fifth is allowed beside that, since some are measured and others estimated. The rest of a step is the host's.
    """
    name, compiled, accelerated = way
    found = {
        card.name: throughput.speed(MODEL, card, "16", compiled, deterministic, accelerated)
        for card in machines.gpu_specs.values()
    }
    for one, other in permutations(machines.gpu_specs.values(), 2):
        factors = sorted((other.tflops / one.tflops, other.bandwidth_gb_s / one.bandwidth_gb_s))
        ratio = found[one.name].forward_seconds / found[other.name].forward_seconds
        assert 0.8 * factors[0] < ratio < 1.2 * factors[1], f"{one.name} takes {ratio:.2f} times {other.name}"
    for speed in found.values():
        assert speed.way == name
        assert speed.forward_seconds <= speed.step_seconds < speed.forward_seconds + 0.2


def test_an_estimate_takes_the_way_of_running_before_the_card(machines: Machines, throughput: Throughput) -> None:
    """A card measured in one way says nothing of another; the same way on its neighbour does."""
    a100 = machines.gpu_specs["A100-80GB"]
    eager = dataclasses.replace(
        throughput.entries[0], gpu=a100.name, compile=False, forward_seconds=3.0, step_seconds=3.1, source="made up"
    )
    table = dataclasses.replace(throughput, entries=(*throughput.entries, eager))
    assert table.speed(MODEL, a100, "16", compiled=False, deterministic=True) == eager
    asked = table.speed(MODEL, a100, "16", compiled=True, deterministic=True)
    assert asked == throughput.speed(MODEL, a100, "16", compiled=True, deterministic=True)
    assert "from H100-80GB" in asked.source
    assert asked.forward_seconds == pytest.approx(0.0926 * (0.8 * 989 / 312 + 0.2 * 3350 / 2039))
    # and its eager pass serves the card beside it, to which it is nearer than the H100
    near = table.speed(MODEL, machines.gpu_specs["A100-40GB"], "16", compiled=False, deterministic=True)
    assert near.source == "estimated from A100-80GB by arithmetic and bandwidth"
    assert 3 < near.forward_seconds < 3 * 2039 / 1555


def test_a_pass_that_fell_back_is_not_an_accelerated_one(machines: Machines, throughput: Throughput) -> None:
    h100 = machines.gpu_specs["H100-80GB"]
    own = dataclasses.replace(throughput.entries[0], accelerated=False, forward_seconds=0.15, step_seconds=0.16)
    table = dataclasses.replace(throughput, entries=(own, *throughput.entries))
    assert table.speed(MODEL, h100, "16", True, True, accelerated=False) == own
    assert table.speed(MODEL, h100, "16", True, True).forward_seconds == 0.0926
    without = throughput.speed(MODEL, h100, "16", True, True, accelerated=False)
    assert without.status == "estimated" and without.source.endswith("measured with pass accelerated")


@pytest.mark.parametrize(("gpu", "forward"), [("H200", 0.0866), ("H100-80GB", 0.0926)])
def test_each_measured_card_is_estimated_from_the_other_within_a_hundredth(
    machines: Machines, throughput: Throughput, gpu: str, forward: float
) -> None:
    others = tuple(entry for entry in throughput.entries if entry.gpu != gpu)
    table = dataclasses.replace(throughput, entries=others)
    found = table.speed(MODEL, machines.gpu_specs[gpu], "16", compiled=True, deterministic=True)
    assert found.status == "estimated"
    assert found.forward_seconds == pytest.approx(forward, rel=0.01)


UNKNOWN = [
    ("NVIDIA B300", 275_000, 8000.0, "H200", "memory bandwidth"),
    ("NVIDIA A10G", 23_028, 600.0, "A10", "memory bandwidth"),
    ("Quadro RTX 6000", 24_576, 672.0, "A10", "memory bandwidth"),
    ("NVIDIA H100 64GB", 65_247, 2020.0, "H100-PCIE", "name"),
    ("NVIDIA A100-SXM-64GB", 65_536, 0.0, "A100-80GB", "name"),
    ("Tesla V100-SXM2-16GB", 16_384, 898.0, "L40S", "memory bandwidth"),
    ("card 5f", 23_034, 0.0, "L4", "memory"),
]


@pytest.mark.parametrize(("name", "memory", "bandwidth", "like", "by"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_an_unknown_card_is_the_nearest_known_one(
    machines: Machines, throughput: Throughput, name: str, memory: int, bandwidth: float, like: str, by: str
) -> None:
    card = own_card(name, 2, memory, bandwidth, machines.gpu_specs)
    known = throughput.speed(MODEL, machines.gpu_specs[like], "16", compiled=True, deterministic=True)
    found = throughput.speed(MODEL, card, "16", compiled=True, deterministic=True)
    assert (card.name, card.count, card.memory_mb) == (name, 2, memory)
    assert (found.gpu, found.status, found.step_seconds) == (name, "estimated", known.step_seconds)
    assert found.source.startswith(f"estimated from {like}, the nearest known card by {by} (")


def test_a_known_card_keeps_its_own_memory(machines: Machines) -> None:
    card = own_card("NVIDIA H200 NVL", 4, 143_000, 4814.0, machines.gpu_specs)
    assert (card.name, card.count, card.memory_mb, card.like) == ("H200", 4, 143_000, "")


def planned(tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch, card: Card) -> tuple[Speed, list[str]]:
    """Return the speed that a plan for this machine takes, and its notes."""
    monkeypatch.setattr(plan_module, "cards", lambda: [card])
    config = synthetic.config(tmp_path / "scratch", destination=str(tmp_path / "out"))
    found = plan(plan_case(config, machines, profile="local", work=everything(config), runs=()))
    return found.chosen.speed, [finding.text for finding in found.findings]


def test_a_plan_on_an_h200_takes_what_was_measured(
    tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed, notes = planned(tmp_path, machines, monkeypatch, Card("NVIDIA H200", "", 150_754_820_096, 0, 4917.0))
    assert (speed.gpu, speed.step_seconds, speed.status) == ("H200", 0.091, "measured")
    assert not [note for note in notes if "not measured" in note]


def test_a_plan_says_what_an_unknown_card_was_likened_to(
    tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed, notes = planned(tmp_path, machines, monkeypatch, Card("NVIDIA B300", "", 288_000_000_000, 0, 8000.0))
    assert speed.step_seconds == 0.091
    said = [note for note in notes if note.startswith("NVIDIA B300: not measured, ")]
    assert len(said) == 1
    assert said[0].endswith(
        " s a step estimated from H200, the nearest known card by memory bandwidth (measured 2026-11-28)"
    )


@pytest.mark.parametrize(("name", "warned"), [("Tesla T4", True), ("NVIDIA A100-SXM4-40GB", False)])
def test_a_card_without_bfloat16_is_warned_of(
    tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch, name: str, warned: bool
) -> None:
    monkeypatch.setattr(plan_module, "cards", lambda: [Card(name, "", 40 << 30, 0, 0.0)])
    forecast = {"device": "cuda", "precision": "bf16", "compile": True}
    config = synthetic.config(tmp_path / "scratch", destination=str(tmp_path / "out"), forecast=forecast)
    found = plan(plan_case(config, machines, profile="local", work=everything(config), runs=()))
    said = [one.text for one in found.findings if "bfloat16" in one.text]
    expected = "forecast.precision: bf16, the T4 has compute capability 7.5 and no products of bfloat16, expected 16"
    assert said == ([expected] if warned else [])


def test_a_card_without_its_figures_is_one_line(tmp_path: Path) -> None:
    table = tmp_path / "machines.yaml"
    text = load_machines().path.read_text()
    table.write_text(text.replace("T4: {memory_mb: 15360, tflops: 65,", "T4: {memory_mb: 15360, tflops: fast,"))
    with pytest.raises(ConfigError, match=r"^machines\.yaml: cards\.T4\.tflops: 'fast', expected a number"):
        load_machines(table)
