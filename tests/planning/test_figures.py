"""Figures and tables of runs: drawn, not empty, in both themes, saying what they show."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from aifs_ensemble.common.themes import LIGHT, THEMES, Theme, save
from aifs_ensemble.planning import tables
from aifs_ensemble.planning.account import Account, account
from aifs_ensemble.planning.figures import account_figures
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.runs import read_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from planning import synthetic
from planning.synthetic import Piece

NAMES = ("gantt", "machine_time", "member_times", "gpu", "disk_network", "costs")


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def inked(figure: Figure, theme: Theme) -> float:
    """Return the share of pixels that are not paper."""
    paper = np.array([int(theme.paper[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(pixels(figure).astype(int) - paper).max(axis=-1) > 12).mean())


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_every_figure_shows_something(ensemble_account: Account, theme: Theme) -> None:
    figures = account_figures(ensemble_account, None, 443)
    assert set(figures) == set(NAMES)
    for name, draw in figures.items():
        assert inked(draw(theme), theme) > 0.015, name


EXPECTED = {
    "gantt": ("Members over machines", "50 members", "lost to an interruption", "aifs-gpu-3b"),
    "machine_time": ("starting up", "computing 8"),
    "member_times": ("median 15", "recorded before 443 s"),
    "gpu": ("GPU utilisation, %", "mean of 9 machines", "the card's"),
    "disk_network": ("written", "received", "sum over machines"),
    "costs": ("this run", "gpu compute", "a member", "management"),
}


@pytest.mark.parametrize("name", NAMES)
def test_figures_say_what_they_show(ensemble_account: Account, name: str) -> None:
    shown = texts(account_figures(ensemble_account, None, 443)[name](LIGHT))
    for words in EXPECTED[name]:
        assert words in shown


def test_amounts_are_not_taken_for_formulas(ensemble_account: Account) -> None:
    figure = account_figures(ensemble_account, None, 443)["costs"](LIGHT)
    amounts = [text for text in figure.findobj(Text) if text.get_text().count("$") > 1]
    assert amounts and not any(text.get_parse_math() for text in amounts)


def test_bars_are_as_long_as_what_they_stand_for(ensemble_account: Account) -> None:
    figure = account_figures(ensemble_account)["costs"](LIGHT)
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert sum(widths) == pytest.approx(ensemble_account.usd)
    gantt = account_figures(ensemble_account)["gantt"](LIGHT)
    seconds = sum(patch.get_width() for patch in gantt.axes[0].patches)
    assert seconds == pytest.approx(sum(a.seconds for stay in ensemble_account.stays for a in stay.attempts))


def test_saved_in_both_themes_and_kinds(ensemble_account: Account, tmp_path: Path) -> None:
    figures = {"machine_time": account_figures(ensemble_account)["machine_time"]}
    files = save(figures, tmp_path)
    assert {file.name for file in files} == {f"machine_time-{t}.{k}" for t in ("light", "dark") for k in ("svg", "png")}
    assert all(file.stat().st_size > 1000 for file in files)
    first = (tmp_path / "machine_time-dark.svg").read_bytes()
    save(figures, tmp_path, kinds=("svg",))
    assert (tmp_path / "machine_time-dark.svg").read_bytes() == first


def test_no_empty_frames(tmp_path: Path, machines: Machines) -> None:
    config = synthetic.config(
        tmp_path, model="demo", lead_hours=24, members="1", forecast={"device": "cpu", "gpu_mem_mb": 0}
    )
    synthetic.write_run(config, {1: [Piece(0.0)]}, metrics=False)
    found = account(config, machines, read_run(config, None))
    assert set(account_figures(found)) == {"gantt", "machine_time", "member_times"}


# tables


def test_the_closing_table(tmp_path: Path) -> None:
    config = synthetic.config(tmp_path, members="1-2")
    synthetic.write_run(config, {1: [Piece(0.0)], 2: [Piece(0.0, steps=50, compute=45)]}, metrics=False)
    text = tables.member_table(config)
    lines = text.splitlines()
    assert lines[0].split() == ["member", "leads", "fields", "size", "s", "s/step", "fields/s"]
    assert lines[2].split()[:5] == ["1", "132", "13,200", "9.24", "GB"]
    assert lines[2].split()[5] == "110.0"
    assert lines[4].split()[:3] == ["all", "264", "26,400"]


def test_untrained_models_say_so(tmp_path: Path) -> None:
    config = synthetic.config(
        tmp_path, model="demo", members="1", lead_hours=24, forecast={"device": "cpu", "gpu_mem_mb": 0}
    )
    synthetic.write_run(config, {1: [Piece(0.0)]}, metrics=False)
    assert "these are not forecasts" in tables.member_table(config)


def test_tables_as_csv_and_parquet_hold_the_same(ensemble_account: Account, tmp_path: Path) -> None:
    frames = tables.account_frames(ensemble_account)
    files = tables.write_frames(frames, tmp_path)
    assert len(files) == 2 * len(frames)
    for name, frame in frames.items():
        again = pd.read_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(again, frame, check_dtype=False)
        assert list(pd.read_csv(tmp_path / f"{name}.csv").columns) == list(frame.columns)
    assert frames["members"]["usd"].sum() == pytest.approx(frames["costs"]["usd"].sum())
    assert frames["uses"]["percent"].sum() == pytest.approx(100)


def test_plan_against_actual(tmp_path: Path, machines: Machines) -> None:
    config = synthetic.config(tmp_path, members="1-2")
    synthetic.write_run(config, {1: [Piece(0.0)], 2: [Piece(0.0, machine="vm-2")]}, metrics=False)
    found = account(config, machines, read_run(config, None))
    before = plan(plan_case(config, machines, work=everything(config), runs=()))
    frame = tables.plan_against_actual(before, found).set_index("what")
    step = frame.loc["step, s"]
    assert step["measured"] == pytest.approx(40 / 132)
    assert step["error_percent"] == pytest.approx(100 * (step["predicted"] - step["measured"]) / step["measured"])
    assert frame.loc["start-up of a member, s", "measured"] == pytest.approx(60)
    assert frame.loc["drain of a member, s", "measured"] == pytest.approx(10)
    assert frame.loc["bytes a lead, MB", "measured"] == pytest.approx(70)
    assert frame.loc["cost a member, USD", "measured"] == pytest.approx(found.usd / 2)
    text = tables.account_text(found, {"plan against actual": frame.reset_index()})
    assert "2 members" in text
    assert "plan against actual:" in text
    # what nobody measured is empty, and a large error a plain number
    odd = frame.reset_index().astype({"measured": float})
    odd.loc[0, ["predicted", "measured", "error_percent"]] = [11800.0, float("nan"), float("nan")]
    odd.loc[1, ["predicted", "measured", "error_percent"]] = [0.000012, 1e-7, 11830.4]
    odd.loc[2, "error_percent"] = -3.14
    lines = tables.account_text(found, {"plan against actual": odd}).splitlines()
    rows = [line.split() for line in lines[lines.index("plan against actual:") + 1 :]]
    assert rows[0][-2:] == ["error,", "%"]
    assert rows[2][-1] == "11,800" and rows[3][-3:] == ["0.000012", "0.0000001", "11,830"] and rows[4][-1] == "-3.1"


def test_a_resumed_member_s_speed_is_of_what_it_made(tmp_path: Path) -> None:
    config = synthetic.config(tmp_path, members="1")
    whole = synthetic.manifest(config, 1, [Piece(0.0)])
    resumed = dataclasses.replace(whole, step_seconds=whole.step_seconds[:66])
    first, second = (tables.member_frame((m,)).iloc[0]["fields_per_second"] for m in (whole, resumed))
    assert second == pytest.approx(first / 2)
