# The plan before; after a run from any destination the pages of its report, made here from what the run left.
rule plan:
    log:
        RUN.first.path.log("plan"),
    conda:
        "../envs/etl.yaml"
    script:
        "../scripts/plan.py"


rule report_pages:
    input:
        RUN.reported(local),
    output:
        report(
            directory(local(PATH.report())),
            patterns=["{category}/{page}.html"],
            caption="../report/page.rst",
            category="{category}",
            labels=RUN.report_labels(),
        ),
    log:
        local(PATH.log("report_pages")),
    # what fails here fails again
    retries: 0
    conda:
        "../envs/etl.yaml"
    resources:
        machine="cpu",
        mem_mb=4000,
    params:
        profile=RUN.profile,
        unit=RUN.of_cycle(lambda one: one.config.unit),
    script:
        "../scripts/report_pages.py"


rule report:
    input:
        RUN.of_each_cycle(lambda one: [local(one.path.report())]),
