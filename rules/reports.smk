# The plan before, the tables and figures after. The report reads the run's records on this machine; for a
# run on rented machines `aifs-ensemble account --fetch --output FOLDER` brings them here.
rule plan:
    log:
        log_file("plan"),
    conda:
        "../envs/etl.yaml"
    script:
        "../scripts/plan.py"


if not RENTED and CONFIG["destination"]:

    rule report_members:
        input:
            delivered("manifest.json"),
        output:
            members=report(
                f"{SCRATCH}/report/members.html",
                caption="../report/members.rst",
                category="Ensemble",
                labels={"what": "members"},
            ),
            spread=report(
                f"{SCRATCH}/report/initial_spread.html",
                caption="../report/initial_spread.rst",
                category="Initial conditions",
                labels={"what": "spread of the members"},
            ),
        log:
            log_file("report_members"),
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=4000,
        script:
            "../scripts/report_members.py"

    rule report_fields:
        input:
            delivered("manifest.json"),
        output:
            report(
                directory(f"{SCRATCH}/report/fields"),
                patterns=["{figure}-{theme}.png"],
                caption="../report/fields.rst",
                category="Fields",
            ),
        log:
            log_file("report_fields"),
        benchmark:
            benchmark_file("report_fields")
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=4000,
        script:
            "../scripts/report_fields.py"

    rule report_account:
        input:
            delivered("manifest.json"),
        output:
            report(
                directory(f"{SCRATCH}/report/account"),
                patterns=["{figure}-{theme}.png"],
                caption="../report/account.rst",
                category="Account",
            ),
        log:
            log_file("report_account"),
        benchmark:
            benchmark_file("report_account")
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
