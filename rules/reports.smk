# The plan before, the tables and figures after.
rule plan:
    log:
        log_file("plan"),
    conda:
        "../envs/etl.yaml"
    script:
        "../scripts/plan.py"
