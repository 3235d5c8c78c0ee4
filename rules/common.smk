# Paths, resources and announcements that several stages share.
import atexit
import functools
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError as SnakemakeError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

# modules, not names: a Snakefile shares its namespace with Snakemake itself
from aifs_ensemble.common import config as aifs_config
from aifs_ensemble.common import errors as aifs_errors
from aifs_ensemble.common import models as aifs_models
from aifs_ensemble.common import names as aifs_names
from aifs_ensemble.common import storage as aifs_storage
from aifs_ensemble.planning import machines as aifs_machines
from aifs_ensemble.workflow import bucket as aifs_bucket
from aifs_ensemble.workflow import outdated as aifs_outdated
from aifs_ensemble.workflow import preflight as aifs_preflight
from aifs_ensemble.workflow import routing as aifs_routing
from aifs_ensemble.workflow import start as aifs_start
from aifs_ensemble.workflow.googlebatch import jobs as aifs_batch_jobs


def dry_run():
    """Whether this is a dry-run, which Snakemake itself knows only after parsing."""
    return any(
        a in ("--dry-run", "--dryrun") or re.fullmatch("-[a-zA-Z]*n[a-zA-Z]*", a)
        for a in sys.argv[1:]
    )


try:
    CONFIG = aifs_config.Config(config)
    prices = CONFIG["cloud"]["prices"]
    # the table of prices is the coordinator's: jobs elsewhere do not have the file
    MACHINES = aifs_machines.load_machines(
        prices=Path(prices) if prices and workflow.is_main_process else None
    )
    # with a profile of rented machines every relative path below is an object under the destination
    RENTED = aifs_bucket.use_bucket(workflow, CONFIG, planning=dry_run())
    # without a bucket or credentials, a dry-run plans as if nothing were there
    BLIND = RENTED and not aifs_bucket.looks_into_bucket(workflow)
    if workflow.is_main_process and not RENTED:
        # Snakemake looks for files there before anything starts, and a file in its way ends with a stack
        aifs_preflight.check_destination(CONFIG, write=False)
        aifs_preflight.check_scratch_folder(CONFIG, write=False)
except aifs_errors.WorkflowError as error:
    raise SnakemakeError(str(error)) from None

CYCLE = CONFIG.cycle
SCRATCH = str(CONFIG.scratch.base)
STREAMING = CONFIG["delivery"]["streaming"]
MEMBERS = [f"{member:03d}" for member in CONFIG.members]
LEAD_FILES = [
    f"aifs_ens_forecast_{CYCLE}_member{{member}}_{aifs_names.lead_name(lead)}.grib2"
    for lead in CONFIG.leads
]


# a member outside the configuration cannot be made by naming its file: it would be none of the ensemble
wildcard_constraints:
    member="|".join(MEMBERS),


def between_machines(path):
    """A file that one job leaves for another: on scratch, or at the destination where machines share no files."""
    return path if RENTED else f"{CONFIG.scratch.root}/{path}"


def delivered(path):
    """A file of the cycle at the destination; of a bucket that this machine syncs to, the copy on scratch."""
    if RENTED:
        return f"{CYCLE}/{path}"
    if CONFIG.cloud_destination or not CONFIG["destination"]:
        return f"{SCRATCH}/delivered/{path}"
    return f"{CONFIG['destination']}/{CYCLE}/{path}"


def receipt_file(member):
    """What says how a member is delivered: at the destination, or the copy on scratch of a bucket's."""
    if CONFIG.cloud_destination and not RENTED:
        return f"{SCRATCH}/receipts/member{member}.json"
    return delivered(f"receipts/member{member}.json")


def checkpoint_file():
    """The checkpoint: the user's own, or where it is built or fetched."""
    named = CONFIG["checkpoint"]
    if named and BLIND:
        return []
    if named and str(named).startswith("gs://"):
        return storage.gcs(named)
    if named:
        return named
    return between_machines(f"checkpoints/{CONFIG.model.name}.ckpt")


def forecast_outputs():
    """What a member's forecast declares, its manifest first."""
    if STREAMING:
        return [delivered("manifests/member{member}.json")]
    leads = (
        [f"{SCRATCH}/forecasts/{name}" for name in LEAD_FILES]
        if CONFIG["declare_leads"]
        else []
    )
    return [f"{SCRATCH}/manifests/member{{member}}.json", *leads]


def sync_outputs():
    """What the delivery of a member declares."""
    declare = CONFIG["declare_leads"] and not CONFIG.cloud_destination
    leads = LEAD_FILES if declare and CONFIG["delivery"]["layout"] != "blocks" else []
    return [
        delivered(f"manifests/member{{member}}.json"),
        *[delivered(f"forecasts/{name}") for name in leads],
    ]


def member_files():
    """What says that a member is delivered; where leads are declared, a missing one is missed."""
    return sync_outputs() if not STREAMING else forecast_outputs()


def log_file(rule, member=False):
    return f"logs/{rule}/{CYCLE}/" + ("member{member}.log" if member else f"{rule}.log")


def benchmark_file(rule, member=False):
    return f"logs/benchmarks/{rule}/{CYCLE}/" + (
        "member{member}.tsv" if member else f"{rule}.tsv"
    )


@functools.cache
def outdated_manifests():
    """Records that hold something else than is asked for; read once, by the coordinator alone."""
    if not workflow.is_main_process or BLIND:
        return set()
    at_destination = {
        member_files()[0].format(member=member): receipt_file(member)
        for member in MEMBERS
    }
    manifests = {
        delivered("manifest.json"),
        *expand(forecast_outputs()[0], member=MEMBERS),
        *at_destination,
        between_machines(f"{CYCLE}/initial/cycle.json"),
        *expand(
            between_machines(f"{CYCLE}/initial/member{{member}}.json"), member=MEMBERS
        ),
    }
    try:
        place = aifs_storage.open_destination(CONFIG) if RENTED else None
        return set(
            aifs_outdated.outdated(CONFIG, manifests, place, receipts=at_destination)
        )
    except aifs_errors.WorkflowError as error:
        raise SnakemakeError(str(error)) from None


def made_again(manifest):
    """No input, but the job runs if its manifest is outdated, as if --forcerun had named it."""

    def force(wildcards):
        path = manifest.format(**wildcards)
        if path in outdated_manifests():
            spelled = workflow.modifier.path_modifier.apply_default_storage(path)
            workflow.dag.forcefiles.add(spelled)
        return []

    return force


def refuse_other_settings():
    """Refuse members that were delivered with other settings in one line, before input functions meet them."""
    if not {"--unlock", "--lint"} & set(sys.argv):
        outdated_manifests()


def announce_plan():
    """On a dry-run, what the run would take and cost, in a few lines after everything else."""
    if dry_run() and workflow.is_main_process:
        from aifs_ensemble.planning import outstanding as planning_outstanding
        from aifs_ensemble.planning import plan as planning
        from aifs_ensemble.planning import plan_text as planning_text
        from aifs_ensemble.planning import throughput as planning_throughput

        provider = aifs_routing.provider(workflow)
        profile = {"coiled": "coiled-gpu"}.get(provider, provider)
        given = {
            "profile": profile,
            "work": planning_outstanding.outstanding(CONFIG),
            "runs": planning_throughput.past_manifests(CONFIG.scratch.root),
        }
        planning.plan(planning.plan_case(CONFIG, MACHINES, **given))  # what is wrong is said now

        def say():
            # Snakemake knows the groups of profile and command line only once the rules are read
            group = workflow.group_settings.group_components.get("members", 1)
            plan = planning.plan(planning.plan_case(CONFIG, MACHINES, group=group, **given))
            print("\n".join(planning_text.summary_lines(plan)), file=sys.stderr)

        atexit.register(say)


def announce_start():
    """Refuse a run that has nowhere to deliver to, or no room, before anything is computed."""
    if not workflow.is_main_process:
        return
    try:
        if RENTED:
            aifs_start.prepare_start(workflow, CONFIG)
        else:
            needed = {job.rule.name for job in workflow.dag.needrun_jobs()}
            aifs_preflight.check_start(CONFIG, needed, workflow.cores or 1)
    except aifs_errors.WorkflowError as error:
        raise SnakemakeError(str(error)) from None


def announce_end(finished):
    """Say where the files are, what each member took, and whether the ensemble is short."""
    if workflow.is_main_process:
        from aifs_ensemble.workflow import closing as summary

        if finished:
            aifs_batch_jobs.keep_jobs_at_exit()

        for line in summary.closing_lines(CONFIG, finished=finished):
            print(line, file=sys.stderr)
