"""Checkpoints made to do harm, second attack: two archives in a file, comparisons that run code, and bare looks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.checkpoint.archive import read_archive
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
