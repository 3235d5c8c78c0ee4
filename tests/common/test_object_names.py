"""Names in a bucket that a shell, a URL or Snakemake would take otherwise are refused where they enter."""

from __future__ import annotations

import pytest
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.locations import checkpoint, destination

NAMES = [
    "gs://bucket/a b",
    "gs://bucket/$(id)",
    "gs://bucket/`id`",
    "gs://bucket/'x",
    'gs://bucket/"x',
    "gs://bucket/{member}",
    "gs://bucket/a;b",
    "gs://bucket/a&b",
]
NAMES += [
    "gs://bucket/a#b",
    "gs://bucket/a?b",
    "gs://bucket/a*",
    "gs://bucket/a\\b",
    "gs://bucket/a\nb",
    "gs://bucket/é",
    "gs://bucket/a//b",
    "gs://bucket/../c",
]
PLAIN = ["gs://bucket", "gs://bucket/", "gs://my-bucket.example.org/aifs_ens/v1.0/a+b=c@d~e,f:g", "/a folder/of's"]


@pytest.mark.parametrize("name", [name for name in NAMES if "$" not in name])
def test_a_name_that_a_shell_or_the_storage_takes_otherwise(name: str) -> None:
    for key, check in (("destination", destination), ("checkpoint", checkpoint)):
        with pytest.raises(ConfigError) as refused:
            check(name)
        assert str(refused.value).startswith(f"config: {key}: {name!r}, expected ")
        assert "\n" not in str(refused.value)


def test_a_command_in_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not '\$': it becomes part of commands on rented machines"):
        destination("gs://bucket/$(id)")


@pytest.mark.parametrize("name", PLAIN)
def test_names_that_work(name: str) -> None:
    assert destination(name) == name
