"""What this workflow tells the Coiled executor: machines, limits, tags by its configuration; success by manifests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common import environment
from aifs_ensemble.common.errors import ConfigError, StorageError
from aifs_ensemble.workflow import start
from aifs_ensemble.workflow.coiled import hooks
from snakemake_executor_plugin_coiled import ExecutorSettings
from snakemake_executor_plugin_coiled.records import JobRecord, Journal, MachineRequest

from workflow.rented.coiled_helpers import settings
from workflow.rented.conftest import ROOT

TARGETS = ["forecast_member:member=002", "forecast_member:member=001", "initial_member:member=003"]


def made(monkeypatch: pytest.MonkeyPatch, **changes: object) -> hooks.EnsembleHooks:
    monkeypatch.setenv(environment.CONFIG, json.dumps(settings(**changes).to_dict()))
    return hooks.EnsembleHooks(ExecutorSettings())


def test_settings_are_those_of_the_configuration(monkeypatch) -> None:
    cloud = {"workspace": "mine", "max_hours": 2, "wait_hours": 0, "idle_minutes": 3, "secrets": ["HF_TOKEN"]}
    found = made(monkeypatch, cloud={**cloud, "labels": {"team": "ens"}})
    given = found.settings
    assert (given.workspace, given.max_hours, given.wait_hours, given.idle_minutes) == ("mine", 2, 0, 3)
    assert (given.secrets, given.tags, given.scheduler_vm_type) == (["HF_TOKEN"], ["team=ens"], "n2-standard-2")


MACHINES = {
    "gpu": ({"machine": "gpu", "provisioning": "standard"}, ("a2-ultragpu-1g", "registry/gpu", False)),
    "spot": ({"machine": "gpu", "provisioning": "spot"}, ("a2-ultragpu-1g", "registry/gpu", True)),
    "cpu": ({"machine": "cpu"}, ("n2-standard-2", "registry/etl", False)),
    "no class": ({}, ("n2-standard-2", "registry/etl", False)),
}


@pytest.mark.parametrize("case", MACHINES)
def test_machine_of_a_class(case, monkeypatch) -> None:
    resources, expected = MACHINES[case]
    found = made(monkeypatch).machine(resources)
    assert (found["vm_type"], found["image"], found["spot"]) == expected


REFUSED = {
    "no image": ({"cloud": {"gpu_image": None}}, r"cloud\.gpu_image is missing"),
    "unknown machine": ({"cloud": {"gpu": "a2-ultragpu-2g"}}, "did you mean 'a2-ultragpu-1g'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, monkeypatch) -> None:
    changes, text = REFUSED[case]
    with pytest.raises(ConfigError, match=text):
        made(monkeypatch, **changes).machine({"machine": "gpu"})


BOTH = {"model": ["demo", "demo-v2"], "by_model": {"demo-v2": {"gpu_image": "registry/v2"}}}
OF_BOTH = [f"forecast_member:cycle=20250819_0000,member=00{n},model={model}" for model in BOTH["model"] for n in (1, 2)]


def test_two_models_have_machines_with_their_software(monkeypatch) -> None:
    found = made(monkeypatch, **BOTH)
    for model, image in (("demo", "registry/gpu"), ("demo-v2", "registry/v2"), ("", "registry/gpu")):
        assert found.machine({"machine": "gpu", "model": model})["image"] == image
    assert found.machine({"machine": "cpu", "model": "demo-v2"})["image"] == "registry/etl"


def test_jobs_of_two_models_are_told_apart(monkeypatch) -> None:
    found = made(monkeypatch, **BOTH)
    assert found.title(OF_BOTH[:2]) == "forecast_member demo/20250819_0000 1-2"
    one = made(monkeypatch, model="demo").work()
    assert found.work()["model"] == "demo,demo-v2" and found.work() != one
    wrong = {"demo": {}, "demo-v2": {2: "short"}}
    monkeypatch.setattr(hooks, "undelivered", lambda config, members: wrong[config.model.name])
    assert found.judge(OF_BOTH) == {**dict.fromkeys(OF_BOTH[:3], ""), OF_BOTH[3]: "short"}


def test_jobs_have_names(monkeypatch) -> None:
    found = made(monkeypatch)
    assert found.title(TARGETS[:2]) == "forecast_member 1-2"
    assert found.title(TARGETS) == "forecast_member+initial_member 1-2"
    tags = {"cycle": found.config.cycle, "rule": "initial_member", "workflow": "aifs-ensemble"}
    assert found.tags(TARGETS[2:]) == tags
    assert found.environment("an-id") == {environment.JOB: "an-id"}


def test_manifests_judge_members_and_nothing_else(monkeypatch) -> None:
    found = made(monkeypatch)
    monkeypatch.setattr(hooks, "undelivered", lambda config, members: {2: "short"} if 2 in members else {})
    assert found.judge(TARGETS) == {TARGETS[0]: "short", TARGETS[1]: ""}
    assert found.judge(TARGETS[2:]) == {}, "of an initial state the exit code tells"


OF_TWO = [
    "forecast_member:cycle=20250819_0000,member=009", "forecast_member:cycle=20250819_0000,member=010",
    "forecast_member:member=001,cycle=20250826_0000",
]  # fmt: skip
TWO = {"cycle": None, "cycles": ["20250819_0000", "20250826_0000"]}


def test_jobs_of_several_cycles_have_names_and_judges(monkeypatch) -> None:
    found = made(monkeypatch, **TWO)
    assert found.title(OF_TWO) == "forecast_member 20250819_0000 9-10, 20250826_0000 1"
    assert found.title(["initial_cycle:cycle=20250826_0000"]) == "initial_cycle 20250826_0000"
    assert found.title(["checkpoint_prepare:"]) == "checkpoint_prepare"
    assert found.tags(OF_TWO)["cycle"] == "20250819_0000-20250826_0000"
    assert found.tags(OF_TWO[2:])["cycle"] == "20250826_0000"
    absent = {"20250819_0000": {10: "no manifest"}, "20250826_0000": {}}
    monkeypatch.setattr(hooks, "undelivered", lambda config, members: absent[config.cycle])
    assert found.judge(OF_TWO) == {OF_TWO[0]: "", OF_TWO[1]: "no manifest", OF_TWO[2]: ""}


def test_jobs_are_of_a_run_by_its_cycles(here: Journal) -> None:
    """A run goes on with other cycles, and what was rented for those is no spending of its own."""
    mine, more = settings(**TWO), settings(**TWO | {"cycles": ["20250826_0000", "20250902_0000"]})
    other = settings(**TWO | {"cycles": ["20250902_0000", "20250909_0000"]})
    record = JobRecord("an-id-1", "title", tuple(OF_TWO[2:]), hooks.work_of(mine))
    assert hooks.work_of(mine) == hooks.work_of(more) == hooks.work_of(other) != hooks.work_of(settings())
    assert [hooks.is_of(record, config) for config in (mine, more, other, settings())] == [True, True, False, False]


def test_a_bucket_that_does_not_answer_is_no_judgement(monkeypatch) -> None:
    """Members are called failed when their manifests say so, not when the coordinator's login has ended."""

    def refused(*_):
        raise StorageError("gs://: RefreshError")

    monkeypatch.setattr("aifs_ensemble.common.storage.gcs.GcsStorage.get_bytes", refused)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(StorageError):
        made(monkeypatch).judge(TARGETS)


OTHER_WORK = {
    "cycle": {"cycle": "20260101_1200"},
    "destination": {"destination": "gs://ensembles/smoke"},
    "leads": {"lead_hours": 48},
    "model": {"model": "aifs-ens-1.0"},
    "settings": {"forecast": {"precision": "bf16"}},
    "packing": {"forecast": {"packing": {"t": 12}}},
    "seed": {"initial_conditions": {"idealised": {"seed": 7}}},
    "layout": {"delivery": {"layout": "blocks", "block_hours": 24}},
}


@pytest.mark.parametrize("case", OTHER_WORK)
def test_another_work(case) -> None:
    """Targets name the member alone; the same member of another cycle is another job."""
    assert hooks.work_of(settings(**OTHER_WORK[case])) != hooks.work_of(settings())
    assert hooks.work_of(settings(members="7", cloud={"max_hours": 1})) == hooks.work_of(settings())


def left(journal: Journal, **changes: object) -> JobRecord:
    request = MachineRequest("us-central1", False, "n2-standard-2", 1)
    record = JobRecord("an-id-1", "title", (), hooks.work_of(settings()), requests=[request], **changes)
    journal.write(record)
    return record


def test_a_run_tells_of_machines_whose_end_is_not_known(here: Journal) -> None:
    other = settings(lead_hours=48)
    assert list(start.left_open(settings())) == []
    left(here)
    assert list(start.left_open(settings())) == [], "it is taken up"
    (line,) = start.left_open(other)
    assert "`aifs-ensemble coiled-cancel an-id-1` stops them" in line, "nobody waits for it"
    living = Journal(here.folder)
    living.become_owner()
    left(here, owner=living.owner)
    assert list(start.left_open(other)) == [], "a run beside this one does"
    left(here, state="failed")
    assert list(start.left_open(settings())) == [line]


def test_cancelling_nothing_and_what_is_unknown(here: Journal, tmp_path, capsys) -> None:
    (tmp_path / ".snakemake").mkdir()  # where a run was
    assert main(["coiled-cancel"]) == 0
    assert "0 jobs stopped" in capsys.readouterr().err
    assert main(["coiled-cancel", "never-asked-for"]) == 12
    assert "never-asked-for: not stopped" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["", "random"])
def test_an_order_that_is_not_fixed_is_no_reason_to_refuse(seed, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    start._refuse_fixed_order()


def test_runs_beside_each_other_do_not_name_their_sources_alike(monkeypatch) -> None:
    for seed in ("0", "42"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        with pytest.raises(ConfigError, match=f"PYTHONHASHSEED: '{seed}'"):
            start.prepare_start(None, settings())


def test_rented_machines_need_no_executor() -> None:
    """Their images have neither the plugin nor Coiled's client; the Snakefile is read there, too."""
    code = (
        "import sys; sys.modules['snakemake_executor_plugin_coiled'] = sys.modules['coiled'] = None\n"
        "import aifs_ensemble.workflow.snakefile, aifs_ensemble.workflow.member_job"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")}, check=True)
