"""Packages of a family of models over the common ones: made whole, found first, and refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from aifs_ensemble.common import overlays
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import get_model

NAME = "anemoi-0.11"
WHO = "import sys; from aifs_ensemble.common.models import get_model; from aifs_ensemble.common.overlays import *;"
SHOW = "from importlib.metadata import version; print(version('anemoi-models'), version('torch-geometric'));"


def python(code: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, which has imported nothing."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=variables | {"PYTHONPATH": str(root / "scripts")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode, done.stdout
    return done.stderr.strip().splitlines()[-1]


def test_a_process_finds_the_packages_of_its_model_and_so_do_those_that_it_starts(root: Path) -> None:
    child = f"import subprocess; subprocess.run([sys.executable, '-c', {SHOW!r}], check=True)"
    done = python(f"{WHO} use_packages(get_model('demo-v2')); use_packages(get_model('demo-v2')); {SHOW} {child}", root)
    assert done.stdout.split() == ["0.11.2", "2.6.1"] * 2, done.stderr
    there = "import anemoi.models, anemoi.utils; print(anemoi.models.__file__); print(anemoi.utils.__file__)"
    over, common = python(f"{WHO} use_packages(get_model('demo-v2')); {there}", root).stdout.split()
    assert NAME in over and NAME not in common


def test_models_of_the_common_packages_change_nothing(root: Path) -> None:
    done = python(
        f"{WHO} before = list(sys.path); use_packages(get_model('demo')); assert sys.path == before; {SHOW}", root
    )
    assert done.stdout.split() == ["0.6.0", "2.4.0"], done.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "sys.modules['torch_geometric'] = sys; use_packages(get_model('demo-v2'))",
            "model: demo-v2 needs anemoi-models 0.11.2 and torch_geometric 2.6.1, this process has imported another "
            "torch_geometric for a model of another environment: run it on its own",
        ),
        (
            "use_packages(get_model('demo-v2')); use_packages(get_model('demo'))",
            "model: demo needs the common packages, this process has anemoi-models 0.11.2 and torch_geometric 2.6.1 of "
            "environment anemoi-0.11: run it on its own, and keep",
        ),
    ],
)
def test_one_process_serves_models_of_one_family(root: Path, code: str, message: str) -> None:
    assert message in told(python(WHO + code, root))


@pytest.mark.parametrize("when", ["use_packages", "check_packages"])
def test_without_the_packages_one_line_says_what_to_do(root: Path, tmp_path: Path, when: str) -> None:
    done = python(f"{WHO} {when}(get_model('demo-v2'))", root, AIFS_ENSEMBLE_OVERLAYS=str(tmp_path))
    assert told(done) == (
        "aifs_ensemble.common.errors.ConfigError: model: demo-v2 needs anemoi-models 0.11.2 and torch_geometric 2.6.1 "
        "(environment anemoi-0.11), here are anemoi-models 0.6.0 and torch_geometric 2.4.0: run `aifs-ensemble "
        "environments --overlays`, or take a machine's image that has them"
    )


def test_a_machine_that_has_the_versions_needs_no_folder(root: Path, tmp_path: Path) -> None:
    """As one whose environment was made from envs/gpu-anemoi-0.11.yaml."""
    path = os.pathsep.join([str(overlays.overlay_folder(NAME)), str(root / "scripts")])
    done = python(
        f"{WHO} use_packages(get_model('demo-v2')); {SHOW}", root, PYTHONPATH=path, AIFS_ENSEMBLE_OVERLAYS=str(tmp_path)
    )
    assert done.stdout.split() == ["0.11.2", "2.6.1"], done.stderr


def test_the_version_that_made_a_checkpoint_names_its_packages() -> None:
    assert overlays.overlay_of({"anemoi.models": "0.11.2", "torch": "2.7.0"}) == NAME
    assert overlays.overlay_of({"anemoi.models": "0.6.0"}) == overlays.overlay_of({}) == ""
    assert get_model("aifs-ens-2.0").environment == NAME and get_model("aifs-ens-1.0").environment == ""


def wheel(folder: Path, version: str) -> None:
    """Write a package of one module."""
    information = f"tiny_package-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tiny_package-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_package.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip installs from, a lock, and an empty place for overlays."""
    for name in ("wheels", "locks"):
        (tmp_path / name).mkdir()
    wheel(tmp_path / "wheels", "1.0")
    wheel(tmp_path / "wheels", "2.0")
    (tmp_path / "locks" / "tiny.lock").write_text("tiny-package==1.0\n")
    monkeypatch.setattr(overlays, "LOCKS", tmp_path / "locks")
    monkeypatch.setenv("AIFS_ENSEMBLE_OVERLAYS", str(tmp_path / "overlays"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    overlays.overlay_pins.cache_clear()
    yield tmp_path
    overlays.overlay_pins.cache_clear()


def test_an_overlay_is_made_once_and_again_when_its_lock_changes(shelf: Path) -> None:
    module = shelf / "overlays" / "tiny" / "tiny_package.py"
    assert overlays.make_overlay("tiny") and "1.0" in module.read_text()
    assert not overlays.make_overlay("tiny")
    (shelf / "locks" / "tiny.lock").write_text("tiny-package==2.0\n")
    overlays.overlay_pins.cache_clear()
    assert not overlays.is_made("tiny")
    assert overlays.make_overlay("tiny") and "2.0" in module.read_text()
    assert [path.name for path in (shelf / "overlays").iterdir() if not path.name.startswith(".")] == ["tiny"]


def test_what_cannot_be_had_leaves_the_old_one(shelf: Path) -> None:
    overlays.make_overlay("tiny")
    (shelf / "locks" / "tiny.lock").write_text("tiny-package==3.0\n")
    overlays.overlay_pins.cache_clear()
    with pytest.raises(ConfigError, match=r"tiny\.lock: ERROR: .*tiny-package==3\.0"):
        overlays.make_overlay("tiny")
    assert "1.0" in (shelf / "overlays" / "tiny" / "tiny_package.py").read_text()


def test_an_environment_that_no_lock_has(shelf: Path) -> None:
    with pytest.raises(ConfigError, match=r"other\.lock: no such lock of an environment, .*tiny"):
        overlays.overlay_pins("other")
