"""Seeds: the same for ever, and never shared."""

from __future__ import annotations

import pytest
import torch
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.model.noise import noise_seed, seed_device


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        (("demo", "20250819_0000", 1, 1), 3502999057408846914),
        (("demo", "20250819_0000", 50, 160), 6001910268622406961),
        (("aifs-ens-1.0", "20250819_0000", 1, 1), 3483653574355901321),
    ],
)
def test_seeds_do_not_change_between_versions(arguments: tuple, seed: int) -> None:
    assert noise_seed(*arguments) == seed


def test_no_two_steps_of_an_ensemble_share_what_the_cpu_generator_reads() -> None:
    seeds = [noise_seed("demo", "20250819_0000", member, step) for member in range(51) for step in range(1, 161)]
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)
    assert len({seed >> 32 for seed in seeds}) > 0.999 * len(seeds)
    assert all(0 < seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    "other",
    [
        ("aifs-ens-1.0", "20250819_0000", 3, 7),
        ("demo", "20250819_0600", 3, 7),
        ("demo", "20250819_0000", 4, 7),
        ("demo", "20250819_0000", 2, 7),
        ("demo", "20250819_0000", 3, 8),
        ("demo", "20250819_0000", 7, 3),
    ],
)
def test_every_argument_changes_the_noise(other: tuple) -> None:
    seed_device(torch.device("cpu"), noise_seed("demo", "20250819_0000", 3, 7))
    here = torch.randn(2000)
    seed_device(torch.device("cpu"), noise_seed(*other))
    there = torch.randn(2000)
    assert abs(float(torch.corrcoef(torch.stack([here, there]))[0, 1])) < 0.1


def test_noise_follows_from_the_seed_whatever_was_drawn_before() -> None:
    seed = noise_seed("demo", "20250819_0000", 1, 1)
    seed_device(torch.device("cpu"), seed)
    first = torch.randn(10)
    torch.randn(7)
    seed_device(torch.device("cpu"), seed)
    assert torch.equal(torch.randn(10), first)


@pytest.mark.parametrize(("member", "step"), [(-1, 1), (1, 0), (1024, 1), (1, 1024)])
def test_members_and_steps_that_have_no_seed(member: int, step: int) -> None:
    with pytest.raises(ConfigError, match=f"member {member}, step {step}"):
        noise_seed("demo", "20250819_0000", member, step)
