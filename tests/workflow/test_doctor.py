"""The health check: what it says, and when it fails."""

from __future__ import annotations

import os
import time

import pytest
from aifs_ensemble.common.config import Config, merge, read_files
from aifs_ensemble.common.gpu import Card
from aifs_ensemble.workflow import doctor
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


def test_memory_of_a_model_that_is_not_accelerated_counts(root, tmp_path, monkeypatch):
    """AIFS ENS v2 then takes 8,500 MB and 33,000 by chunks; what a configuration asks for is less."""
    monkeypatch.setattr(doctor, "driver_version", lambda: "580.1")
    monkeypatch.setattr(doctor, "cards", lambda: [Card("NVIDIA L4", "", 10_240 << 20, 10_000 << 20)])
    wanted = {"device": "cuda", "precision": "16", "compile": True, "gpu_mem_mb": 6000}
    for fast, chunks, state, needs in ((False, 10, "failure", 11800), (False, 32, "ok", 9531), (True, 10, "ok", 6000)):
        forecast = {**wanted, "accelerate": fast, "chunks": chunks}
        found = findings(root, tmp_path, "gpu", model="aifs-ens-2.0", forecast=forecast)["gpu 0"]
        assert (found.state, found.text) == (state, f"NVIDIA L4, 10000 of 10240 MiB free, a member needs {needs}")


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


def test_a_bucket_that_takes_no_objects(root, tmp_path, bucket_server, monkeypatch):
    """Who may only read learns it before a run; where objects can be made, nothing of the trial stays."""
    from aifs_ensemble.common.errors import StorageError
    from aifs_ensemble.common.storage import open_storage
    from aifs_ensemble.common.storage.gcs import GcsStorage

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket_server)
    url = "gs://ensembles/doctor"
    found = findings(root, tmp_path, "coordinator", destination=url)
    assert (found["destination"].state, found["destination"].text) == ("ok", f"{url}, can be written")
    assert not list(open_storage(url).list(""))

    def refuse(self, data, key, **_):
        raise StorageError(f"{self.address(key)}: refused (HTTP 403), expected a role such as storage.objectUser")

    monkeypatch.setattr(GcsStorage, "put_bytes", refuse)
    found = findings(root, tmp_path, "coordinator", destination=url)
    assert found["credentials"].state == "ok" and found["destination"].state == "failure"
    assert "expected a role such as storage.objectUser" in found["destination"].text


def test_a_checkpoint_of_another_digest(root, tmp_path, monkeypatch):
    import hashlib
    from dataclasses import replace

    from aifs_ensemble.common.models import get_model

    own = tmp_path / "own.ckpt"
    own.write_bytes(b"weights")
    listed = dict(get_model("demo").checkpoint) | {"sha256": hashlib.sha256(b"weights").hexdigest()}
    config = read_files(root / "config" / "config.yaml") | {"checkpoint": str(own), "scratch": str(tmp_path)}
    made = Config(config)
    monkeypatch.setattr(made, "_model", replace(made.model, checkpoint=listed))
    for content, state in ((b"weights", "ok"), (b"others", "failure")):
        own.write_bytes(content)
        found = {one.name: one for one in examine(made, "coordinator", profile="local")}["checkpoint"]
        assert found.state == state
    assert f"expected {listed['sha256']}" in found.text
    assert not list(tmp_path.glob("*.json")), "a check that changes something"


def test_a_checkpoint_in_a_bucket(root, tmp_path, bucket_server, monkeypatch):
    from aifs_ensemble.common.storage import open_storage

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket_server)
    open_storage("gs://ensembles/weights").put_bytes(b"weights", "here.ckpt")
    for name, state in (("here", "ok"), ("gone", "failure")):
        found = findings(root, tmp_path, "coordinator", checkpoint=f"gs://ensembles/weights/{name}.ckpt")["checkpoint"]
        assert found.state == state, found


def of_profile(root, tmp_path, profile, **changes):
    raw = read_files(root / "config" / "config.yaml", root / "config" / "operational.yaml")
    merge(raw, {"model": "demo", "scratch": str(tmp_path), "initial_conditions": {"source": "idealised"}})
    merge(raw, changes)
    return {found.name: found for found in examine(Config(raw), "coordinator", profile=profile)}


def test_only_what_the_profile_needs_is_looked_at(root, tmp_path):
    local, batch = (of_profile(root, tmp_path, profile) for profile in ("local", "googlebatch"))
    assert not {"coiled", "cloud", "prices", "checkout"} & set(local)
    assert {"cloud", "prices", "checkout"} <= set(batch) and "coiled" not in batch


def test_coiled_is_asked_where_it_is_needed(root, tmp_path):
    import coiled  # noqa: F401  (puts its defaults into dask's configuration)
    import dask.config
    from coiled_server import CoiledServer

    server = CoiledServer(tmp_path / "machines", {})
    try:
        with dask.config.set({"coiled.server": server.url, "coiled.token": "loopback", "coiled.workspace": None}):
            assert of_profile(root, tmp_path, "coiled-gpu")["coiled"].text.endswith(", answers")
            assert any(path == "/api/v2/user/me" for _, path, _ in server.calls)
        with dask.config.set({"coiled.token": None}):
            found = of_profile(root, tmp_path, "coiled-gpu")["coiled"]
        assert found.state == "failure" and "run `coiled login` once" in found.text
    finally:
        server.close()


def test_old_prices_are_a_warning(root, tmp_path, monkeypatch):
    from datetime import UTC, datetime

    from aifs_ensemble.common import clock

    monkeypatch.setattr(clock, "now", lambda: datetime(2035, 1, 1, tzinfo=UTC))
    found = of_profile(root, tmp_path, "googlebatch")["prices"]
    assert found.state == "warning" and "(OLD: " in found.text


def test_another_run_and_whom_to_tell(root, tmp_path):
    from pathlib import Path

    from aifs_ensemble.common.storage import open_storage
    from aifs_ensemble.delivery.lease import RunLease

    out = str(tmp_path / "out")
    told = {"destination": out, "notify": {"command": "no-such-program --now"}}
    found = of_profile(root, tmp_path, "local", **told)
    assert found["run"].state == "ok" and found["notify"].state == "failure"
    assert found["notify"].text == "notify.command: no-such-program: no such program"
    config = Config(read_files(root / "config" / "config.yaml") | told)
    lease = RunLease(config, open_storage(out))
    lease.take()
    told["notify"] = {"url": "https://hooks.example.org/secret"}
    found = of_profile(root, tmp_path, "local", **told)
    assert found["run"].state == "warning" and "another run makes it" in found["run"].text
    assert found["notify"].state == "ok" and "secret" not in found["notify"].text
    lease.give_back()
    assert not list(Path(out).rglob("*.json"))
