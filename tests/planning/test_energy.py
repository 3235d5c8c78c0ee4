"""Energy of cards, from the watts that members sampled: a second of a card counts once."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from aifs_ensemble.planning.account import account
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.runs import RunRecord
from aifs_ensemble.planning.tables import account_text, totals_frame

from planning import synthetic
from planning.synthetic import Piece


def test_two_members_of_a_card_use_its_energy_once(tmp_path: Path, machines: Machines) -> None:
    config = synthetic.config(tmp_path, lead_hours=12, members="1-2", cloud={"bucket_region": "us-central1"})
    manifests = tuple(synthetic.manifest(config, member, [Piece(0.0)]) for member in (1, 2))
    began = RunRecord(manifests, pd.DataFrame(), ()).attempts()[0].began
    seconds = range(math.ceil(began), math.ceil(began) + 100)
    rows = [{"member": member, "time": float(at), "gpu_util_percent": 90.0, "gpu_watts": 500.0}
            for member in (1, 2) for at in seconds]  # fmt: skip
    found = account(config, machines, RunRecord(manifests, pd.DataFrame(rows), ()), profile="coiled-gpu")
    (stay,) = found.stays
    assert stay.card_kwh == pytest.approx(500 * stay.seconds / 3.6e6)
    assert totals_frame(found).iloc[0]["card_kwh"] == pytest.approx(stay.card_kwh)
    assert f"{stay.card_kwh:.3g} kWh" in account_text(found, {})


def test_energy_that_nobody_sampled_is_not_zero(tmp_path: Path, machines: Machines) -> None:
    config = synthetic.config(tmp_path, lead_hours=12, members="1", cloud={"bucket_region": "us-central1"})
    manifests = (synthetic.manifest(config, 1, [Piece(0.0)]),)
    found = account(config, machines, RunRecord(manifests, pd.DataFrame(), ()), profile="coiled-gpu")
    assert math.isnan(found.stays[0].card_kwh)
    assert "kWh" not in account_text(found, {})
