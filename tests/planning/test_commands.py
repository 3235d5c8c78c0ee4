"""The commands plan, account and benchmark, as a user calls them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import sys
import termios
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.cli import main
from aifs_ensemble.common.gpu import benchmark_problem, cards
from aifs_ensemble.planning.throughput import TABLE

from planning import synthetic


@pytest.fixture
def configfile(tmp_path: Path) -> str:
    """The operational configuration on an empty scratch."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(synthetic.config(tmp_path / "scratch").to_dict()))
    return str(file)


def test_plan_prints_tables(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--configfile", configfile]) == 0
    shown = capsys.readouterr().out
    for words in (
        "50 of 50 members",
        "forecast_member",
        "on demand",
        "a3-highgpu-1g",
        "fastest:",
        "prices from:",
    ):
        assert words in shown


def on_a_terminal(arguments: list[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    """Return the lines that a command writes to a terminal of so many columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    read: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):  # how Linux says that nobody writes any more
            while data := os.read(ours, 4096):
                read.append(data)

    listener = threading.Thread(target=listen)
    listener.start()
    with monkeypatch.context() as patch, open(theirs, "w") as terminal:
        patch.setattr(sys, "stdout", terminal)
        assert main(arguments) == 0
    listener.join()
    os.close(ours)
    return b"".join(read).decode().replace("\r", "").splitlines()


@pytest.mark.parametrize(("columns", "widest"), [(80, 80), (40, 80), (100, 100)])
def test_a_plan_fits_its_terminal(
    configfile: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, widest: int
) -> None:
    """The words are those of a pipe, less a column of the table; a terminal is taken to have 80 columns at least."""
    assert main(["plan", "--configfile", configfile]) == 0
    whole = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) > 100
    lines = on_a_terminal(["plan", "--configfile", configfile], monkeypatch, columns)
    assert max(map(len, lines)) <= widest
    heading = next(line for line in lines if line.startswith("machine "))
    left_out = [] if widest == 100 else ["spot time"]
    assert [name for name in ("VMs", "member", "total", "spot time", "speed") if name not in heading] == left_out
    told = " ".join(" ".join(lines).split())
    assert all(" ".join(line.split()) in told for line in whole.splitlines() if line.startswith(("spot:", "prices")))


def test_plan_as_json(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--configfile", configfile, "--json", "--deadline", "2"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "aifs-ensemble/plan/1"
    assert content["steps"] == 6600
    assert content["pick"]["hours"] <= 2
    assert {job["rule"]: job["count"] for job in content["jobs"]}["forecast_member"] == 50


def test_a_refused_plan_has_its_own_exit_code(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--configfile", configfile, "--bucket-region", "europe-west4"]) == 13
    assert (
        "error: plan: cloud.regions: the bucket is in europe-west4, machines in us-central1" in capsys.readouterr().err
    )
    assert main(["plan", "--configfile", configfile, "--deadline", "0.01"]) == 13
    assert main(["plan", "--configfile", configfile, "--config", "cloud.gpu=a2-ultragpu-2g"]) == 2


def test_a_deadline_with_nothing_missing_is_met(
    configfile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = synthetic.config(tmp_path / "scratch", members="1-3")
    synthetic.write_run(config, synthetic.ensemble(3, machines=1))
    command = ["plan", "--configfile", configfile, "--config", "members=1-3", "--deadline", "0.01"]
    assert main(command) == 0
    assert "no member is missing: there is nothing to choose a machine for" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert "pick" not in json.loads(capsys.readouterr().out)


def test_a_choice_is_printed_with_its_groups(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--configfile", configfile, "--deadline", "2"]) == 0
    shown = capsys.readouterr().out
    assert "cheapest that fits: 1 x" in shown
    assert "In pick.yaml:\n  cloud: {gpu: " in shown
    assert (
        f"snakemake --profile coiled-gpu --configfile {configfile} pick.yaml "
        "--group-components members=50 initial=1000" in shown
    )


def test_a_choice_does_not_hide_what_a_run_refuses(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    away = ["--config", "cloud.regions=[europe-west4]", "cloud.bucket_region=us-central1", "destination=gs://bucket"]
    for more in ([], ["--json"]):
        assert main(["plan", "--configfile", configfile, *away, "--deadline", "1", *more]) == 13
        said = capsys.readouterr()
        assert "the bucket is in us-central1, machines in europe-west4" in said.err
        assert "cheapest that fits" not in said.out
    # the machine of the configuration does not fit, the one chosen does
    small = ["--config", "cloud.gpu=g2-standard-8", "forecast.gpu_mem_mb=36000"]
    assert main(["plan", "--configfile", configfile, *small]) == 13
    assert main(["plan", "--configfile", configfile, *small, "--deadline", "3"]) == 0


def test_account_of_a_run_writes_tables_and_figures(
    configfile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = synthetic.config(tmp_path / "scratch", members="1-6")
    synthetic.write_run(config, synthetic.ensemble(6, machines=2))
    out = tmp_path / "out"
    command = ["account", "--configfile", configfile, "--config", "members=1-6", "--output", str(out)]
    assert main([*command, "--benchmarks", str(tmp_path / "none"), "--formats", "svg"]) == 0
    shown = capsys.readouterr().out
    assert "6 members" in shown
    assert "plan against actual" in shown
    assert "against what users recorded before" in shown
    assert "nan" not in shown and "e+0" not in shown
    assert {"members.csv", "costs.parquet", "gantt-dark.svg", "gpu-light.svg"} <= {file.name for file in out.iterdir()}


def test_account_without_a_run_is_one_line(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["account", "--configfile", configfile]) == 3
    assert "no finished member" in capsys.readouterr().err


@pytest.mark.skipif(bool(cards()), reason="this machine has a card, which the command would measure")
def test_benchmark_without_a_card_asks_for_the_toy(
    configfile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, instead of minutes of silence; what it asks for is taken."""
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("it measures"))
    assert main(["benchmark", "--configfile", configfile, "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "expected a GPU, and this machine has none" in said
    toy = said.rpartition("aifs-ensemble ")[2].split()
    assert toy[:4] == ["benchmark", "--", "--model", "demo"] and benchmark_problem(toy[3], "") is None


def test_benchmark_takes_results_in(configfile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, result = tmp_path / "throughput.json", tmp_path / "here.json"
    shutil.copy(TABLE, table)
    modes = {
        "forward": {"step_seconds": 1.0, "peak_gpu_mb": 15000, "gpu": "NVIDIA L4"},
        "engine": {"step_seconds": 1.1, "forward_seconds": 1.0, "startup_seconds": 20, "drain_seconds": 1},
    }
    result.write_text(json.dumps({"model": "aifs-ens-size", "precision": "16", "device": "cuda", "modes": modes}))
    command = ["benchmark", "--configfile", configfile, "--table", str(table), "--results", str(result)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "L4, 1.1000 s a step" in shown
    line = next(line for line in shown.splitlines() if line.startswith("g2-standard-8"))
    assert "measured" in line
    price = 132 * 1.1 / 3600 * (0.853624 + (100 * 0.10 + 375 * 0.08) / 730)
    assert f"${price:.3f}" in line


def test_benchmark_without_a_bucket_rents_nothing(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["benchmark", "--configfile", configfile, "--machines", "g2-standard-8", "--profile", "coiled-gpu"]
    assert main([*command, "--config", "destination=results"]) == 2
    assert "expected gs://BUCKET" in capsys.readouterr().err
    assert main([*command, "--config", "destination=gs://bucket", "--", "--steps", "4"]) == 1
    assert "the rule benchmark_engine decides" in capsys.readouterr().err


def test_prices_of_a_region_without_any_are_one_line(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["benchmark", "--configfile", configfile, "--prices-only", "--config", "cloud.regions=[us-east4]"]
    assert main(command) == 2
    assert "no price of a GPU machine in us-east4, expected one of europe-west4, us-central1" in capsys.readouterr().err


def test_the_plan_of_an_account_is_of_the_members_found(
    configfile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of all 50 that are configured."""
    synthetic.write_run(synthetic.config(tmp_path / "scratch"), synthetic.ensemble(6, machines=2))
    hours = []
    for more in ([], ["--config", "members=1-6"]):
        command = ["account", "--configfile", configfile, *more, "--benchmarks", str(tmp_path / "none")]
        assert main(command) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("machine time, h")]
        hours.append(line)
    assert hours[0] == hours[1]


def test_benchmark_on_machines_needs_a_profile(configfile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--configfile", configfile, "--machines", "g2-standard-8"]) == 1
    assert "--machines needs --profile" in capsys.readouterr().err
