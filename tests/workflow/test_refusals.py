"""What rented machines could not work with is told in one line, before one is rented."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from aifs_ensemble.common import models
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.storage import open_storage
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.workflow import refusals
from delivery.members import make_config
from doubles.gcs_fault_proxy import fault_proxy
from doubles.gcs_server import gcs_server

from workflow.project import Project


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tables that the library reads."""
    folder = tmp_path / "above" / "checkout"
    (folder / "config").mkdir(parents=True)
    for name, table in (("CATALOGUE", "models.yaml"), ("PARAMETERS", "parameters.yaml")):
        (folder / "config" / table).touch()
        monkeypatch.setattr(refusals, name, folder / "config" / table)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return folder


def test_machines_get_what_git_knows(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not a git repository" in str(refusals.checkout_problem(checkout))
    git(checkout.parent, "init")
    assert "git does not know config/parameters.yaml" in str(refusals.checkout_problem(checkout)), (
        "untracked in another"
    )
    git(checkout.parent, "add", "-A")
    assert refusals.checkout_problem(checkout) is None
    # started from a folder of the checkout: Snakemake deploys what is below it
    (checkout / "elsewhere").mkdir()
    assert "from which snakemake is started" in str(refusals.checkout_problem(checkout / "elsewhere"))
    monkeypatch.setenv("PATH", str(checkout))
    assert "git is not installed" in str(refusals.checkout_problem(checkout))


@pytest.mark.parametrize("name", ["a$HOME", "a`b", 'a"b'])
def test_a_folder_that_the_shell_takes_otherwise(tmp_path: Path, name: str) -> None:
    assert "in its name" in str(refusals.checkout_problem(tmp_path / name))


def test_the_checkout_of_these_tests_would_travel(root: Path) -> None:
    assert root / "config" == models.CATALOGUE.parent
    if (root / ".git").exists():
        assert refusals.checkout_problem(root) is None


@pytest.mark.parametrize("file", ["../x.yaml", "/etc/x.yaml", "a/../../x.yaml"])
def test_a_configuration_that_does_not_travel(tmp_path: Path, file: str) -> None:
    assert refusals.outside([Path("today.yaml"), Path("config/config.yaml"), tmp_path / "b.yaml"], tmp_path) is None
    problem = refusals.outside([Path("config/config.yaml"), Path(file)], tmp_path)
    assert str(problem).startswith(f"--configfile {file}: outside the checkout")


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refusals.home_problem() is None
    for home in ("/proc/nowhere", "/dev/null"):
        monkeypatch.setenv("HOME", home)
        assert str(refusals.home_problem()).startswith(f"HOME: {home}, expected a folder that can be written: ")


def test_inputs_of_the_future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    config = make_config(tmp_path / "scratch", str(tmp_path / "out"), checkpoint=str(tmp_path / "own.ckpt"))
    files = [tmp_path / "own.ckpt", config.scratch.initial(2)]
    assert refusals.changed(config) == {}
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert refusals.time_problem(refusals.changed(config), now) is None
    for path in files:
        os.utime(path, (now + 7200, now + 7200))
        assert str(refusals.time_problem(refusals.changed(config), now)).startswith(f"{path}: changed at 20")
        os.utime(path, (now, now))


@pytest.mark.cloud
def test_objects_of_the_future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket's clock counts, or that of this machine is behind."""
    with gcs_server() as server, fault_proxy(server) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        config = make_config(tmp_path, "gs://ensembles/x", checkpoint="gs://ensembles/models/own.ckpt")
        Destination(config).storage.put_bytes(b"x", config.objects.initial(1))
        open_storage("gs://ensembles").put_bytes(b"x", "models/own.ckpt")
        changed = refusals.changed(config, Destination(config))
    assert set(changed) == {"gs://ensembles/models/own.ckpt", f"gs://ensembles/x/{config.objects.initial(1)}"}
    assert refusals.time_problem(changed, time.time()) is None
    assert "in the past" not in str(refusals.time_problem(changed, time.time() - 3600))
    assert refusals.time_problem(changed, time.time() - 3600)


@pytest.mark.parametrize(
    ("own", "image", "refused"),
    [({}, "mine-gpu", True), ({}, "gcr.io/mine/gpu", False), ({"gpu_image": "mine-v2"}, "mine-gpu", False)],
)
def test_a_software_environment_is_of_one_model(tmp_path: Path, own: dict, image: str, refused: bool) -> None:
    """A container image has the packages of every model."""
    keys = {"model": ["demo", "demo-v2"], "by_model": {"demo-v2": own}, "cloud": {"gpu_image": image}}
    problem = refusals.images_problem(make_config(tmp_path / "scratch", str(tmp_path / "results"), **keys))
    assert ("by_model.demo-v2.gpu_image: 'mine-gpu' as for demo, expected" in (problem or "")) == refused
    assert refusals.images_problem(make_config(tmp_path / "scratch", str(tmp_path / "results"))) is None


def test_the_first_problem_is_raised() -> None:
    refusals.check(None, None)
    with pytest.raises(ConfigError, match="second"):
        refusals.check(None, "second", "third")


@pytest.mark.workflow
def test_a_checkpoint_of_the_future_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "project", members="1", lead_hours=6, checkpoint="own.ckpt")
    path = project.folder / "own.ckpt"
    path.touch()
    os.utime(path, (time.time() + 3600,) * 2)
    said = project.snakemake()
    assert project.code != 0
    assert "own.ckpt: changed at 20" in said and "Traceback" not in said
    assert not list(project.folder.rglob("*.safetensors"))


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--default-resources", "mem_mb=1000"), "--default-resources: no provider among them"),
        (
            ("--config", "destination=gs://bucket/$(touch x)"),
            "config: destination: 'gs://bucket/$(touch x)', expected letters, digits and",
        ),
    ],
)
def test_what_is_refused_even_of_a_plan(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    project = Project.copy(tmp_path / "project")
    said = project.snakemake("-n", *arguments, profile="coiled-gpu")
    assert project.code != 0
    assert expected in said and "Traceback" not in said
