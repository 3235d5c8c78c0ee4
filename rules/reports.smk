# The plan before, the tables and figures after. The report reads the run's records on this machine; for a
# run on rented machines `aifs-ensemble account --fetch --output FOLDER` brings them here.
rule plan:
    log:
        PATH.log("plan"),
    conda:
        "../envs/etl.yaml"
    script:
        "../scripts/plan.py"


if not RUN.rented and CONFIG.destination:

    rule report_members:
        input:
            PATH.delivered(KEYS.ensemble_manifest),
        output:
            members=report(
                f"{CONFIG.scratch.base}/report/members.html",
                caption="../report/members.rst",
                category="Ensemble",
                labels={"what": "members"},
            ),
            spread=report(
                f"{CONFIG.scratch.base}/report/initial_spread.html",
                caption="../report/initial_spread.rst",
                category="Initial conditions",
                labels={"what": "spread of the members"},
            ),
        log:
            PATH.log("report_members"),
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=4000,
        script:
            "../scripts/report_members.py"

    rule report_fields:
        input:
            PATH.delivered(KEYS.ensemble_manifest),
        output:
            report(
                directory(f"{CONFIG.scratch.base}/report/fields"),
                patterns=["{figure}-light.png"],
                caption="../report/fields.rst",
                category="Fields",
                labels={"what": "{figure}"},
            ),
        log:
            PATH.log("report_fields"),
        benchmark:
            PATH.benchmark("report_fields")
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=4000,
        script:
            "../scripts/report_fields.py"

    rule report_account:
        input:
            PATH.delivered(KEYS.ensemble_manifest),
        output:
            report(
                directory(f"{CONFIG.scratch.base}/report/account"),
                patterns=["{figure}-light.png"],
                caption="../report/account.rst",
                category="Account",
                labels={"what": "{figure}"},
            ),
        log:
            PATH.log("report_account"),
        benchmark:
            PATH.benchmark("report_account")
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=4000,
        script:
            "../scripts/report_account.py"

    rule report:
        input:
            rules.report_members.output,
            rules.report_fields.output,
            rules.report_account.output,
