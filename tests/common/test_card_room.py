"""Members that need more of a card than they were admitted with take turns on it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from aifs_ensemble.common.card_room import CardRoom

TOTAL = 42_900.0  # a card of 40 GiB
ADMITTED, OWN = 12_000.0, 23_400.0


def room(folder: Path, total: float = TOTAL, card: str = "GPU-1") -> CardRoom:
    return CardRoom(card, total, folder, pause=0.01)


def now(room: CardRoom, mb: float) -> bool:
    """Whether it gets so much without waiting."""
    return room.take(mb, "a member", lambda: True)


def test_members_that_fit_do_not_wait(tmp_path: Path) -> None:
    rooms = [room(tmp_path) for _ in range(4)]
    assert [now(one, ADMITTED) for one in rooms] == [True, True, True, False]
    assert now(room(tmp_path, card="GPU-2"), ADMITTED)  # another card
    rooms[0].give_back()
    assert now(rooms[3], ADMITTED)


@pytest.mark.parametrize(("mb", "at_once"), [(OWN / 2, 3), (OWN, 1), (2 * OWN, 1)])
def test_members_that_fell_back_take_turns_and_all_get_theirs(tmp_path: Path, mb: float, at_once: int) -> None:
    """Three members admitted with 12 GB each need `mb` each, up to more than the card has: then one runs alone."""
    running, most, ended = [], [], []
    lock = threading.Lock()

    def member(name: str) -> None:
        with room(tmp_path) as mine:
            assert mine.take(ADMITTED, name)
            assert mine.take(mb, name)  # gives back what it was admitted with, or all three would wait for each other
            with lock:
                running.append(name)
                most.append(len(running))
            time.sleep(0.1)
            with lock:
                running.remove(name)
                ended.append(name)

    threads = [threading.Thread(target=member, args=(str(number),), daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(ended) == ["0", "1", "2"] and max(most) <= at_once
    assert not list(tmp_path.glob("*.room"))


def test_what_a_killed_member_held_is_free(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from aifs_ensemble.common.card_room import CardRoom\n"
        f"room = CardRoom('GPU-1', {TOTAL}, Path(sys.argv[1])); room.take({OWN}, 'it'); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    root = Path(__file__).parents[2] / "scripts"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(root)}
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert not now(room(tmp_path), OWN)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert now(room(tmp_path), OWN)


def test_who_is_told_to_stop_does_not_wait(tmp_path: Path) -> None:
    first, second = room(tmp_path), room(tmp_path)
    assert first.take(OWN, "first") and not now(second, OWN)
    second.give_back()
    assert len(list(tmp_path.glob("*.room"))) == 1
