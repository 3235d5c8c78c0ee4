# The forecast: one job per member, which declares its manifest and every lead. Where it streams, it delivers the leads
# itself: Snakemake only looks whether they are there, and a member that is delivered needs nothing.
rule forecast_member:
    input:
        state=RUN.to_forecast(PATH.between_machines(KEYS.initial("{member}"))),
        checkpoint=RUN.to_forecast(RUN.checkpoint()),
        again=RUN.again(PATH.forecast_outputs()[0]),
    output:
        RUN.each.declared(PATH.forecast_outputs()),
    log:
        PATH.log("forecast_member", "{member}"),
    benchmark:
        PATH.benchmark("forecast_member", "{member}")
    group:
        "members"
    conda:
        RUN.gpu_software
    threads: CONFIG.forecast.encoders
    resources:
        machine="gpu",
        mem_mb=RUN.by_model(
            lambda one: 12000 if one.config.model.grid == "N320" else 2000
        ),
        gpu_mem_mb=RUN.by_model(lambda one: one.config.forecast.gpu_mem_mb),
        runtime=120,
    script:
        "../scripts/forecast_member.py"
