"""What the project uses of other packages that they promise to nobody, and that would fail silently when it changes.

Each test says where it is used. A failure after an upgrade means: look there before the new version is let in.
"""

from __future__ import annotations

import inspect
import io
import json
import pickle
from typing import Any

import pytest
import requests
import snakemake.api  # noqa: F401 - before its parts, which import each other


def test_snakemake_forcefiles() -> None:
    """`snakemake_internals.force_job`: another name would force nothing, and manifests would stay as they are."""
    from snakemake.dag import DAG
    from snakemake.path_modifier import PathModifier

    assert "self.forcefiles" in inspect.getsource(DAG.__init__)
    assert "self.forcefiles.isdisjoint(job.output)" in inspect.getsource(DAG)
    assert callable(PathModifier.apply_default_storage)


def test_snakemake_backups_of_updated_outputs() -> None:
    """`snakemake_internals.leave_updated`: by other names leads would be copied, and removed after a failure."""
    from snakemake.jobs import Job
    from snakemake.persistence import PersistenceBase

    assert callable(PersistenceBase.backup_output) and callable(PersistenceBase.restore_output)
    prepare, after = inspect.getsource(Job.prepare), inspect.getsource(Job.postprocess)
    assert 'is_flagged(f, "update")' in prepare and "workflow.persistence.backup_output(" in prepare
    asked = after[after.index('is_flagged(f, "update")') : after.index("skip_cleanup_outputs.add(f)")]
    assert "workflow.persistence.restore_output(" in asked and 'f"Restored previous version of ' in asked


def test_snakemake_default_storage_provider() -> None:
    """`snakemake_internals.use_default_storage`: another name would leave every file on this machine."""
    from snakemake.storage import StorageRegistry

    source = inspect.getsource(StorageRegistry)
    assert source.count("_default_storage_provider") >= 2
    assert {"provider", "is_default"} <= set(inspect.signature(StorageRegistry.register_storage).parameters)
    spawn = inspect.getsource(__import__("snakemake.spawn_jobs", fromlist=["SpawnedJobArgsFactory"]))
    assert "storage_settings.default_storage_prefix" in spawn and "storage_settings.default_storage_provider" in spawn


def test_snakemake_lock() -> None:
    """`snakemake_internals.around_lock`: other names would leave a killed run's locks, for ``--unlock`` to remove."""
    from snakemake.persistence import PersistenceBase
    from snakemake.persistence.file import FilePersistence
    from snakemake.workflow import Workflow

    assert "self._prepare_dag(" in inspect.getsource(Workflow.execute)
    assert "with self.persistence.lock():" in inspect.getsource(Workflow.execute)
    assert "self.lock = self.noop" in inspect.getsource(PersistenceBase.__init__)
    assert "self.lock = self.lock_warn_only" in inspect.getsource(PersistenceBase.__init__)
    assert "rmtree(self._lockdir)" in inspect.getsource(FilePersistence._delete_locks)
    assert callable(PersistenceBase.cleanup_locks)


def test_script_of_the_googlebatch_plugin() -> None:
    """`googlebatch.resources.PRECOMMAND`: it escapes dollars for the here-document and leaves before the last pip."""
    from snakemake_executor_plugin_googlebatch import command

    script = command.write_entrypoint
    assert "cat <<EOF > /tmp/workdir/entrypoint.sh" in script, "the here-document is no longer unquoted"
    after = script[script.index("%s") :]
    assert after.count("python3 -m pip") == 2, "other commands follow the job: its exit code would be theirs"
    first = next(line for line in after.splitlines()[1:] if line and not line.startswith("#"))
    assert first.startswith("python3 -m pip")


class Refusing(requests.Session):
    """A service that always says 503."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def request(self, *_: Any, **__: Any) -> requests.Response:
        self.asked += 1
        answer = requests.Response()
        answer.status_code = 503
        return answer


def test_uploads_of_google_resumable_media_make_a_request_once() -> None:
    """`storage.uploads._once`: another name of `_retry_strategy` would repeat each request for ten minutes, unseen."""
    from aifs_ensemble.common.storage.uploads import _once
    from google.resumable_media.common import InvalidResponse
    from google.resumable_media.requests import MultipartUpload, ResumableUpload

    for upload, start in (
        (MultipartUpload("http://localhost/x"), lambda u, s: u.transmit(s, b"x", {}, "text/plain")),
        (
            ResumableUpload("http://localhost/x", 256 * 1024),
            lambda u, s: u.initiate(s, io.BytesIO(b"x"), {}, "text/plain", total_bytes=1),
        ),
    ):
        assert hasattr(upload, "_retry_strategy")
        session = Refusing()
        with pytest.raises(InvalidResponse):
            start(_once(upload), session)
        assert session.asked == 1


def test_text_of_an_empty_answer_of_ecmwf_opendata(monkeypatch: pytest.MonkeyPatch) -> None:
    """`opendata_client.RangeClient.ranges`: another text would make a missing field an error of the download."""
    from ecmwf.opendata import Client

    client = Client(source="http://127.0.0.1:9")
    line = json.dumps({"param": "2t", "levtype": "sfc", "step": "0", "_offset": 0, "_length": 1})
    answer = requests.Response()
    answer.status_code = 200
    answer.raw = io.BytesIO(f"{line}\n".encode())
    session = client.session if hasattr(client, "session") else requests
    monkeypatch.setattr(session, "get", lambda *_, **__: answer)
    with pytest.raises(ValueError, match="index entries"):
        client.get_parts(["http://127.0.0.1:9/x.grib2"], {"param": ["msl"]})


def test_unpickler_in_python() -> None:
    """`common.strict_pickle`: the library's own unpickler in Python, with a method for every instruction."""
    from aifs_ensemble.common.strict_pickle import StrictUnpickler

    known = {name for name in vars(pickle._Unpickler) if name.startswith("load_")}
    assert {"load_reduce", "load_build", "load_newobj", "load_setitems", "load_binpersid"} <= known
    assert set(StrictUnpickler.dispatch) == set(pickle._Unpickler.dispatch)
    # instructions of a later protocol would be executed as Python does, unchecked
    assert pickle.HIGHEST_PROTOCOL == 5
