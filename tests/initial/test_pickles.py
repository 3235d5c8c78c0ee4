"""Pickled input states: plain arrays and dates come through with the usual checks, nothing else does."""

import os
import pickle
import struct
import subprocess
from datetime import datetime

import numpy as np
import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.cli.convert_pickle import member_of
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.fields.state import read_state
from aifs_ensemble.initial.build import build_member
from aifs_ensemble.initial.pickles import convert_pickle, load_plain


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


class Subprocess:
    def __reduce__(self):
        return subprocess.check_output, (["touch", "harmed"],)


class Evaluated:
    def __reduce__(self):
        return eval, ("open('harmed', 'w')",)


@pytest.fixture
def content(make_config, tmp_path):
    """The dictionary that users pickle, from an idealised state of member 1."""
    state = build_member(make_config(), 1, tmp_path / "state")
    fields = {name: state.fields[:, i].astype(np.float64) for i, name in enumerate(state.variables)}
    return {"date": datetime(2025, 8, 19), "fields": fields}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_of_any_protocol_converts(protocol, content, make_config, tmp_path):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(content, protocol))
    state = convert_pickle(make_config(), tmp_path / "p.pkl", 1, tmp_path / "out")
    np.testing.assert_array_equal(state.fields, read_state(tmp_path / "state").fields)
    assert read_state(tmp_path / "out").provenance["source"]["kind"] == "pickle"


def test_names_of_numpy_1_are_known(content):
    plain = pickle.dumps(content, 2).replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core." in plain
    np.testing.assert_array_equal(load_plain(plain, "x")["fields"]["2t"], content["fields"]["2t"])


def changed(**fields):
    return lambda content: content | {"fields": content["fields"] | fields}


def without(name):
    return lambda content: content | {"fields": {k: v for k, v in content["fields"].items() if k != name}}


def from_msl(content):
    """A plateau whose surface pressure is that at sea level."""
    z = content["fields"]["z"] + 20000.0
    return changed(z=z, sp=content["fields"]["msl"])(content)


BAD = [
    ("os.system", lambda c: c | {"x": Harmful()}, r"refused: names posix\.system, expected only numpy arrays"),
    ("subprocess", lambda c: c | {"x": Subprocess()}, r"refused: names subprocess\.check_output"),
    ("eval", lambda c: c | {"x": Evaluated()}, r"refused: names (__builtin__|builtins)\.eval"),
    ("object array", changed(sp=np.array([None, {}])), "refused: an array of a type other than numbers"),
    ("list", changed(sp=[1.0]), "sp is list, expected an array of numbers"),
    ("shape", changed(sp=np.zeros((2, 7))), r"sp has shape \(2, 7\), expected \(2, 6114\)"),
    ("one time", changed(sp=np.zeros(6114)), r"sp has shape \(6114,\)"),
    ("other date", lambda c: c | {"date": datetime(2025, 8, 18)}, "date 2025-08-18 00:00 UTC, expected the cycle"),
    ("no date", lambda c: {"fields": c["fields"]}, "expected a dictionary with 'date' and 'fields'"),
    ("missing field", without("t_500"), "1 of 92 input fields missing at .*: t_500"),
    ("not finite", changed(sp=np.full((2, 6114), np.nan)), "not finite: sp"),
    ("sp from msl", from_msl, r"sp against .*"),
]


@pytest.mark.parametrize(("name", "change", "line"), BAD, ids=[case[0].replace(" ", "-") for case in BAD])
def test_what_is_no_plain_sound_state_is_refused(name, change, line, content, make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(change(content)))
    with pytest.raises(InputError, match=line) as caught:
        convert_pickle(make_config(), tmp_path / "p.pkl", 1, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists() and not (tmp_path / "out").exists()


def called(full, *arguments):
    """A pickle that has something called with arguments, each a pickle's instructions."""
    module, _, name = full.rpartition(".")
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


POINTER = b"C\x08" + struct.pack("<Q", 0x4141414141414141)
OBJECTS = called("numpy.dtype", b"X\x02\x00\x00\x00O8", b"\x89", b"\x88")
NUMBERS = called("numpy.dtype", b"X\x02\x00\x00\x00f8", b"\x89", b"\x88")
EMPTY = called("numpy._core.multiarray._reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", b"C\x01b")
FORGED = {
    "array of bytes taken for objects": called("numpy.ndarray", b"K\x01\x85", b"X\x01\x00\x00\x00O", POINTER),
    "constructor of arrays": called("numpy.ndarray", b"K\x01\x85"),
    "objects by a state": EMPTY + b"(K\x01K\x01\x85" + OBJECTS + b"\x89" + POINTER + b"tb",
    "list of objects": EMPTY + b"(K\x01K\x01\x85" + OBJECTS + b"\x89](Ne" + b"tb",
    "scalar object": called("numpy._core.multiarray.scalar", OBJECTS, POINTER),
    "buffer of objects": called("numpy._core.numeric._frombuffer", POINTER, OBJECTS, b"K\x01\x85", b"X\x01\0\0\0C"),
    "fields": called("numpy.dtype", b"X\x04\x00\x00\x00i4,O"),
    "more than its bytes": EMPTY + b"(K\x01M\x00\xff\x85" + NUMBERS + b"\x89" + POINTER + b"tb",
    "size by a state": NUMBERS + b"(K\x03X\x01\x00\x00\x00<NNNM\x00\xffK\x01K\x00tb",
    "fields by a state": NUMBERS + b"(K\x03X\x01\x00\x00\x00<N)}K\x08K\x01K\x00tb",
    "subtype": called("numpy._core.multiarray._reconstruct", b"cdatetime\ndate\n", b"K\x00\x85", b"C\x01b"),
    "reference": b"K\x01Q",
}


@pytest.mark.parametrize("case", FORGED)
def test_arrays_are_not_made_of_pointers(case):
    with pytest.raises(InputError, match=r"^x: refused: .*, expected only numpy arrays and dates$"):
        load_plain(b"\x80\x03" + FORGED[case] + b".", "x")


@pytest.mark.parametrize("data", [b"", b"hello", pickle.dumps({"a": 1})[:-3], b"\x80\x05."])
def test_damaged_pickle_is_one_line(data):
    with pytest.raises(InputError, match=r"^x: (not a readable pickle|refused)"):
        load_plain(data, "x")


def test_command_names_members_by_file(content, tmp_path, root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    path = tmp_path / "input_state_member_007.pkl"
    path.write_bytes(pickle.dumps(content))
    assert main(["convert-pickle", str(path), "--folder", str(tmp_path / "states")]) == 0
    assert "member 7, 92 variables on N32" in capsys.readouterr().out
    assert read_state(tmp_path / "states" / "member007.safetensors").member == 7
    assert main(["convert-pickle", str(tmp_path / "input.pkl")]) == InputError.exit_code
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(InputError, match="does not end in a member's number"):
        member_of(tmp_path / "input.pkl")
    assert member_of(tmp_path / "input_state_member_000.pkl") == 0, "the control"


def test_command_makes_states_and_shows_the_spread(tmp_path, root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["initial", "--members", "1-2", "--config", f"scratch={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "t_500" in shown and "spread" in shown
    assert (tmp_path / "20250819_0000" / "initial" / "member002.safetensors").exists()
    same = ["--config", f"scratch={tmp_path / 'b'}", "initial_conditions.idealised.amplitude=0"]
    assert main(["initial", *same]) == InputError.exit_code
    assert "all 4 members (1-4) are identical" in capsys.readouterr().err
