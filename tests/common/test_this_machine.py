"""What a machine says it is: the real client against a metadata server on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from aifs_ensemble.common import this_machine as instances
from aifs_ensemble.common.this_machine import TIMEOUT_SECONDS, TRIES, instance
from aifs_ensemble.common.this_machine import machine as this_machine
from doubles.metadata_server import Metadata, machine, metadata_server

A100 = machine("a2-ultragpu-1g", "us-central1-a", "members-3f2a-worker-1", spot=True)
SAID = {
    "type": "a2-ultragpu-1g",
    "zone": "us-central1-a",
    "region": "us-central1",
    "spot": True,
    "instance": "members-3f2a-worker-1",
}


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    with metadata_server(dict(A100)) as metadata:
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.host)
        yield metadata


def test_a_rented_machine_says_what_it_is(google: Metadata) -> None:
    assert instance() == SAID
    assert SAID.items() <= this_machine().items()
    google.values = machine("g2-standard-8", "europe-west4-b", "other", spot=False)
    found = instance()
    assert (found["region"], found["spot"]) == ("europe-west4", False)


def test_proxies_are_not_asked(google: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert instance() == SAID


def test_a_busy_server_is_asked_again(google: Metadata) -> None:
    google.busy = TRIES - 1
    assert instance() == SAID


@pytest.mark.parametrize("path", sorted(A100))
def test_what_it_does_not_say_is_left_out(google: Metadata, path: str) -> None:
    del google.values[path]
    found = instance()
    assert found.items() < SAID.items()
    assert len(found) == len(SAID) - (2 if path == "zone" else 1)


def test_an_answer_of_somebody_else_counts_for_nothing(google: Metadata) -> None:
    google.flavor = False
    assert instance() == {}


def test_nobody_there_is_no_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{free.getsockname()[1]}")
        assert instance() == {}
    assert "no metadata of this machine" in caplog.text
    assert "type" not in this_machine()


def test_a_server_that_hangs_is_left(google: Metadata) -> None:
    """It is asked for the first value only, and no more often than is said."""
    google.stall = TIMEOUT_SECONDS + 0.2
    assert instance() == {}
    assert google.asked == ["machine-type"] * TRIES


def test_off_google_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    product = tmp_path / "product_name"
    monkeypatch.setattr(instances, "PRODUCT_NAME", product)
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    with metadata_server(dict(A100)) as metadata:
        monkeypatch.setattr(instances, "HOST", metadata.host)
        for made_by in (None, "Standard PC (Q35 + ICH9, 2009)\n"):
            if made_by:
                product.write_text(made_by)
            assert instance() == {}
        assert metadata.asked == []
        product.write_text("Google Compute Engine\n")
        assert instance() == SAID
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        assert instance() == {}
