"""Torch's deterministic mode and the places where it is lifted."""

from __future__ import annotations

import pytest
import torch
from aifs_ensemble.model.determinism import places_written_once, set_deterministic


@pytest.fixture(autouse=True)
def _mode():
    kept = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = kept


@pytest.mark.parametrize("enabled", [True, False])
def test_the_mode_is_lifted_and_comes_back(enabled: bool) -> None:
    set_deterministic(enabled)
    with places_written_once():
        assert not torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == enabled
    assert torch.is_deterministic_algorithms_warn_only_enabled() or not enabled


def test_the_mode_comes_back_after_an_error() -> None:
    set_deterministic(True)
    with pytest.raises(IndexError), places_written_once():
        torch.zeros(3).index_copy_(0, torch.tensor([7]), torch.ones(1))
    assert torch.are_deterministic_algorithms_enabled()


def test_new_memory_is_not_filled() -> None:
    set_deterministic(True)
    assert not torch.utils.deterministic.fill_uninitialized_memory
