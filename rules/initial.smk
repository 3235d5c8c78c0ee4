# Initial conditions: what a cycle's members share, once, then one job per member.
rule initial_cycle:
    input:
        again=made_again(between_machines(f"{CYCLE}/initial/cycle.json")),
    output:
        between_machines(f"{CYCLE}/initial/cycle.json"),
    log:
        log_file("initial_cycle"),
    benchmark:
        benchmark_file("initial_cycle")
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
        again=made_again(between_machines(f"{CYCLE}/initial/member{{member}}.json")),
    output:
        state=between_machines(f"{CYCLE}/initial/member{{member}}.safetensors"),
        summary=between_machines(f"{CYCLE}/initial/member{{member}}.json"),
    log:
        log_file("initial_member", member=True),
    benchmark:
        benchmark_file("initial_member", member=True)
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
        expand(
            between_machines(f"{CYCLE}/initial/member{{member}}.json"), member=MEMBERS
        ),
    output:
        between_machines(f"{CYCLE}/initial/members.json"),
    log:
        log_file("initial_members"),
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
