"""Turns: a few at a time, handed on by whoever ends or dies, and no obstacle where they cannot work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aifs_ensemble.common.turns import Turn

HOLD = """
import sys
from pathlib import Path
from aifs_ensemble.common.turns import Turn
turn = Turn("computing", 1, patience=60, folder=Path(sys.argv[1]))
turn.take()
print("taken", flush=True)
sys.stdin.read()
"""


def after(polls: int) -> Callable[[], bool]:
    """Return a `given_up` that says so after that many questions."""
    left = iter(range(polls))
    return lambda: next(left, None) is None


@pytest.mark.parametrize(("places", "most"), [(1, 1), (2, 2), (0, 6)])
def test_as_many_have_it_at_once_as_there_are_places(tmp_path: Path, places: int, most: int) -> None:
    inside, seen, everyone = [], [], threading.Barrier(6)

    def member() -> None:
        turn = Turn("computing", places, patience=60, folder=tmp_path)
        everyone.wait()
        with turn.taken() as mine:
            assert mine
            inside.append(1)
            seen.append(len(inside))
            if not places:
                everyone.wait()  # nobody waits for anybody
            time.sleep(0.05)
            seen.append(len(inside))
            inside.pop()

    members = [threading.Thread(target=member) for _ in range(6)]
    for each in members:
        each.start()
    for each in members:
        each.join()
    assert len(seen) == 12 and max(seen) == most


def test_a_killed_holder_gives_it_back(tmp_path: Path, root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdout.readline() == "taken\n"
        turn = Turn("computing", 1, patience=60, folder=tmp_path)
        assert not turn.take(after(3))
        other = Turn("starting", 1, patience=60, folder=tmp_path)
        assert other.take(after(0))
        os.kill(holder.pid, signal.SIGKILL)
        assert turn.take()
    assert turn.waited > 0


def test_what_was_forked_meanwhile_does_not_keep_it(tmp_path: Path) -> None:
    turn = Turn("computing", 1, patience=60, folder=tmp_path)
    turn.take()
    assert turn._held is not None
    inherited = os.dup(turn._held.fileno())  # shares the open file, as a forked process does
    turn.give_back()
    assert Turn("computing", 1, patience=60, folder=tmp_path).take(after(3))
    os.close(inherited)


def test_a_holder_that_is_silent_for_too_long_is_passed_by(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = Turn("computing", 1, patience=60, folder=tmp_path)
    holder.take()
    (file,) = tmp_path.iterdir()
    os.utime(file, (time.time() - 3600,) * 2)
    assert not Turn("computing", 1, patience=7200, folder=tmp_path).take(after(5))
    assert Turn("computing", 1, patience=0.01, folder=tmp_path).take(after(1000))
    assert "no sign of life" in caplog.text
    holder.sign_of_life()
    assert time.time() - file.stat().st_mtime < 600


def test_where_there_can_be_no_turns_nobody_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with Turn("computing", 1, patience=60, folder=tmp_path / "file").taken() as mine:
        assert mine
    assert "no turns here" in caplog.text
