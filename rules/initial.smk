# Initial conditions: what a cycle's members share, once, then one job per member.
rule initial_cycle:
    input:
        again=RUN.again(PATH.between_machines(KEYS.initial_cycle)),
    output:
        PATH.between_machines(KEYS.initial_cycle),
    log:
        PATH.log("initial_cycle"),
    benchmark:
        PATH.benchmark("initial_cycle")
    conda:
        "../envs/etl.yaml"
    resources:
        machine="cpu",
        mem_mb=6000,
        runtime=60,
    script:
        "../scripts/initial_cycle.py"


rule initial_member:
    input:
        cycle=rules.initial_cycle.output,
        again=RUN.again(PATH.between_machines(KEYS.initial_summary("{member}"))),
    output:
        state=PATH.between_machines(KEYS.initial("{member}")),
        summary=PATH.between_machines(KEYS.initial_summary("{member}")),
    log:
        PATH.log("initial_member", "{member}"),
    benchmark:
        PATH.benchmark("initial_member", "{member}")
    conda:
        "../envs/etl.yaml"
    resources:
        machine="cpu",
        mem_mb=6000,
        runtime=60,
    script:
        "../scripts/initial_member.py"


rule initial_members:
    input:
        RUN.of_cycle(lambda one: one.compared()),
    output:
        PATH.between_machines(KEYS.initial_members),
    log:
        PATH.log("initial_members"),
    # first of all that can run: forecasts from members that are the same are not worth their price
    priority: 100
    conda:
        "../envs/etl.yaml"
    resources:
        machine="cpu",
        mem_mb=1000,
        runtime=10,
    script:
        "../scripts/initial_members.py"
