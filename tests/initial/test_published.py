"""A run from open data is refused beforehand when the source cannot have what it starts from: by indexes alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.initial.published import check_published
from doubles.opendata_server import serve

CYCLE = "20250819_0000"


def config_of(make_config: Callable[..., Config], *urls: str, members: str = "1-2", cycle: str = CYCLE) -> Config:
    service = {"sources": list(urls), "attempts": 1, "stall_seconds": 2}
    return make_config(cycle, members, source="ecmwf-open-data", ecmwf_open_data=service)


def test_a_published_cycle_is_known_from_its_indexes(make_config: Callable[..., Config], replica: Path) -> None:
    with serve(replica) as server:
        assert check_published(config_of(make_config, server.url)) is None
        assert [path.rsplit("/", 1)[1] for path, _ in server.log] == [
            "20250818180000-0h-enfo-ef.index", "20250819000000-0h-enfo-ef.index",
        ]  # fmt: skip


@pytest.mark.parametrize("gone", ["20250818180000", "20250819000000"])
def test_a_cycle_without_an_index_is_refused(
    gone: str, make_config: Callable[..., Config], replica: Path, tmp_path: Path
) -> None:
    """Half published is not published; the second source would do."""
    shutil.copytree(replica, tmp_path / "half")
    next((tmp_path / "half").rglob(f"{gone}*ef.index")).unlink()
    with serve(tmp_path / "half") as half, serve(replica) as whole:
        with pytest.raises(InputError, match=f"'{CYCLE}' has nothing to start from: {half.url}: no index of "):
            check_published(config_of(make_config, half.url))
        assert check_published(config_of(make_config, half.url, whole.url)) is None


def test_a_cycle_that_nobody_has_is_refused(make_config: Callable[..., Config], replica: Path) -> None:
    with serve(replica) as server, pytest.raises(InputError, match="20251231_1200"):
        check_published(config_of(make_config, server.url, cycle="20251231_1200"))


def test_members_that_are_not_there_fail_alone_unless_too_many(
    make_config: Callable[..., Config], replica: Path
) -> None:
    with serve(replica) as server:
        said = check_published(config_of(make_config, server.url, members="1-4"))
        assert "20250818_1800 lacks members 3-4, 20250819_0000 lacks members 3-4" in str(said)
        with pytest.raises(InputError, match="lacks members 3-4"):
            check_published(config_of(make_config, server.url, members="3-4"))
        asked = config_of(make_config, server.url, members="1-4").to_dict() | {"min_members": 3}
        with pytest.raises(InputError, match="lacks members 3-4"):
            check_published(Config(asked))


def test_the_control_is_looked_for_where_it_may_be(make_config: Callable[..., Config], replica: Path) -> None:
    with serve(replica) as server:
        said = check_published(config_of(make_config, server.url, members="0-1"))
        assert "20250818_1800 lacks the control, 20250819_0000 lacks the control" in str(said)
        asked = {path.rsplit("/", 1)[1] for path, _ in server.log}
        assert {"20250819000000-0h-enfo-ef.index", "20250819000000-0h-oper-fc.index"} <= asked


def test_without_an_answer_nothing_is_refused(make_config: Callable[..., Config], replica: Path) -> None:
    with serve(replica) as server:
        closed = server.url
    said = check_published(config_of(make_config, closed))
    assert said and said.startswith(f"{CYCLE} may not be published: {closed}: no connection")


@pytest.mark.parametrize(
    ("members", "size", "per_state", "refused"),
    [
        ("50", 50, 1, None),
        ("0-50", 51, 1, None),
        ("48-52", 60, 1, "51-52"),
        ("52,100", 100, 2, None),
        ("1-3", 9, 3, None),
    ],
)
def test_members_above_the_sources_are_refused(members: str, size: int, per_state: int, refused: str | None) -> None:
    raw = {
        "model": "demo", "cycle": CYCLE, "members": members, "lead_hours": 6, "scratch": "s", "ensemble_size": size,
        "initial_conditions": {"source": "ecmwf-open-data", "members_per_state": per_state},
    }  # fmt: skip
    if refused is None:
        assert all(config.state_of(member) <= 50 for config in [Config(raw)] for member in config.members)
        return
    with pytest.raises(ConfigError, match=f"members: {refused} are not in ECMWF's open data.*members_per_state: 2"):
        Config(raw)
