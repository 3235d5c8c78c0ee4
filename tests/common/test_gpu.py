"""Members of a machine with several GPUs spread over them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from aifs_ensemble.common.gpu import (
    card_handle,
    card_name,
    cards,
    one_card,
    this_card,
    visible_card,
    visible_cards,
    wake_card,
)

CARDS = ("GPU-a", "GPU-b", "GPU-c")
HOLD = """
import sys
from pathlib import Path
from aifs_ensemble.common.gpu import one_card
with one_card(sys.argv[2:], Path(sys.argv[1])) as card:
    print(card, flush=True)
    sys.stdin.read()
"""


def member(folder: Path, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), *CARDS]
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def card_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_members_spread_evenly_and_a_killed_one_gives_its_card_back(tmp_path: Path, root: Path) -> None:
    with ExitStack() as stack:
        members = [stack.enter_context(member(tmp_path, root)) for _ in range(6)]
        held = [card_of(process) for process in members]
        assert sorted(held) == sorted(CARDS * 2)
        victim = members[3]
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        with stack.enter_context(member(tmp_path, root)) as late:
            assert card_of(late) == held[3]
            late.communicate("")
        for process in members:
            if process is not victim:
                process.communicate("")
    assert not list(tmp_path.glob("*.member"))


def test_the_process_sees_its_card_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_cards() == ["2", "5"]
    with one_card(folder=tmp_path) as first:
        assert first == os.environ["CUDA_VISIBLE_DEVICES"] == "2"
        assert visible_cards() == ["2"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2, 5"


@pytest.mark.parametrize("cards", [(), ("GPU-a",)])
def test_without_a_choice_nothing_changes(
    cards: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with one_card(cards, tmp_path) as card:
        assert card is None and "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variable", "card"),
    [
        (None, "0"),
        ("2", "2"),
        ("3,1", "3"),
        (" 1 , 0", "1"),
        ("GPU-5f2a", "GPU-5f2a"),
        ("MIG-41b36fb9-5ca5-5b49-9a3c-d9a4a5b6c7d8", "MIG-41b36fb9-5ca5-5b49-9a3c-d9a4a5b6c7d8"),
        ("MIG-GPU-5f2a/7/0", "MIG-GPU-5f2a/7/0"),
        ("", None),
        ("-1", None),
        ("-1,0", None),
        ("NoDevFiles", None),
    ],
)
def test_the_card_is_the_first_that_cuda_shows(variable: str | None, card: str | None) -> None:
    assert visible_card({} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}) == card


@dataclass
class Driver:
    """Two cards as NVML lists them; `sliced` are the indices of those in MIG mode. Handles are their names.

    What it does not have: readings, and slices by any name but a whole UUID.
    """

    sliced: set[int] = field(default_factory=set)
    uuids: tuple[str, ...] = ("GPU-5f2a77d0-1111", "GPU-9c31ab0e-2222")

    class NVMLError(Exception):
        """As of pynvml."""

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.uuids:
            raise self.NVMLError("driver not loaded")

    def nvmlDeviceGetName(self, card: str) -> str:  # noqa: N802
        return f"card {card[4:6]}"

    def nvmlDeviceGetMemoryInfo(self, card: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=80 << 30, free=79 << 30)

    def nvmlDeviceGetMemoryBusWidth(self, card: str) -> int:  # noqa: N802
        if card == self.uuids[1]:
            raise self.NVMLError("not supported")
        return 5120

    NVML_CLOCK_MEM = 2

    def nvmlDeviceGetMaxClockInfo(self, card: str, kind: int) -> int:  # noqa: N802
        assert kind == self.NVML_CLOCK_MEM
        return 2619

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index >= len(self.uuids):
            raise self.NVMLError(f"no card {index}")
        return self.uuids[index]

    def nvmlDeviceGetUUID(self, card: str) -> str:  # noqa: N802
        return card

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if not uuid.startswith("MIG-"):
            raise self.NVMLError(f"no card {uuid}")
        return uuid

    def nvmlDeviceGetMigMode(self, card: str) -> tuple[int, int]:  # noqa: N802
        sliced = int(self.uuids.index(card) in self.sliced)
        return sliced, sliced

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: str, index: int) -> str:  # noqa: N802
        return f"slice {index} of {card}"


def test_cards_are_found_by_index_and_by_uuid() -> None:
    driver = Driver()
    assert card_handle(driver, "1") == "GPU-9c31ab0e-2222"
    assert card_handle(driver, "GPU-9c31ab0e-2222") == "GPU-9c31ab0e-2222"
    assert card_handle(driver, "GPU-9c") == "GPU-9c31ab0e-2222"
    assert card_handle(driver, "MIG-GPU-5f2a/7/0") == "MIG-GPU-5f2a/7/0"
    assert card_handle(Driver(sliced={0}), "0") == "slice 0 of GPU-5f2a77d0-1111"
    assert card_handle(Driver(sliced={0}), "1") == "GPU-9c31ab0e-2222"
    for absent in ("2", "GPU-0000"):
        with pytest.raises(Driver.NVMLError):
            card_handle(driver, absent)


def test_what_the_driver_says_of_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [(card.name, card.memory_total) for card in cards()] == [("card 5f", 80 << 30), ("card 9c", 80 << 30)]
    assert [round(card.bandwidth_gb_s) for card in cards()] == [3352, 0], "an H100's, and one that does not say"
    assert card_name() == "card 9c", "the one that CUDA is shown"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_cards() == list(Driver.uuids)


@pytest.mark.parametrize("library", [None, Driver(uuids=())])
def test_no_library_and_no_driver_are_no_card(library: Driver | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (cards(), visible_cards(), this_card(), card_name()) == ([], [], None, "")


@pytest.mark.parametrize(
    ("codes", "called"),
    [
        ({}, ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"]),
        ({"cuInit": 100}, ["cuInit"]),  # CUDA_ERROR_NO_DEVICE
        ({"cuDeviceGet": 101}, ["cuInit", "cuDeviceGet"]),
    ],
)
def test_a_card_is_woken_as_far_as_there_is_one(
    monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], called: list[str]
) -> None:
    found: list[str] = []

    class Driver:
        def __getattr__(self, name: str):
            return lambda *_: found.append(name) or codes.get(name, 0)

    monkeypatch.setattr("ctypes.CDLL", lambda name: {"libcuda.so.1": Driver()}[name])
    wake_card()
    assert found == called


def test_without_a_driver_no_card_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", absent)
    wake_card()
