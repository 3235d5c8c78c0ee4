"""`.ci/install`, which make calls: what it refuses at once, what it mends, and who installs. Nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def install(folder: Path, *lists: str, python: str | Path = sys.executable, path: str = "") -> tuple[int, list[str]]:
    """Run the script in a folder; return its exit code and the lines of its errors."""
    copy = folder / ".ci" / "install"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / ".ci" / "install", copy)
    env = os.environ | {"PYTHON": str(python), "PATH": f"{path}{os.pathsep}/usr/bin:/bin"}
    done = subprocess.run([copy, *lists], cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.splitlines()


def test_a_folder_with_a_space_is_refused_at_once(tmp_path: Path) -> None:
    code, (line,) = install(tmp_path / "my forecasts", "requirements.txt")
    assert code == 1 and line.startswith(f"install: {tmp_path}/my forecasts: Snakemake runs no job")
    assert not (tmp_path / "my forecasts" / ".venv").exists()


def test_an_old_python_and_none_are_refused(tmp_path: Path) -> None:
    old = script(tmp_path / "old", 'test "$1" = -V && echo Python 3.9.2\ntest "$1" = -V')
    code, (line,) = install(tmp_path, python=old)
    assert code == 1 and f"'{old}' is Python 3.9.2, expected 3.11 or later" in line
    code, (line,) = install(tmp_path, python="python3.99")
    assert code == 1 and "'python3.99', no such program" in line


def test_debian_without_its_package_is_told_the_package(tmp_path: Path) -> None:
    python = script(tmp_path / "python", f'case "$*" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"')
    code, (line,) = install(tmp_path, python=python)
    assert code == 1 and line.endswith("on Debian and Ubuntu, apt install python3-venv")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("left", ["python without pip", "python that has gone"])
def test_a_half_made_environment_is_made_anew(tmp_path: Path, left: str) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    if left == "python without pip":
        cfg = f"home = {Path(sys.base_prefix) / 'bin'}\ninclude-system-site-packages = false\n"
        (tmp_path / ".venv" / "pyvenv.cfg").write_text(cfg)
        (folder / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    else:
        (folder / "python").symlink_to("/nowhere/python3")
    assert install(tmp_path) == (0, ["install: .venv does not work, made anew"])
    subprocess.run([folder / "python", "-m", "pip", "--version"], check=True, capture_output=True)
    (folder / "kept").touch()
    assert install(tmp_path) == (0, []) and (folder / "kept").exists(), "one that works is left alone"


SETTING = ":env:.index-url='https://mirror.example'"


@pytest.mark.parametrize(
    ("there", "settings", "uv_fails", "called"),
    [
        (True, "", False, ["uv a.txt b.txt"]),
        (True, ":env:.timeout='9'", False, ["uv a.txt b.txt"]),
        (True, SETTING, False, ["pip a.txt b.txt"]),
        (True, "", True, ["uv a.txt b.txt", "pip a.txt b.txt"]),
        (False, "", False, ["pip uv", "uv a.txt b.txt"]),
        (False, SETTING, False, ["pip a.txt b.txt"]),
    ],
)
def test_uv_installs_unless_pip_knows_better(
    tmp_path: Path, there: bool, settings: str, uv_fails: bool, called: list[str]
) -> None:
    """With settings of pip, such as a mirror, pip; where uv fails or cannot be had, pip."""
    calls = tmp_path / "calls"
    lists = "$(for word; do case $word in *.txt) echo $word;; esac; done)"
    uv = f'echo uv {lists} >> "{calls}"\nexit {int(uv_fails)}\n'
    python = f"""
    case "$*" in
    *"config list"*) echo "{settings}";;
    *uv==*) echo pip uv >> "{calls}"; mkdir -p .venv/.uv/bin; cp uv.txt .venv/.uv/bin/uv; chmod +x .venv/.uv/bin/uv;;
    *"pip install"*) echo pip {lists} >> "{calls}";;
    esac
    """
    script(tmp_path / ".venv" / "bin" / "python", python)
    script(tmp_path / ("bin/uv" if there else "uv.txt"), uv)
    code, errors = install(tmp_path, "a.txt", "b.txt", path=str(tmp_path / "bin"))
    assert (code, errors) == (0, [])
    assert calls.read_text().splitlines() == called


def test_without_uv_and_without_its_wheel_pip_installs(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    script(
        tmp_path / ".venv" / "bin" / "python",
        f'case "$*" in *uv==*) exit 1;; *"pip install"*) echo "$@" >> "{calls}";; esac',
    )
    assert install(tmp_path, "a.txt")[0] == 0
    assert calls.read_text() == "-m pip install --quiet --requirement a.txt\n"
