"""Speeds: measured, estimated, corrected by runs."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.planning.account import account
from aifs_ensemble.planning.cards import gpu_name
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.runs import read_run
from aifs_ensemble.planning.speeds import Speed
from aifs_ensemble.planning.tables import against_baseline
from aifs_ensemble.planning.throughput import (
    TABLE,
    Throughput,
    add_result,
    card_step_seconds,
    load_throughput,
    own_start_up_seconds,
    past_manifests,
    phase_seconds,
    with_runs,
)

from planning import synthetic
from planning.synthetic import Piece


def test_every_entry_says_what_it_rests_on(throughput: Throughput) -> None:
    for entry in throughput.entries:
        assert entry.status in ("measured", "estimated")
        assert entry.source
        assert entry.step_seconds >= entry.forward_seconds > 0


def test_an_entry_is_taken_as_it_is(machines: Machines, throughput: Throughput) -> None:
    h100 = machines.gpu_specs["H100-80GB"]
    entry = next(e for e in throughput.entries if e.gpu == "H100-80GB" and e.compile and e.deterministic)
    assert throughput.speed("aifs-ens-1.0", h100, "16", compiled=True, deterministic=True) == entry


def test_other_cards_are_scaled_by_arithmetic_and_bandwidth(machines: Machines, throughput: Throughput) -> None:
    """By hand: of an eager pass 0.37 of the H100's time goes with its bandwidth, the rest with its arithmetic rate."""
    a100, h100, l4 = (machines.gpu_specs[name] for name in ("A100-80GB", "H100-80GB", "L4"))
    carried = throughput.reference.carried_over
    expected = 0.2 * (0.63 * 989 / 312 + 0.37 * 3350 / 2039)
    assert carried(0.2, "eager", h100, a100) == pytest.approx(expected)
    assert carried(expected, "eager", a100, h100) == pytest.approx(0.2), "and back"
    assert carried(0.2, "eager", h100, h100) == pytest.approx(0.2)
    over = carried(carried(0.2, "accelerated", h100, a100), "accelerated", a100, l4)
    assert over == pytest.approx(carried(0.2, "accelerated", h100, l4)), "by whatever way"
    speeds = [
        throughput.speed("aifs-ens-1.0", machines.gpu_specs[name], "16", compiled=True, deterministic=True).step_seconds
        for name in ("H100-80GB", "A100-80GB", "A100-40GB", "L4")
    ]
    assert speeds == sorted(speeds)
    estimated = throughput.speed("aifs-ens-1.0", a100, "16", compiled=True, deterministic=True)
    assert estimated.status == "estimated"
    assert "H100-80GB by arithmetic and bandwidth" in estimated.source


def test_settings_that_were_not_measured_are_named(machines: Machines, throughput: Throughput) -> None:
    found = throughput.speed("aifs-ens-1.0", machines.gpu_specs["L4"], "bf16", compiled=True, deterministic=True)
    assert "measured with precision 16" in found.source


def test_float8_has_figures_of_its_own_and_lends_them_to_no_other(machines: Machines, throughput: Throughput) -> None:
    def speed(card: str, precision: str) -> Speed:
        return throughput.speed("aifs-ens-1.0", machines.gpu_specs[card], precision, True, True)

    eight, half = speed("H200", "fp8"), speed("H200", "16")
    assert eight.forward_seconds < half.forward_seconds and eight.step_seconds <= half.step_seconds
    # nearer by its speed is the same card in 16 bits
    assert "estimated from H200" in speed("H100-80GB", "fp8").source
    assert speed("L4", "16").source == "estimated from H100-80GB by arithmetic and bandwidth"
    assert "fp8" not in speed("L40S", "bf16").source


def test_an_unknown_model_still_gets_an_estimate(throughput: Throughput) -> None:
    found = throughput.speed("another", None, "32", compiled=False, deterministic=True)
    assert (found.gpu, found.status) == ("cpu", "estimated")
    assert throughput.size("another").status == "estimated"


NAMES = [
    ("NVIDIA H100 80GB HBM3", "H100-80GB"),
    ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
    ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
    ("NVIDIA L4", "L4"),
    ("NVIDIA L40S", "L40S"),
    ("NVIDIA H200", "H200"),
    ("NVIDIA H100 PCIe", "H100-PCIE"),
    ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-ADA"),
    ("NVIDIA RTX A6000", "RTX-A6000"),
    ("Tesla T4", "T4"),
    ("Quadro RTX 6000", "Quadro RTX 6000"),
    ("cpu", "cpu"),
    ("", "cpu"),
]


@pytest.mark.parametrize(("device", "name"), NAMES)
def test_cards_by_the_driver_s_name(machines: Machines, device: str, name: str) -> None:
    assert gpu_name(device, machines.gpu_specs) == name


ENGINE: dict[str, Any] = {
    "schema": "aifs-ensemble/engine-benchmark/1",
    "model": "aifs-ens-size",
    "precision": "16",
    "device": "cuda",
    "modes": {
        "forward": {"step_seconds": 0.12, "peak_gpu_mb": 15000.0, "gpu": "NVIDIA A100-SXM4-80GB"},
        "engine-cold": {"step_seconds": 0.3, "startup_seconds": 75.0},
        "engine": {"step_seconds": 0.29, "forward_seconds": 0.28, "startup_seconds": 18.0, "drain_seconds": 2.0},
    },
}


def test_a_benchmark_replaces_the_entry_of_its_card(tmp_path: Path, machines: Machines) -> None:
    table = tmp_path / "throughput.json"
    shutil.copy(TABLE, table)
    before = load_throughput(machines.gpu_specs, table)
    for step in (0.29, 0.27):
        result = copy.deepcopy(ENGINE)
        result["modes"]["engine"]["step_seconds"] = step
        add_result(result, machines.gpu_specs, table)
    after = load_throughput(machines.gpu_specs, table)
    assert len(after.entries) == len(before.entries) + 1
    a100 = after.speed("aifs-ens-1.0", machines.gpu_specs["A100-80GB"], "16", compiled=True, deterministic=True)
    assert (a100.status, a100.step_seconds, a100.startup_seconds, a100.cold_seconds) == ("measured", 0.27, 18.0, 57.0)
    assert a100.peak_gpu_mb == 15000.0
    lines = {line.rstrip(",") for line in table.read_text().splitlines()}
    assert {line.rstrip(",") for line in TABLE.read_text().splitlines()} <= lines  # a line each, as people wrote them


NUMBERS = ("step_seconds", "forward_seconds", "startup_seconds", "drain_seconds", "peak_gpu_mb")
SOUND = {
    **dict.fromkeys(NUMBERS, 1.0),
    **{"model": "m", "gpu": "L4", "precision": "16", "compile": True, "deterministic": True},
}
WRONG = [
    ({"modes": {}}, "mode 'engine' is missing or failed"),
    ({"model": "aifs-ens-1.0", "gpu": "L4"}, "precision is missing"),
    ({**SOUND, "peak_gpu_mb": "big"}, "peak_gpu_mb: 'big', expected a number"),
    ({**SOUND, "step_seconds": -1}, "step_seconds: -1, expected a number of at least 0"),
]


@pytest.mark.parametrize(("result", "message"), WRONG, ids=[case[1][:20] for case in WRONG])
def test_a_result_that_is_none_is_one_line(
    tmp_path: Path, machines: Machines, result: dict[str, Any], message: str
) -> None:
    table = tmp_path / "throughput.json"
    shutil.copy(TABLE, table)
    with pytest.raises(ConfigError) as error:
        add_result(result, machines.gpu_specs, table)
    assert message in str(error.value)
    assert table.read_bytes() == TABLE.read_bytes()


def test_a_table_of_another_kind_is_refused(tmp_path: Path, machines: Machines) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"schema": "other"}))
    with pytest.raises(ConfigError, match="not a throughput table"):
        load_throughput(machines.gpu_specs, file)


BAD_REFERENCES = [
    ({"gpu": "H300"}, "reference.gpu 'H300' is not a card of machines.yaml"),
    ({"bandwidth_share": {"accelerated": 0.2, "compiled": 0.3}}, "reference.bandwidth_share: eager is missing"),
    ({"bandwidth_share": {"accelerated": 0.2, "compiled": 0.3, "eager": 37}}, "eager: 37, expected a number from 0"),
    ({"arithmetic_seconds": 0.05}, "reference: unknown key 'arithmetic_seconds'"),
]


@pytest.mark.parametrize(("change", "message"), BAD_REFERENCES, ids=[case[1][:30] for case in BAD_REFERENCES])
def test_a_wrong_reference_is_one_line(
    tmp_path: Path, machines: Machines, change: dict[str, Any], message: str
) -> None:
    content = json.loads(TABLE.read_text())
    content["reference"] |= change
    file = tmp_path / "throughput.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as error:
        load_throughput(machines.gpu_specs, file)
    assert message in str(error.value) and str(file) in str(error.value)


def test_phases_add_up_to_the_total() -> None:
    timings = {"load": 5.0, "compile": 40.0, "steps": 20.0, "wait_output": 3.0, "drain": 2.0, "total": 70.0}
    found = phase_seconds(timings, [0.12] * 100)
    assert found == pytest.approx({"start_up": 48, "compute": 12, "wait_output": 3, "between": 5, "drain": 2})
    assert sum(phase_seconds({}, [0.5, 0.5]).values()) == pytest.approx(1.0)


def test_members_that_share_a_card_make_their_steps_in_the_same_time(tmp_path: Path) -> None:
    config = synthetic.config(tmp_path)
    alone = [synthetic.manifest(config, 1, [Piece(0.0, steps=66, compute=60)])]
    assert card_step_seconds(alone) == pytest.approx(0.5)
    shared = [synthetic.manifest(config, member, [Piece(0.0, steps=66, compute=60)]) for member in (1, 2)]
    assert card_step_seconds(shared) == pytest.approx(0.25)
    apart = [synthetic.manifest(config, m, [Piece(0.0, steps=66, compute=60, machine=f"vm-{m}")]) for m in (1, 2)]
    assert card_step_seconds(apart) == pytest.approx(0.5)


def test_runs_correct_the_next_plan(tmp_path: Path, machines: Machines, throughput: Throughput) -> None:
    config = synthetic.config(tmp_path)
    made = {member: [Piece(0.0, start_up=30, steps=66, compute=60, machine=f"vm-{member}")] for member in (1, 2, 3)}
    synthetic.write_run(config, made, metrics=False)
    found = past_manifests(config.scratch.root)
    corrected = with_runs(throughput, found, machines.gpu_specs)
    a100 = machines.gpu_specs["A100-80GB"]
    speed = corrected.speed("aifs-ens-1.0", a100, "16", compiled=True, deterministic=True)
    assert (speed.status, speed.source) == ("from runs", "median of 3 finished members")
    assert speed.step_seconds == pytest.approx(0.5)
    assert speed.startup_seconds == pytest.approx(30)
    before = plan(plan_case(config, machines, work=everything(config), runs=()))
    after = plan(plan_case(config, machines, work=everything(config)))
    assert after.chosen.step_seconds == pytest.approx(0.5)
    assert after.case.lead_bytes == 70_000_000 != before.case.lead_bytes
    config.scratch.manifest(2).write_text("{")
    assert sorted(manifest.member for manifest in past_manifests(config.scratch.root)) == [1, 3]


def test_waiting_for_the_card_is_no_start_up(tmp_path: Path) -> None:
    config = synthetic.config(tmp_path, members="1")
    manifest = synthetic.manifest(config, 1, [Piece(0.0, start_up=30, steps=66)])
    assert own_start_up_seconds(manifest) == pytest.approx(30)
    waited = replace(manifest, timings={**manifest.timings, "wait_turn": 18.0})
    assert own_start_up_seconds(waited) == pytest.approx(12)
    assert phase_seconds(waited.timings)["start_up"] == pytest.approx(30)


def test_a_run_beside_the_baseline(tmp_path: Path, machines: Machines, throughput: Throughput) -> None:
    config = synthetic.config(tmp_path, members="1")
    synthetic.write_run(config, {1: [Piece(0.0)]})
    found = against_baseline(account(config, machines, read_run(config, None)), throughput).set_index("what")
    assert found.loc["machine time a member, s", "recorded"] == 443
    assert found.loc["machine time a member, s", "this run"] == pytest.approx(110)
    assert found.loc["machine time a member, s", "recorded / run"] == pytest.approx(443 / 110)
    assert found.loc["GB a member", "this run"] == pytest.approx(132 * 0.07)
