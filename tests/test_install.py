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
    code, (line,) = install(tmp_path / "my forecasts", "requirements/install.txt")
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


ONE = ":env:.index-url='https://mirror.example'"
MORE = "global.extra-index-url='https://a.example https://b.example'\nglobal.find-links='/x\\n/y'\n:env:.cert='/c.pem'"
UNSAID = "global.trusted-host='mirror.example'"
TOLD = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_STRATEGY", "UV_FIND_LINKS", "SSL_CERT_FILE")


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine's for uv."""
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)


def doubles(folder: Path, calls: Path, *, there: bool, settings: str = "", fails: str = "nothing") -> str:
    """Put a Python with pip into a folder's .venv, and a uv on a path which is returned or for pip to bring.

    Both write what they install to `calls`: without options, but those that say how. `fails` is a pattern of calls.
    """
    lists = (
        "$(for word; do case $word in */python | -m | pip | install | --quiet | --python);; *) echo $word;; esac; done)"
    )
    uv = f'case "$*" in *"{fails}"*) exit 1;; esac\necho uv {lists} >> "{calls}"\nenv > "{calls}.env"\n'
    (folder / "settings.txt").write_text(settings)
    python = f"""
    case "$*" in
    *"config list"*) cat settings.txt;;
    *uv==*) echo pip uv >> "{calls}"; mkdir -p .venv/.uv/bin; cp uv.txt .venv/.uv/bin/uv; chmod +x .venv/.uv/bin/uv;;
    *"pip install"*"{fails}"*) exit 1;;
    *"pip install"*) echo pip {lists} >> "{calls}";;
    esac
    """
    script(folder / ".venv" / "bin" / "python", python)
    script(folder / ("bin/uv" if there else "uv.txt"), uv)
    return str(folder / "bin")


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("", {}),
        (":env:.timeout='9'", {}),
        (ONE, {"UV_DEFAULT_INDEX": "https://mirror.example"}),
        (
            MORE,
            {
                "UV_INDEX": "https://a.example https://b.example ",
                "UV_INDEX_STRATEGY": "unsafe-best-match",
                "UV_FIND_LINKS": "/x,/y",
                "SSL_CERT_FILE": "/c.pem",
            },
        ),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_uv_installs_and_is_told_what_pip_was(tmp_path: Path, there: bool, settings: str, told: dict[str, str]) -> None:
    calls = tmp_path / "calls"
    path = doubles(tmp_path, calls, there=there, settings=settings)
    assert install(tmp_path, "a.txt", "--editable", ".", path=path) == (0, [])
    brought = [] if there else ["pip uv"]
    assert calls.read_text().splitlines() == [
        *brought, "uv --no-deps --require-hashes --requirement a.txt", "uv --no-deps --editable ."
    ]  # fmt: skip
    seen = dict(line.split("=", 1) for line in Path(f"{calls}.env").read_text().splitlines() if "=" in line)
    assert {name: seen[name] for name in TOLD if name in seen} == told


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("settings", "works"), [(UNSAID, True), ("", False)])
def test_pip_installs_where_uv_cannot(tmp_path: Path, settings: str, works: bool) -> None:
    """With a setting of pip that uv has no word for, and where uv fails."""
    calls = tmp_path / "calls"
    path = doubles(tmp_path, calls, there=True, settings=settings)
    if not works:
        script(tmp_path / "bin" / "uv", "exit 1")
    assert install(tmp_path, "a.txt", path=path) == (0, [])
    assert calls.read_text().splitlines() == ["pip --no-deps --require-hashes --requirement a.txt"]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("settings", ["", UNSAID])
@pytest.mark.parametrize("cpu", [True, False])
def test_the_build_of_torch_for_cpus_is_taken_where_there_is_one(tmp_path: Path, settings: str, cpu: bool) -> None:
    """Else PyPI's, with all that its lock names. Both by uv, or by pip."""
    calls = tmp_path / "calls"
    lock = tmp_path / "requirements" / "torch.txt"
    lock.parent.mkdir()
    lock.write_text("numpy==1\ntorch==2.13.0 ; python_version < '4' \\\n    --hash=sha256:0\n")
    path = doubles(tmp_path, calls, there=True, settings=settings, fails="nothing" if cpu else "+cpu")
    assert install(tmp_path, "requirements/torch.txt", path=path) == (0, [])
    how = "torch==2.13.0+cpu" if cpu else "--require-hashes --requirement requirements/torch.txt"
    assert calls.read_text().splitlines() == [f"{'pip' if settings else 'uv'} --no-deps {how}"]


def test_without_uv_and_without_its_wheel_pip_installs(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    script(
        tmp_path / ".venv" / "bin" / "python",
        f'case "$*" in *uv==*) exit 1;; *"pip install"*) echo "$@" >> "{calls}";; esac',
    )
    assert install(tmp_path, "a.txt")[0] == 0
    assert calls.read_text() == "-m pip install --quiet --no-deps --require-hashes --requirement a.txt\n"
