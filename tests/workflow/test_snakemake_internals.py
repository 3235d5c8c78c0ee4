"""Each use of Snakemake's private interface, against the installed Snakemake: tiny Snakefiles, really run."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.workflow
LIBRARY = Path(__file__).parents[2] / "scripts"
HEAD = """
import json
from aifs_ensemble.workflow import snakemake_internals as internals

def see(**found):
    with open("seen.jsonl", "a") as file:
        print(json.dumps(found), file=file)
"""
RULES = """
rule b:
    input: "a.txt"
    output: "b.txt"
    shell: "touch {output}"

rule a:
    output: "a.txt"
    shell: "touch {output}"
"""
Seen = list[dict[str, Any]]
Run = Callable[..., Seen]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs ``snakemake ARGUMENTS`` on a Snakefile; it returns what the Snakefile saw."""
    from snakemake.cli import main

    monkeypatch.chdir(tmp_path)

    def snakemake(text: str, *arguments: str, code: int = 0) -> Seen:
        (tmp_path / "Snakefile").write_text(HEAD + text + RULES)
        seen = tmp_path / "seen.jsonl"
        seen.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["snakemake", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        return [json.loads(line) for line in seen.read_text().splitlines()] if seen.exists() else []

    return snakemake


IS = "see(dry=internals.is_dry_run(workflow), lint=internals.is_lint(workflow), unlock=internals.is_unlock())\n"


@pytest.mark.parametrize(
    "arguments",
    ["-n", "--dry-run", "--dryrun", "--dry-r", "-nq", "-n -q rules", "-np", "-pn", "-c1 -n", "-nc1", "-n -Rb", "-nR b"],
)
def test_a_dry_run_is_known_however_it_is_asked_for(run: Run, arguments: str) -> None:
    assert run(IS, *arguments.split()) == [{"dry": True, "lint": False, "unlock": False}]


@pytest.mark.parametrize(
    "arguments",
    ["-c1 -Rnone_n", "-c1 -sSnakefile_n", "-c1 -c1", "-c1 -t", "-c1 --config nn=-n", "-c1 --nolock", "--list-rules"],
)
def test_another_run_is_not_taken_for_a_dry_run(run: Run, tmp_path: Path, arguments: str) -> None:
    (tmp_path / "Snakefile_n").symlink_to("Snakefile")
    text = IS + '\nrule none_n:\n    output: "n.txt"\n    shell: "touch {output}"\n'
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").touch()
    assert run(text, *arguments.split())[0] == {"dry": False, "lint": False, "unlock": False}


def test_a_profile_may_ask_for_a_dry_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dry").mkdir()
    (tmp_path / "dry" / "config.yaml").write_text("dry-run: true\n")
    assert run(IS, "--profile", "dry")[0]["dry"]


@pytest.mark.parametrize("arguments", ["--unlock", "--unl", "--unlock -c1", "-n --unlock"])
def test_unlocking_is_known(run: Run, arguments: str) -> None:
    assert run(IS, *arguments.split())[0]["unlock"]


@pytest.mark.parametrize("arguments", ["-n --until b", "-n -- b", "-n --config xx=--unlock"])
def test_another_run_is_not_taken_for_unlocking(run: Run, arguments: str) -> None:
    assert not run(IS, *arguments.split())[0]["unlock"]


def test_linting_is_known(run: Run) -> None:
    assert run(IS, "--lint", code=1)[0] == {"dry": False, "lint": True, "unlock": False}


def test_a_job_is_neither_the_coordinator_nor_a_dry_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job reads the Snakefile again, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(LIBRARY))
    text = (
        "see(coordinator=internals.is_coordinator(workflow), dry=internals.is_dry_run(workflow), "
        "rented=internals.is_remote_job(workflow), unlock=internals.is_unlock())\n"
        'rule c:\n    output: "c.txt"\n    run: open(output[0], "w").close()\n'
    )
    job = {"coordinator": False, "dry": False, "rented": False, "unlock": False}
    assert run(text, "-c1", "c") == [{**job, "coordinator": True}, job]
    command = ["-c1", "--mode", "remote", "--target-jobs", "c:", "--nolock", "--allowed-rules", "c", "-F"]
    assert run(text, *command)[0] == {**job, "rented": True}


ASKED = """
def asked(wildcards):
    see(c=internals.jobs_asked_for(workflow, "c"), a=internals.jobs_asked_for(workflow, "a"))
    return []

rule c:
    input: asked
    output: "c_{n}.txt"
    shell: "touch {output}"
"""


def test_a_process_knows_the_jobs_of_a_rule_that_it_was_started_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(LIBRARY))
    command = ["-c1", "--mode", "remote", "--target-jobs", "c:n=1", "c:n=2", "--nolock", "--allowed-rules", "c", "-F"]
    assert run(ASKED, *command)[0] == {"c": [{"n": "1"}, {"n": "2"}], "a": []}
    assert run(ASKED, "-n", "c_1.txt")[0] == {"c": [], "a": []}


CLASH = """
from pathlib import Path
from aifs_ensemble.common.errors import ConfigError

def refuse():
    raise ConfigError("config: members: 'x', expected numbers")
"""


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("with internals.errors_in_one_line():\n    refuse()\n", ["-n"]),
        ("onstart:\n    with internals.errors_in_one_line():\n        Path('x').parent, refuse()\n", ["-c1"]),
    ],
)
def test_an_error_of_ours_is_shown_without_the_library(
    run: Run, capfd: pytest.CaptureFixture[str], tmp_path: Path, text: str, arguments: list[str]
) -> None:
    module = tmp_path / "refusing.py"
    module.write_text(CLASH)
    run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom refusing import *\n{text}", *arguments, code=1)
    said = "".join(capfd.readouterr())
    assert [line for line in said.splitlines() if "members" in line] == [
        "Error: config: members: 'x', expected numbers"
    ]
    assert ".py" not in said and "Traceback" not in said and 'Snakefile", line' not in said


def test_files_are_shared_unless_the_profile_says_otherwise(run: Run) -> None:
    text = (
        "before = internals.shares_files(workflow)\ninternals.share_files(workflow)\n"
        "see(before=before, after=internals.shares_files(workflow))\n"
    )
    assert run(text, "-n") == [{"before": True, "after": True}]
    apart = ["-n", "--shared-fs-usage", "none", "--executor", "coiled", "-j1"]
    assert run(text, *apart) == [{"before": False, "after": True}], "and the dry-run asks for no storage"
    run("", *apart, code=1)


def test_default_storage_is_what_the_option_would_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of rules are objects then, an input may be one by name, and a forced job's output is spelled like them."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    text = """
internals.storage_plugin_settings(workflow, "gcs").project = "mine"
before = internals.has_default_storage(workflow)
internals.use_default_storage(workflow, "gcs", "gs://bucket/p")
kept = workflow.storage_registry.default_storage_provider.settings.project
named = internals.storage_object(workflow, "gcs", "gs://other/x")
see(before=before, after=internals.has_default_storage(workflow), project=kept,
    query=named.flags["storage_object"].query)

rule c:
    output: "c.txt"
    shell: "touch {output}"

see(output=workflow.get_rule("c").output[0].flags["storage_object"].query)
"""
    first, second = run(text, "--list-rules")
    assert first == {"before": False, "after": True, "project": "mine", "query": "gs://other/x"}
    assert second == {"output": "gs://bucket/p/c.txt"}


def test_remote_jobs_are_told_the_default_storage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    text = """
internals.storage_plugin_settings(workflow, "gcs").project = "mine"
internals.use_default_storage(workflow, "gcs", "gs://bucket/p")
see(told=workflow.spawned_job_args_factory.get_default_storage_provider_args())
"""
    (seen,) = run(text, "--list-rules")
    assert "--default-storage-prefix gs://bucket/p" in seen["told"].replace("'", "")
    assert "--default-storage-provider gcs" in seen["told"].replace("'", "")


def test_default_resources_are_read_back(run: Run) -> None:
    text = 'see(provider=internals.default_resource(workflow, "provider"))\n'
    assert run(text, "-n") == [{"provider": None}]
    assert run(text, "-n", "--default-resources", "provider=coiled") == [{"provider": "coiled"}]
    assert run(text, "-n", "--default-resources", "provider='coiled'") == [{"provider": "coiled"}]


RESOURCES = """
rule c:
    output: "c.txt"
    resources: machine="gpu"
    run: open(output[0], "w").write(f"{resources.machine} {resources.provisioning} {resources.room}")

rule d:
    output: "d.txt"
    run: open(output[0], "w").close()

c, d = workflow.get_rule("c"), workflow.get_rule("d")
see(c=internals.rule_resource(c, "machine"), d=internals.rule_resource(d, "machine"))
internals.add_resources(c, {"provisioning": lambda wildcards, attempt: f"spot{attempt}", "room": 7})
"""


def test_resources_are_read_from_rules_and_added_to_them(run: Run, tmp_path: Path) -> None:
    text = RESOURCES + "if not internals.is_coordinator(workflow):\n    pass\n"
    assert run(text, "-c1", "--force-use-threads", "c.txt")[0] == {"c": "gpu", "d": None}
    assert (tmp_path / "c.txt").read_text() == "gpu spot1 7"


def test_a_limit_holds_unless_the_command_line_gives_one(run: Run) -> None:
    text = (
        'before = internals.resource_limit(workflow, "gpu_mem_mb")\n'
        'internals.limit_resource(workflow, "gpu_mem_mb", 5)\n'
        'see(before=before, most=internals.resource_limit(workflow, "gpu_mem_mb"))\n'
    )
    assert run(text, "-n") == [{"before": None, "most": 5}]
    assert run(text, "-n", "--resources", "gpu_mem_mb=3") == [{"before": 3, "most": 3}]


def test_files_of_the_configuration_are_those_of_snakefile_and_command_line(run: Run, tmp_path: Path) -> None:
    for name in ("own.yaml", "given.yaml"):
        (tmp_path / name).write_text("x: 1\n")
    text = 'configfile: "own.yaml"\nsee(files=[str(file) for file in internals.config_files(workflow)])\n'
    assert run(text, "-n") == [{"files": ["own.yaml"]}]
    assert run(text, "-n", "--configfile", "given.yaml") == [{"files": ["own.yaml", "given.yaml"]}]


FORCE = """
def force(wildcards):
    internals.force_job(workflow, "c.txt")
    return []

rule c:
    input: again=force
    output: "c.txt"
    run: open(output[0], "a").write("x")

onstart:
    see(rules=sorted(internals.rules_to_run(workflow)), cores=internals.cores(workflow),
        group=internals.group_size(workflow, "members"), other=internals.group_size(workflow, "other"))
"""


def test_a_forced_job_runs_though_its_output_is_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("old")
    (tmp_path / "a.txt").touch()
    options = ["--force-use-threads", "--rerun-triggers", "mtime", "--group-components", "members=7"]
    (seen,) = run(FORCE, "-c2", *options, "--", "c.txt", "a.txt")
    assert seen == {"rules": ["c"], "cores": 2, "group": 7, "other": 1}
    (seen,) = run(
        FORCE.replace('internals.force_job(workflow, "c.txt")', "pass"), "-c2", *options, "--", "c.txt", "b.txt"
    )
    assert seen["rules"] == ["b"]


SETTLE = """
def settle(wildcards):
    internals.set_executor_project(workflow, {project!r})
    internals.make_preemptible(workflow, ["a"])
    internals.set_preemptible_retries(workflow)
    settings = workflow.remote_execution_settings
    see(project=workflow.executor_settings.project, retries=settings.preemptible_retries,
        preemptible=[rule for rule in "ab" if settings.preemptible_rules.is_preemptible(rule)])
    raise SystemExit(7)

rule c:
    input: settle
    output: local("c.txt")
    run: pass
"""
BATCH = ["--executor", "googlebatch", "-j1", "--googlebatch-project", "given", "--googlebatch-region", "r"]
BATCH += ["--default-storage-provider", "gcs", "--default-storage-prefix", "gs://bucket", "--storage-gcs-project", "p"]


@pytest.mark.parametrize(
    ("project", "arguments", "expected"),
    [
        ("mine", ["--retries", "4"], {"project": "mine", "retries": 4, "preemptible": ["a"]}),
        (None, ["--preemptible-rules", "b", "--preemptible-retries", "2"],
         {"project": "given", "retries": 2, "preemptible": ["b"]}),
        (None, ["--preemptible-rules", "--preemptible-retries", "2"],
         {"project": "given", "retries": 2, "preemptible": ["a", "b"]}),
    ],
)  # fmt: skip
def test_the_googlebatch_plugin_is_given_what_options_would_say(
    run: Run, monkeypatch: pytest.MonkeyPatch, project: str | None, arguments: list[str], expected: dict[str, Any]
) -> None:
    """Settings of the run, which are there before jobs are looked for; the Snakefile ends there, nothing is asked."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    (seen,) = run(SETTLE.format(project=project), *BATCH, *arguments, "--", "c", code=7)
    assert seen == expected


OWN_STORAGE = """
import snakemake_storage_plugin_gcs as gcs
from aifs_ensemble.workflow import snakemake_internals as internals
from snakemake_interface_storage_plugins.io import Mtime
seen = []

class StorageProvider(gcs.StorageProvider):
    pass

class StorageObject(gcs.StorageObject):
    def get_inventory_parent(self):
        return self.cache_key("bucket/p")

    async def inventory(self, cache):
        if not internals.has_inventory(cache, self.get_inventory_parent()):
            there = self.cache_key("bucket/p/there.txt")
            cache.exists_in_storage[there], cache.mtime[there] = True, Mtime(storage=1.0)
            internals.note_inventory(cache, self.get_inventory_parent())
            seen.append(internals.is_active(cache))
"""
INVENTORY = """
import sys
sys.path.insert(0, ".")
import own_storage
internals.storage_plugin_settings(workflow, "gcs").project = "mine"
internals.use_default_storage(workflow, "gcs", "gs://bucket/p/")
made = internals.replace_default_storage(workflow, "gcs", own_storage.StorageProvider)
see(prefix=internals.default_storage_prefix(workflow), ours=type(made) is own_storage.StorageProvider,
    default=workflow.storage_registry.default_storage_provider is made)

rule c:
    output: internals.delivered_object(workflow, "{n}.txt")
    shell: "touch {output}"

rule d:
    input: [internals.delivered_object(workflow, f"{n}.txt") for n in ("there", "absent", "gone")]

output = workflow.get_rule("c").output[0].flags["storage_object"]
see(query=output.query, retrieve=output.retrieve, ours=type(output) is own_storage.StorageObject)
"""


def test_the_default_storage_is_looked_at_once_and_absence_counts(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An inventory answers for what it has not found: there is no server that could be asked."""
    from snakemake_interface_storage_plugins.registry import StoragePluginRegistry

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    # put back afterwards
    plugin = StoragePluginRegistry().get_plugin("gcs")
    monkeypatch.setattr(plugin, "storage_provider", plugin.storage_provider)
    (tmp_path / "own_storage.py").write_text(OWN_STORAGE)
    assert run(INVENTORY, "-n", "d") == [
        {"prefix": "gs://bucket/p", "ours": True, "default": True},
        {"query": "gs://bucket/p/{n}.txt", "retrieve": False, "ours": True},
    ]
    assert sys.modules["own_storage"].seen == [True], "one inventory, while jobs are planned"
    assert sorted(set(re.findall(r"output: (\S+)", "".join(capfd.readouterr())))) == [
        "gs://bucket/p/absent.txt", "gs://bucket/p/gone.txt",
    ]  # fmt: skip


SPEAKS = """
import logging

class Quiet(logging.Filter):
    def filter(self, record):
        see(names=[name for name in ("output", "reason") if hasattr(record, name)])
        record.output = ["short"]
        return True

if internals.is_coordinator(workflow):
    internals.filter_log(Quiet())
    internals.filter_log(Quiet())
"""


def test_records_of_the_log_are_seen_before_they_are_shown(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    from snakemake.logging import logger

    try:
        seen = run(SPEAKS, "-n", "b")
    finally:
        for one in list(logger.filters):
            logger.removeFilter(one)
    assert [each for each in seen if each["names"]] == [{"names": ["output", "reason"]}] * 2, "two jobs, once each"
    assert "output: short" in "".join(capfd.readouterr())


def test_what_is_forced_and_who_listens(run: Run) -> None:
    seen = """
onstart:
    rules, everything = internals.forced(workflow)
    listens = [type(one).__module__ for one in internals.log_handlers(workflow)]
    see(rules=sorted(rules), everything=everything, listens=listens)
"""
    plain = {"rules": [], "everything": False, "listens": []}
    assert run(seen, "--cores", "1") == [plain]
    assert run(seen, "--cores", "1", "--forcerun", "a") == [plain | {"rules": ["a"]}]
    assert run(seen, "--cores", "1", "--forceall") == [plain | {"everything": True}]
    assert run(seen, "--cores", "1", "--force") == [plain | {"everything": True}]
    (found,) = run(seen, "--cores", "1", "--forceall", "--logger", "aifs")
    assert found["listens"] == ["snakemake_logger_plugin_aifs"]


DIVIDED = """
import atexit

rule of:
    output: "of_{cycle}_{member}.txt"
    group: "many"
    shell: "touch {output}"

for rule in workflow.rules:
    if rule.name == "of":
        internals.group_by(workflow, rule, lambda wildcards: wildcards["cycle"] if wildcards["cycle"] != "z" else None)

def groups():
    found = {}
    for job, group in workflow.dag._group.items():
        found.setdefault(id(group), []).append(str(job.output[0]))
    see(groups=sorted(map(sorted, found.values())), jobs=sorted(map(str, internals.jobs_to_run(workflow))))

atexit.register(groups)
"""


def test_a_group_is_divided_and_its_parts_count_as_the_group(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two a machine: cycle x has three jobs on two machines, y and z one each; z stays in the group itself."""
    import atexit

    run_last: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", run_last.append)
    files = [f"of_{name}.txt" for name in ("x_1", "x_2", "x_3", "y_1", "z_1")]
    run(DIVIDED, "-n", "--group-components", "many=2", "--", *files)
    for last in run_last:
        last()
    (seen,) = [json.loads(line) for line in Path("seen.jsonl").read_text().splitlines()]
    assert sorted(map(len, seen["groups"])) == [1, 1, 1, 2]
    assert all(len({name.split("_")[1] for name in group}) == 1 for group in seen["groups"])
    assert seen["jobs"] == sorted(str(("of", {"cycle": name[3], "member": name[5]})) for name in files)


TOLD = """
internals.settle_config(workflow, config, "cycles", "20250101_0000,20250108_0000")
see(config=config["cycles"], jobs=list(workflow.config_settings.config_args))
"""


def test_jobs_are_told_a_key(run: Run) -> None:
    (seen,) = run(TOLD, "-n", "--config", "cycles=x", "aa=1", "--", "b.txt")
    assert seen == {"config": "20250101_0000,20250108_0000", "jobs": ["aa=1", "cycles=20250101_0000,20250108_0000"]}


GOING_ON = """
def kind(wildcards, attempt):
    {keep_going}
    return "a"

rule bad:
    output: "bad.txt"
    priority: 10
    resources: kind=kind
    shell: "exit 1"

rule good:
    output: "good.txt"
    resources: kind=kind
    shell: "touch {{output}}"
"""


@pytest.mark.parametrize("keep_going", [True, False])
def test_other_jobs_start_after_one_that_failed(run: Run, tmp_path: Path, keep_going: bool) -> None:
    call = "internals.keep_going(workflow)" if keep_going else "pass"
    run(GOING_ON.format(keep_going=call), "-c1", "--", "bad.txt", "good.txt", code=1)
    assert (tmp_path / "good.txt").exists() == keep_going


def test_targets_are_known_while_the_snakefile_is_read(run: Run) -> None:
    text = "see(targets=sorted(internals.targets()))\n"
    assert run(text, "-n", "a", "b", "--config", "key=1")[0] == {"targets": ["a", "b"]}
    assert run(text, "-n", "--cores", "1")[0] == {"targets": []}


ENDS = """
rule fails:
    output: "f.txt"
    shell: "exit 3"

rule slow:
    output: "s.txt"
    shell: "kill -INT $COORDINATOR; sleep 2"

rule needs:
    input: "f.txt"
    output: "n.txt"
    shell: "touch {output}"

onerror:
    see(failed=internals.ended_by_failures(workflow), left=sorted(internals.rules_to_run(workflow)))
"""


@pytest.fixture
def listens_to_ctrl_c() -> Iterator[None]:
    """Have this process end by SIGINT, which what a shell starts in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listens_to_ctrl_c")
def test_a_run_that_ended_by_failures_is_told_from_one_that_was_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = ["n.txt", "b.txt"]
    (seen,) = run(ENDS, "-c1", "--keep-going", "--", *targets, code=1)
    assert seen == {"failed": True, "left": ["fails", "needs"]} and (tmp_path / "b.txt").exists()
    (seen,) = run(ENDS, "-c1", "--", *targets, code=1)
    assert not seen["failed"], "without --keep-going others may be left"
    # Ctrl-C while a job runs
    monkeypatch.setenv("COORDINATOR", str(os.getpid()))
    (seen,) = run(ENDS, "-c2", "--keep-going", "--", "n.txt", "s.txt", code=1)
    assert seen["failed"] is False and "slow" in seen["left"]


def test_a_variable_goes_with_jobs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLD", "1-3")
    text = """
internals.pass_variable(workflow, "TOLD")

onstart:
    see(passed=dict(workflow.spawned_job_args_factory.envvars()))
"""
    assert run(text, "--cores", "1") == [{"passed": {"TOLD": "1-3"}}]


LEFT = """
def left(wildcards):
    internals.leave_updated(workflow)
    return []

rule delivers:
    input: "a.txt", left=left
    output: update("old.txt"), update("new.txt"), update("never.txt")
    shell: "echo new >> {output[0]}; touch {output[1]}; test ! -e .snakemake/backups || touch copied.txt; exit 3"

rule makes:
    output: "made.txt"
    shell: "touch {output}; exit 3"
"""


def test_updated_outputs_stay_uncopied_where_a_job_fails(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the job left stays, whether it was there before or not; other outputs are removed as ever."""
    from snakemake.logging import logger

    (tmp_path / "old.txt").write_text("old\n")
    try:
        run(LEFT, "-c1", "--keep-going", "--force", "--", "old.txt", "made.txt", code=1)
    finally:
        for one in list(logger.filters):
            logger.removeFilter(one)
    said = "".join(capfd.readouterr())
    assert (tmp_path / "old.txt").read_text() == "old\nnew\n" and (tmp_path / "new.txt").exists()
    assert not (tmp_path / ".snakemake" / "backups").exists() and not (tmp_path / "copied.txt").exists()
    assert not (tmp_path / "made.txt").exists() and "Removing output files of failed job makes" in said
    assert not re.search("restore |Restored|failed job delivers", said), said
    assert said.count("Error in rule delivers") == 1
