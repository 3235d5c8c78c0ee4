# The engine benchmark on a machine of the class that cloud.gpu names (`aifs-ensemble benchmark --machines ...`).
rule benchmark_engine:
    output:
        RUN.first.path.between_machines(f"benchmarks/{CONFIG.cloud.gpu}.json"),
    log:
        f"logs/benchmark_engine/{CONFIG.cloud.gpu}.log",
    conda:
        RUN.gpu_software
    resources:
        machine="gpu",
        mem_mb=24000 if RUN.rented else 4000,
        runtime=120,
    script:
        "../scripts/benchmark_engine.py"
