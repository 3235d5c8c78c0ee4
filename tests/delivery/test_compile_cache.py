"""Compiled parts of the model go from the machine that compiled to those that come after it."""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import Storage, open_storage
from aifs_ensemble.model import compile_cache
from aifs_ensemble.model.check_records import CheckRecords, check_key
from aifs_ensemble.model.compile_cache import CompileCache, cache_name
from aifs_ensemble.model.numerics import Numerics
from aifs_ensemble.model.self_check import SelfCheck

from delivery.members import make_config


def config_with(**over: Any) -> Config:
    return make_config(Path("scratch"), "out", **over)


H100 = "NVIDIA H100 80GB HBM3"
NAME = cache_name(H100, config_with())
FILES = {"fx/graph": b"graph" * 1000, "triton/kernel.cubin": bytes(range(256))}


@pytest.fixture(autouse=True)
def no_cache_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


def member(machine: Path, destination: str) -> CompileCache:
    return CompileCache(machine, NAME, lambda: open_storage(destination))


def compile_parts() -> None:
    """What torch and Triton do: write into the folders that the environment names."""
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert Path(os.environ["TRITON_CACHE_DIR"]) == folder / "triton"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def whole_member(cache: CompileCache) -> None:
    cache.started(1, 4, 0)
    compile_parts()
    cache.lead_published(None, None)  # type: ignore[arg-type] - which lead does not matter
    cache.finished(None)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_next_machine_starts_with_what_the_first_compiled(destination: str, tmp_path: Path) -> None:
    first, second = member(tmp_path / "a", destination), member(tmp_path / "b", destination)
    whole_member(first)
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    second.started(2, 4, 0)
    origin = "taken-from-destination.json"
    assert {name: data for name, data in content(second.folder).items() if name != origin} == FILES
    sent = open_storage(destination).get_bytes(f"compile-cache/{NAME}.tar.gz")
    taken = {"name": f"compile-cache/{NAME}.tar.gz", "sha256": hashlib.sha256(sent).hexdigest()}
    assert CompileCache.origin() == taken  # what the member's manifest says
    second.failed(ValueError())
    first.started(3, 4, 0)
    assert CompileCache.origin() is None
    first.failed(ValueError())
    assert [path.name for path in (tmp_path / "b").iterdir()] == [NAME]
    keys = [info.key for info in open_storage(destination).list("")]
    assert keys == [f"compile-cache/{NAME}.tar.gz"]


def test_what_was_compared_goes_to_the_next_machine_too(
    destination: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = check_key("checkpoint", H100, Numerics("16", compile=True))
    result = SelfCheck(1e-3, "t_500", 1e-2, {"t_500": 1e-3})
    first, second = member(tmp_path / "a", destination), member(tmp_path / "b", destination)
    first.started(1, 4, 0)
    compile_parts()
    CheckRecords.here(key).write(result)
    first.lead_published(None, None)  # type: ignore[arg-type]
    first.finished(None)  # type: ignore[arg-type]
    second.started(2, 4, 0)
    assert CheckRecords.here(key).read() == result
    for other in (key | {"card": "NVIDIA L4"}, key | {"torch": "3.0"}, check_key("another", H100, Numerics("16"))):
        assert CheckRecords.here(other).read() is None
    second.failed(ValueError())
    assert CheckRecords.here(key).read() is None  # the environment names no folder any more


def test_one_member_compares_and_those_beside_it_find_what_it_found(tmp_path: Path) -> None:
    key, result = check_key("checkpoint", H100, Numerics()), SelfCheck(1e-3, "t", 1e-2)
    compared, found = [], []

    def compare() -> None:
        records = CheckRecords(tmp_path, key)
        with records.turn():
            if records.read() is None:
                compared.append(1)
                time.sleep(0.2)
                records.write(result)
            found.append(records.read())

    threads = [threading.Thread(target=compare, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(compared) == 1 and found == [result] * 3


def test_nothing_is_shared_where_the_configuration_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(compile_cache, "open_destination", lambda config: asked.append(config) or open_storage("out"))
    monkeypatch.chdir(tmp_path)
    for delivery, expected in (({}, 2), ({"share_compiled": False}, 0)):
        asked.clear()
        cache = CompileCache.of(config_with(delivery={"streaming": True, **delivery}))
        cache.folder = tmp_path / str(expected)
        whole_member(cache)
        assert len(asked) == expected  # to take it, and to leave it


def test_a_machine_that_has_it_asks_nobody(tmp_path: Path) -> None:
    def nobody() -> None:
        raise AssertionError("asked")

    whole_member(CompileCache(tmp_path, NAME, None))
    again = CompileCache(tmp_path, NAME, nobody)  # type: ignore[arg-type]
    whole_member(again)
    assert content(again.folder) == FILES


def test_a_finished_member_and_a_cache_of_ones_own_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = CompileCache(tmp_path, NAME, None)
    cache.started(1, 4, 4)
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    cache.started(1, 4, 0)
    cache.finished(None)  # type: ignore[arg-type]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine" and "TRITON_CACHE_DIR" not in os.environ


def test_a_damaged_or_unreachable_one_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    destination = tmp_path / "destination"
    open_storage(str(destination)).put_bytes(b"no archive", f"compile-cache/{NAME}.tar.gz")
    cache = member(tmp_path / "a", str(destination))
    with caplog.at_level(logging.WARNING):
        whole_member(cache)
    assert content(cache.folder) == FILES and "not taken from the destination" in caplog.text
    assert not list((tmp_path / "a").glob(".part-*"))

    unreachable = CompileCache(tmp_path / "b", NAME, lambda: open_storage("ftp://nowhere"))
    whole_member(unreachable)
    assert content(unreachable.folder) == FILES and "not kept at the destination" in caplog.text


@pytest.mark.timeout(60)
def test_a_member_that_stops_does_not_wait_for_the_sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "_PATIENCE_SECONDS", threading.TIMEOUT_MAX)
    reached, go_on = threading.Event(), threading.Event()

    def slow() -> Storage:
        reached.set()
        go_on.wait()
        return open_storage(str(tmp_path / "destination"))

    cache = CompileCache(tmp_path / "a", NAME, None)
    cache.started(1, 4, 0)
    compile_parts()
    cache._storage, cache._new = slow, True
    cache.lead_published(None, None)  # type: ignore[arg-type]
    assert reached.wait(30)
    cache.failed(ValueError())  # to wait would be to wait without end
    assert not go_on.is_set() and "TRITON_CACHE_DIR" not in os.environ
    go_on.set()
    cache.finished(None)  # type: ignore[arg-type]
    assert open_storage(str(tmp_path / "destination")).stat(f"compile-cache/{NAME}.tar.gz") is not None


@pytest.mark.parametrize(
    ("card", "raw"),
    [
        ("NVIDIA L4", {}),
        ("", {}),
        (H100, {"model": "aifs-ens-1.0"}),
        (H100, {"forecast": {"precision": "bf16"}}),
        (H100, {"forecast": {"chunks": 4}}),
        (H100, {"forecast": {"deterministic": False}}),
    ],
)
def test_caches_of_other_cards_models_and_settings_have_other_names(card: str, raw: dict) -> None:
    assert cache_name(card, config_with(**raw)) != NAME


def test_a_cache_of_other_kernels_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda path: path.name.encode())
    assert cache_name(H100, config_with()) != NAME


def test_the_digest_of_sources_is_of_all_that_the_faster_pass_is_made_of() -> None:
    folder = Path(compile_cache.__file__).parent

    def imported(module: str) -> set[str]:
        found = {module}
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aifs_ensemble.model"):
                named = [node.module.rpartition(".")[2]] if node.module != "aifs_ensemble.model" else []
                for name in named or [alias.name for alias in node.names]:
                    found |= imported(name)
        return found

    # `determinism` sets torch's switches, which its own cache tells apart
    assert set(compile_cache.KERNELS) == imported("accelerated") - {"determinism"}


def test_the_name_is_a_files_name() -> None:
    assert "torch-" in NAME and "/" not in NAME and " " not in NAME and len(NAME) < 200
