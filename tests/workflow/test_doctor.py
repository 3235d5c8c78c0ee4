"""The health check: what it says, and when it fails."""

from __future__ import annotations

import os
import time

import pytest
from aifs_ensemble.common.config import Config, merge, read_files
from aifs_ensemble.workflow.doctor import examine
from doubles.gcs_fault_proxy import fault_proxy


def findings(root, tmp_path, role, **changes):
    raw = read_files(root / "config" / "config.yaml")
    merge(raw, {"scratch": str(tmp_path / "scratch"), "destination": str(tmp_path / "out")})
    merge(raw, changes)
    return {found.name: found for found in examine(Config(raw), role)}


@pytest.mark.parametrize("role", ["coordinator", "cpu", "gpu"])
def test_versions_and_places(root, tmp_path, role):
    found = findings(root, tmp_path, role)
    assert found["snakemake"].text == "9.27.1" and found["snakemake-storage-plugin-gcs"].text == "1.1.4"
    assert {"python", "scratch", "destination"} <= set(found)
    assert ("torch" in found) == (role == "gpu")
    assert not (tmp_path / "scratch").exists(), "a check that changes something"
    assert found["destination"].state == "ok" and not list(tmp_path.iterdir())


def test_a_home_and_a_checkpoint_that_no_run_could_use(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null")
    future = tmp_path / "own.ckpt"
    future.touch()
    os.utime(future, (time.time() + 3600,) * 2)
    found = findings(root, tmp_path, "cpu", checkpoint=str(future))
    assert found["home"].state == found["times"].state == "failure"
    assert found["times"].text.startswith(f"{future}: changed at 20")


def test_no_driver_is_a_failure(root, tmp_path):
    found = findings(root, tmp_path, "gpu")
    cards = [item for name, item in found.items() if name.startswith("gpu")]
    assert cards and (cards[0].state == "failure" or "MiB free" in cards[0].text)


BAD = {
    "checkpoint": ("gpu", {"checkpoint": "/nowhere/x.ckpt"}, "checkpoint", "failure"),
    "no destination": ("cpu", {"destination": None}, "destination", "warning"),
    "destination is a file": ("cpu", {"destination": __file__}, "destination", "failure"),
    "destination below a file": ("coordinator", {"destination": f"{__file__}/x"}, "destination", "failure"),
    "destination not writable": ("cpu", {"destination": "/proc/nowhere"}, "destination", "failure"),
    "images": ("coordinator", {}, "cloud", "warning"),
    "digest": ("coordinator", {"model": "aifs-ens-1.0"}, "model", "failure"),
    "digest on a machine": ("gpu", {"model": "aifs-ens-1.0"}, "model", "failure"),
    "secret": ("coordinator", {"cloud": {"secrets": ["NO_SUCH_TOKEN"]}}, "secret", "failure"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_missing(root, tmp_path, case):
    role, changes, name, state = BAD[case]
    assert findings(root, tmp_path, role, **changes)[name].state == state


def test_a_model_that_machines_would_refuse(root, tmp_path):
    """The line names what registers the digest; whoever trusts the file is not refused."""
    refused = findings(root, tmp_path, "coordinator", model="aifs-ens-1.0")["model"]
    assert "aifs-ensemble checkpoint register aifs-ens-1.0 PATH" in refused.text
    for changes in ({"model": "demo"}, {"model": "aifs-ens-1.0", "trust_checkpoint": True}):
        assert findings(root, tmp_path, "coordinator", **changes)["model"].state == "ok"


def test_bucket(root, tmp_path, bucket_server, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket_server)
    found = findings(root, tmp_path, "cpu", destination="gs://ensembles/x")
    assert found["credentials"].state == "ok"
    assert (found["bucket"].state, found["bucket"].text) == ("ok", "in US-CENTRAL1")


def test_a_bucket_that_may_not_be_described(root, tmp_path, bucket_server, monkeypatch):
    """Objects may be read and written; Snakemake's storage plugin would fail on every machine."""
    with fault_proxy(bucket_server) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        proxy.undescribed.add("ensembles")
        found = findings(root, tmp_path, "cpu", destination="gs://ensembles/x")
    assert found["credentials"].state == "failure"
    assert "expected the right storage.buckets.get, as in roles/storage.bucketViewer" in found["credentials"].text


def test_command_fails_when_something_needed_is_missing(root, capsys):
    from aifs_ensemble.cli import main

    config = str(root / "config" / "config.yaml")
    arguments = ["doctor", "--role", "gpu", "--configfile", config, "--config", "checkpoint=/nowhere/x.ckpt"]
    assert main(arguments) == 1
    assert "failure  checkpoint: /nowhere/x.ckpt: no such file" in capsys.readouterr().out
