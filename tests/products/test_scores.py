"""Scores against values counted by hand, and against packages of others."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules
import xarray as xr
from AI_WQ_package import forecast_evaluation as theirs  # needs no cartopy, which the package asks for
from aifs_ensemble.products.evaluation import scores
from aifs_ensemble.products.evaluation.weeks import skill_score


def sample(members: int = 11, shape: tuple[int, ...] = (7, 12)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(members)
    return rng.normal(3, 2, (members, *shape)).astype("f4"), rng.normal(3, 2, shape).astype("f4")


def test_by_hand() -> None:
    members, truth = np.array([[1.0], [2.0], [6.0]], "f4"), np.array([3.0], "f4")
    # errors 2, 1, 3; pairs 1, 5, 4: 2 - (1 + 5 + 4) * 2 / (2 * 3 * 2)
    assert scores.fair_crps(members, truth) == pytest.approx(2 - 10 / 6)
    assert scores.squared_error(members, truth) == 0
    assert scores.error_of_mean(members, truth - 1) == 1
    assert scores.predicted_variance(members) == pytest.approx(7 * 4 / 3)
    assert scores.rank_shares(members, truth)[:, 0].tolist() == [0, 0, 1, 0]
    assert scores.fair_crps(members[:1], truth) == 2


def test_ranks_share_ties() -> None:
    members = np.array([[0.0, 0.0], [0.0, 1.0], [5.0, 2.0]])
    shares = scores.rank_shares(members, np.array([0.0, np.nan]))
    np.testing.assert_allclose(shares[:, 0], [1 / 3, 1 / 3, 1 / 3, 0])
    assert np.isnan(shares[:, 1]).all()
    members[2, 0] = np.nan
    assert np.isnan(scores.rank_shares(members, np.array([0.0, 1.0]))[:, 0]).all()


@pytest.mark.parametrize("members", [2, 3, 11, 50])
def test_crps_is_that_of_scoringrules(members: int) -> None:
    values, truth = sample(members)
    expected = scoringrules.crps_ensemble(truth, values, m_axis=0, estimator="fair")
    np.testing.assert_allclose(scores.fair_crps(values, truth), expected, rtol=1e-5, atol=1e-6)


def test_members_as_good_as_their_spread() -> None:
    """Truth and members of one distribution: spread equals error, ranks are flat, and the fair score knows no size."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 5, 200_000)
    found = {}
    for count in (4, 16):
        members, truth = mean + rng.normal(0, 1, (count, mean.size)), mean + rng.normal(0, 1, mean.size)
        spread, error = scores.predicted_variance(members).mean(), scores.squared_error(members, truth).mean()
        assert spread == pytest.approx(error, rel=0.02)
        shares = scores.rank_shares(members, truth).mean(axis=1) * (count + 1)
        assert np.abs(shares - 1).max() < 0.05
        found[count] = scores.fair_crps(members, truth).mean()
    # of a normal distribution with deviation 1 (Gneiting and Raftery 2007, eq. 21, averaged over the truth)
    assert found[4] == pytest.approx(1 / np.sqrt(np.pi), rel=0.02) and found[16] == pytest.approx(found[4], rel=0.02)


def test_area_weights() -> None:
    latitudes, longitudes = np.linspace(90, -90, 7), np.arange(0, 360, 30.0)
    globe = scores.area_weights(latitudes, longitudes, (90, 0, -90, 360))
    assert globe[3].tolist() == [1] * 12 and globe[1] == pytest.approx([0.5] * 12) and np.abs(globe[0]).max() < 1e-12
    across = scores.area_weights(latitudes, longitudes, (30, 330, -30, 30))
    assert np.argwhere(across).tolist() == [[row, column] for row in (2, 3, 4) for column in (0, 1, 11)]
    assert (across == scores.area_weights(latitudes, longitudes, (30, -30, -30, 30))).all()
    values = np.where(globe > 0.9, np.nan, np.broadcast_to(latitudes[:, None], globe.shape))
    values[0, 0] = 1e9  # the pole has no area
    assert scores.area_mean(values, globe) == pytest.approx(0, abs=1e-6)
    assert np.isnan(scores.area_mean(values, globe * 0))


def test_skill_of_classes_is_that_of_ai_wq_package() -> None:
    """Its evaluation, on land, with a desert where all bounds are the same, and half-dry places."""
    rng = np.random.default_rng(5)
    latitudes, longitudes = np.linspace(90, -90, 19), np.arange(0, 360, 10.0)
    shape = (19, 36)
    bounds = np.cumsum(rng.random((4, *shape)), axis=0)
    bounds[:, 3, :5] = 0
    bounds[:2, 4, :9] = 0
    truth = rng.random(shape) * bounds[-1] * 1.3
    truth[3:5, :5] = 0
    members = rng.random((20, *shape)) * bounds[-1] * 1.3
    rank = (members[None] >= bounds[:, None]).sum(axis=0)
    probabilities = np.stack([(rank == k).mean(axis=0) for k in range(5)])
    land = rng.random(shape)

    def array(values: np.ndarray, *first: str) -> xr.DataArray:
        return xr.DataArray(values, dims=(*first, "latitude", "longitude"), coords=coordinates | named)

    coordinates, named = {"latitude": latitudes, "longitude": longitudes}, {"quintile": [0.2, 0.4, 0.6, 0.8]}
    happened = theirs.conditional_obs_probs(xr.DataArray(truth, coordinates), array(bounds, "quintile"))
    ours = scores.observed_class(truth, bounds)
    np.testing.assert_array_equal(ours, happened)
    named = {"quintile": [0.2, 0.4, 0.6, 0.8, 1.0]}
    expected = theirs.work_out_RPSS(array(probabilities, "quintile"), happened, "pr", xr.DataArray(land, coordinates))
    weights = scores.area_weights(latitudes, longitudes, (90, 0, -90, 360)) * (land >= 0.5)
    assert skill_score(probabilities, ours, weights[None]) == pytest.approx([float(expected)], rel=1e-10)


def test_skill_of_perfect_and_equal_probabilities() -> None:
    happened = scores.observed_class(np.array([[0.5, 2.5]]), np.array([[[1.0, 1.0]], [[2.0, 2.0]]]))
    assert happened[:, 0].tolist() == [[1, 0], [0, 0], [0, 1]]
    weights = np.ones((1, 1, 2))
    assert skill_score(happened, happened, weights) == 1
    assert skill_score(np.full_like(happened, 1 / 3), happened, weights) == 0
