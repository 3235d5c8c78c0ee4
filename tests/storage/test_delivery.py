"""Delivery of finished members, to a folder and to a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aifs_ensemble.delivery import deliver_member
from aifs_ensemble.storage import open_storage

from storage.members import expected_objects, make_config, make_member


def content(url: str) -> dict[str, bytes]:
    """Return everything at a destination."""
    storage = open_storage(url)
    return {info.key: storage.get_bytes(info.key) for info in storage.list("")}


def test_the_destination_equals_scratch(tmp_path: Path, destination: str) -> None:
    config = make_config(tmp_path / "scratch", destination)
    manifest = make_member(config, 1)
    receipt = deliver_member(config, 1)
    found = content(destination)
    assert json.loads(found.pop(config.keys_.receipt(1)))["content_digest"] == manifest.content_digest
    assert found.pop(config.keys_.manifest(1)) == config.scratch.manifest(1).read_bytes()
    assert found == expected_objects(config, manifest)
    assert receipt.bytes == manifest.bytes
    assert json.loads(config.scratch.receipt(1).read_text())["sent_bytes"] == receipt.sent_bytes > manifest.bytes


def test_a_second_delivery_moves_no_bytes_and_says_so(
    tmp_path: Path, destination: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(tmp_path / "scratch", destination)
    make_member(config, 1)
    deliver_member(config, 1)
    before = content(destination)
    caplog.set_level("INFO")
    again = deliver_member(config, 1)
    assert (again.sent_objects, again.sent_bytes) == (0, 0)
    assert "no bytes moved" in caplog.text
    assert content(destination) == before
