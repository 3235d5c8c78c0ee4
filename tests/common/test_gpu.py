"""Members of a machine with several GPUs spread over them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from aifs_ensemble.common.gpu import one_card, visible_cards

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
