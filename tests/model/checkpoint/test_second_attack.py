"""Checkpoints made to do harm, second attack: two archives in a file, comparisons that run code, and bare looks."""

from __future__ import annotations

import copyreg
import json
import resource
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aifs_ensemble.cli import main
from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.checkpoint.archive import read_archive, verify_records
from aifs_ensemble.model.checkpoint.describe import describe_checkpoint
from aifs_ensemble.model.checkpoint.inert import read_inert
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.checkpoint.plain_archive import check_seen_alike, plain_records

from model.checkpoint import test_attacks as parts
from model.checkpoint.test_attacks import BUILD, END, FLOAT, NONE, PROTO, TRUE, d, n, s, t

END_OF_ARCHIVE = struct.Struct("<4s4H2LH")


def directory(content: bytes) -> tuple[bytes, bytes, int]:
    """Return what is before an archive's directory, the directory, and how many entries it has."""
    end = END_OF_ARCHIVE.unpack(content[-22:])
    return content[: end[6]], content[end[6] : end[6] + end[5]], end[3]


def moved(entries: bytes, by: int) -> bytes:
    """Return a directory whose records lie further back."""
    out, at = bytearray(entries), 0
    while at < len(out):
        lengths = struct.unpack_from("<HHH", out, at + 28)
        struct.pack_into("<L", out, at + 42, struct.unpack_from("<L", out, at + 42)[0] + by)
        at += 46 + sum(lengths)
    return bytes(out)


def large_end(count: int, size: int, start: int) -> bytes:
    return struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)


def two_in_one(torch_sees: bytes, python_sees: bytes) -> bytes:
    """Return a file that is one archive to torch, which follows the locator, and another to Python, which does not."""
    body, entries, count = directory(python_sees)
    other, others, other_count = directory(torch_sees)
    body += bytes(-len(body) % 64)
    start, by = len(body) + len(other), len(body)
    body += other + moved(others, by)
    followed = len(body)
    body += large_end(other_count, len(others), start)
    start = len(body)
    body += entries + large_end(count, len(entries), start)
    body += struct.pack("<4sLQL", b"PK\6\7", 0, followed, 1)
    return body + END_OF_ARCHIVE.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_behind_a_plain_one(
    demo: Model, demo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(parts.Scripted()), "script.zip")
    evil = tmp_path / "evil.ckpt"
    evil.write_bytes(two_in_one(Path("script.zip").read_bytes(), demo_path.read_bytes()))
    with pytest.raises(CheckpointError, match="two ends of the archive"):
        load_model(evil, demo, device="cpu", trust=True)
    # the second lock, without the first
    with pytest.raises(CheckpointError, match="in two places"):
        check_seen_alike(evil, read_archive(evil), "evil.ckpt")
    assert not Path("torchscript_wrote_this").exists()
    torch.load(evil, weights_only=False)
    assert Path("torchscript_wrote_this").exists()


def test_a_record_that_only_torch_takes_for_another(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    """Torch looks names up without regard to case: which of the two it takes is its own matter."""
    names = [*plain_records(demo_path)]
    path = parts.with_records(demo_path, tmp_path / "case.ckpt", **{"DATA.PKL": b"x", "Data/0": b"y"})
    assert {*plain_records(path)} - {*names} == {"DATA.PKL", "Data/0"}
    with pytest.raises(CheckpointError, match=r"find [\w./]+ in two places"):
        load_model(path, demo, device="cpu", trust=True)


def numbers(values: list[float], code: str) -> bytes:
    """An array."""
    made = parts.call("numpy.dtype", s(code), b"\x89", TRUE)
    content = parts.raw(np.array(values, code).tobytes())
    return parts.ARRAY + t(n(1), t(n(len(values))), made, b"\x89", content) + BUILD


# its comparison with a number goes through memory that is not its own
MATRIX = (
    parts.blank("scipy.sparse._csr.csr_matrix")
    + d(
        _shape=t(n(2), n(2)),
        indices=numbers([1, 0], "i4"),
        indptr=numbers([0, 1 << 26, 1 << 27], "i4"),
        data=numbers([1, 2], "f8"),
        maxprint=n(50),
    )
    + BUILD
)
VIEW = "torch._utils._rebuild_tensor_v2"
# where something may stand that was once compared before its type was looked at
COMPARED: dict[str, Callable[[bytes], bytes]] = {
    "version of a dtype": lambda x: FLOAT + t(x, s("<"), NONE, NONE, NONE, n(-1), n(-1), n(0)) + BUILD,
    "unit of a dtype": lambda x: parts.call("numpy.dtype", s("M8"), b"\x89", TRUE)
    + t(n(4), s("<"), NONE, NONE, NONE, n(-1), n(-1), n(0), t(x, t(parts.raw(b"ns"), n(1), n(1), n(1)))) + BUILD,
    "version of an array": lambda x: parts.ARRAY + t(x, t(n(1)), FLOAT, b"\x89", parts.raw(bytes(8))) + BUILD,
    "shape of an array": lambda x: parts.call(
        "numpy._core.multiarray._reconstruct", parts.g("numpy.ndarray"), x, parts.raw(b"b")
    ),
    "type of an array": lambda x: parts.call(
        "numpy._core.multiarray._reconstruct", parts.g("numpy.ndarray"), t(n(0)), x
    ),
    "order": lambda x: parts.call("numpy._core.numeric._frombuffer", parts.raw(bytes(8)), FLOAT, t(n(1)), x),
    "axes": lambda x: parts.call("numpy._core.numeric._frombuffer", parts.raw(bytes(8)), FLOAT, t(n(1)), s("C"), x),
    "encoding": lambda x: parts.call("_codecs.encode", s("a"), x),
    "pair": lambda x: parts.call("collections.OrderedDict", b"](" + x + b"e"),
    "metadata of a tensor": lambda x: parts.call(VIEW, parts.STORAGE, n(0), t(n(1)), t(n(1)), TRUE, b"}", x),
    "slots of a parameter": lambda x: parts.call(
        "torch._utils._rebuild_parameter_with_state",
        parts.call(VIEW, parts.STORAGE, n(0), t(n(4)), t(n(1)), b"\x89", b"}"), TRUE, b"}", t(NONE, x),
    ),
    "reference": lambda x: t(x, parts.g("torch.FloatStorage"), s("0"), s("cpu"), n(4)) + b"Q",
}  # fmt: skip


class ComparedError(Exception):
    """Code of a class in the pickle ran."""


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("place", COMPARED)
def test_nothing_is_compared_before_its_type_is_known(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.sparse

    def tell(*_: object) -> bool:
        raise ComparedError

    for method in ("__eq__", "__ne__", "__bool__", "__len__", "__iter__", "__hash__"):
        monkeypatch.setattr(scipy.sparse.csr_matrix, method, tell, raising=False)
    with pytest.raises(CheckpointError, match="refused"):
        parts.unpickle(PROTO + COMPARED[place](MATRIX) + END)


def test_the_matrix_itself_is_one_that_is_refused_at_the_end() -> None:
    with pytest.raises(CheckpointError, match="refused: a sparse matrix that is none"):
        parts.unpickle(PROTO + MATRIX + END)


def with_metadata(original: Path, to: Path, content: bytes) -> Path:
    with zipfile.ZipFile(original) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/anemoi.json"))
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(to, "w") as target:
        for record in source.namelist():
            target.writestr(record, content if record == name else source.read(record))
    return to


def metadata_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/anemoi.json"))
        return json.loads(archive.read(name))


@pytest.mark.parametrize("action", ["show", "check"])
@pytest.mark.parametrize(
    "change",
    [b"[" * 200_000, {"metadata_inference": {"dataset_names": 5}}, {"metadata_inference": {"dataset_names": []}},
     {"metadata_inference": []}, {"dataset": None}, {"provenance_training": [1]}],
    ids=["deep", "number", "empty", "list", "none", "provenance"],
)  # fmt: skip
def test_metadata_of_another_shape_are_one_line(
    change: Any, action: str, demo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = change if type(change) is bytes else json.dumps(metadata_of(demo_path) | change).encode()
    path = with_metadata(demo_path, tmp_path / "m.ckpt", content)
    code = main(["checkpoint", action, str(path)])
    said = capsys.readouterr()
    if action == "show" or type(change) is bytes:
        assert code == CheckpointError.exit_code
        assert said.err.startswith(f"error: {path}: metadata ") and said.err.count("\n") == 1
    assert said.out or said.err


TERMINAL = "\x1b]0;evil\x07\x1b[2Jruns here  yes"


@pytest.mark.parametrize("action", ["show", "check"])
def test_a_file_has_no_commands_for_the_terminal(
    action: str, demo_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = metadata_of(demo_path) | {
        "provenance_training": {"python": TERMINAL, "module_versions": {"torch": "\ud800"}}
    }
    path = with_metadata(demo_path, tmp_path / "m.ckpt", json.dumps(changed).encode())
    parts.with_records(path, tmp_path / "n.ckpt", data__pkl=parts.g(f"torch.nn.modules.{TERMINAL}.x") + b")R.")
    main(["checkpoint", action, str(tmp_path / "n.ckpt")])
    said = capsys.readouterr().out
    assert "evil" in said
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "content",
    [b"Nr\0\0\0\x08", b"\x82\xf0)R", b"\x83\xf0\x00)R", b"\x84\xf0\x00\x00\x00)R", b"\x96" + b"\xff" * 8],
    ids=["memo", "EXT1", "EXT2", "EXT4", "bytearray"],
)
def test_a_bare_look_makes_no_room_and_calls_nothing(content: bytes) -> None:
    copyreg.add_extension("os", "getpid", 0xF0)
    copyreg._extension_cache[0xF0] = pytest.fail  # type: ignore[attr-defined]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with suppress(CheckpointError):
            assert read_inert(PROTO + content + END, "here")[0] is None
    finally:
        copyreg.remove_extension("os", "getpid", 0xF0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # kB


def test_text_of_lists_within_lists_is_not_made() -> None:
    """Sixty lists, each twice in the next: their text would have 2**60 parts."""
    lists = b"]q\x000" + b"".join(
        b"](h" + bytes([i - 1]) + b"h" + bytes([i - 1]) + b"eq" + bytes([i]) + b"0" for i in range(1, 60)
    )
    found, names = read_inert(PROTO + lists + parts.g("builtins.str") + b"(h\x3btR" + END, "here")
    assert repr(found) == "<builtins.str>" and names == (("builtins", "str"),)


def test_a_bare_look_does_not_inflate_a_bomb_into_memory(tmp_path: Path) -> None:
    """A file of 400 kB holds 400 MB of zeros."""
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data/0", "w") as record:
        for _ in range(400):
            record.write(bytes(1_000_000))
    tracemalloc.start()
    try:
        verify_records(read_archive(path))
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claimed", [5, (1 << 64) - 1])
def test_a_record_of_another_size_than_claimed_is_one_line(claimed: int, tmp_path: Path) -> None:
    path = tmp_path / "c.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", b"12345678")
    found = read_archive(path)
    lying = replace(found, records=(replace(found.records[0], size=claimed),))
    with pytest.raises(CheckpointError, match=f"has 8 bytes, expected {claimed}"):
        verify_records(lying)


def test_metadata_that_no_memory_holds_are_refused(demo_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(demo_path.read_bytes())
    content = bytearray(path.read_bytes())
    place = content.rindex(b"anemoi-metadata/anemoi.json")
    entry = content.rindex(b"PK\1\2", 0, place)
    struct.pack_into("<L", content, entry + 24, (1 << 31))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"\d{10} bytes beside the weights, expected at most"):
        describe_checkpoint(path)


def test_a_matrix_is_whole_before_anything_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An LSTM looks into its list of weights when it gets its state."""
    import scipy.sparse

    def tell(*_: object) -> bool:
        raise ComparedError

    monkeypatch.setattr(scipy.sparse.csr_matrix, "__getitem__", tell)
    modules = dict.fromkeys(("_modules", "_parameters", "_buffers", "_forward_pre_hooks", "_forward_hooks"), b"}")
    attack = parts.blank("torch.nn.modules.rnn.LSTM") + d(**modules, all_weights=MATRIX) + BUILD
    with pytest.raises(CheckpointError, match="refused: a sparse matrix that is none"):
        parts.unpickle(PROTO + attack + END)
