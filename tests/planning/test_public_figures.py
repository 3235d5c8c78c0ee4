"""The model of speed beside every public figure of the released models: docs/planning.md shows this table.

Published steps with GRIB output were made by anemoi-inference, which writes between steps. To the estimate of its pass
comes what that loop took beside its pass on our H100: 1.61 - 0.2885 s for 100 fields of 24 bits.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.speeds import Speed
from aifs_ensemble.planning.throughput import Throughput

PLANNING = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
OUTPUT_A_FIELD = (1.61 - 0.2885) / 100

# model, card, fields written (0: the pass alone), seconds a step as published: shared between the least and the most
PUBLIC = [
    ("aifs-ens-1.0", "A100-80GB", 100, (3.36, 3.36)),  # 443 s for 132 steps
    ("aifs-ens-1.0", "L4", 100, (3.55, 3.82)),  # 6.5 to 7 h for 50 members
    ("aifs-ens-2.0", "L4", 0, (4.36, 4.53)),
    ("aifs-ens-2.0", "RTX-5000-ADA", 120, (2.46, 2.46)),  # 394 s for 160 steps
]


def eager(machines: Machines, throughput: Throughput, model: str, card: str) -> Speed:
    return throughput.speed(model, machines.gpu_specs[card], "16", compiled=False, deterministic=False)


def row(model: str, card: str, fields: int, predicted: float, published: tuple[float, float]) -> str:
    """A row of the table: the error is of the prediction, against either end of what was published."""
    what = f"with {fields} fields of GRIB" if fields else "the pass alone"
    errors = sorted({f"{100 * (predicted / figure - 1):+.0f}" for figure in published}, key=float, reverse=True)
    said = "-".join(dict.fromkeys(f"{figure:.2f}" for figure in published))
    return f"| {model} | {card} | {what} | {predicted:.2f} | {said} | {' to '.join(errors)} % |".replace("+-", "-")


@pytest.mark.parametrize(("model", "card", "fields", "published"), PUBLIC)
def test_the_page_shows_what_is_predicted(
    machines: Machines, throughput: Throughput, model: str, card: str, fields: int, published: tuple[float, float]
) -> None:
    predicted = eager(machines, throughput, model, card).forward_seconds + OUTPUT_A_FIELD * fields
    assert row(model, card, fields, predicted, published) in PLANNING.splitlines()


def test_the_one_published_pass_is_predicted_within_an_eighth(machines: Machines, throughput: Throughput) -> None:
    """By hand, 16 chunks of AIFS ENS v2 on an H200, 0.381 s: 0.37 of an H100's time goes with the bandwidth."""
    found = eager(machines, throughput, "aifs-ens-2.0", "L4")
    expected = 0.381 * (0.63 * 989 / 121 + 0.37 * 3350 / 300) / (0.63 + 0.37 * 3350 / 4800)
    assert found.forward_seconds == pytest.approx(expected)
    for published in (4.36, 4.53):
        assert found.forward_seconds == pytest.approx(published, rel=0.125)
