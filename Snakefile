# AIFS ENS ensembles: initial conditions -> forecast -> one GRIB per member and lead -> verified sync.
# Everything a user sets is in config/; what the rules do is in scripts/aifs_ensemble/.
from snakemake.utils import min_version

min_version("9.27")


# the first page of make report
report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/checkpoint.smk"
include: "rules/initial.smk"
include: "rules/forecast.smk"
include: "rules/sync.smk"
include: "rules/products.smk"
include: "rules/pictures.smk"
include: "rules/compare.smk"
include: "rules/reports.smk"
include: "rules/benchmark.smk"


# seconds of work: no machine is rented for them
localrules:
    all,
    forecasts,
    products,
    plan,
    report,
    report_pages,
    ensemble_manifest,


rule all:
    default_target: True
    input:
        RUN.of_each_cycle(lambda one: [one.path.delivered(one.keys.ensemble_manifest)]),
        RUN.of_each_cycle(lambda one: one.of_each_member(one.path.member_files())),
        RUN.of_each_cycle(lambda one: one.declared(one.products())),
        RUN.compared(),


rule forecasts:
    input:
        RUN.of_each_cycle(lambda one: one.of_each_member(one.path.forecast_outputs())),


with aifs_internals.errors_in_one_line():
    RUN.rules_are_read()


onstart:
    with aifs_internals.errors_in_one_line():
        RUN.start()


onsuccess:
    RUN.end(finished=True)


onerror:
    RUN.end(finished=False)
