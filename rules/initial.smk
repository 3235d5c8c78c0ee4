# Initial conditions: what a cycle's members share, once, then one job per member.
rule initial_cycle:
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
    output:
        between_machines(f"{CYCLE}/initial/member{{member}}.safetensors"),
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
