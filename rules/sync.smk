# Delivery where the forecast job does not stream, and the ensemble's manifest.
if not CONFIG.delivery.streaming:

    rule sync_member:
        input:
            # nothing once it is delivered, so that what scratch has lost does not count
            RUN.unless_kept(*PATH.forecast_outputs()),
            again=RUN.again(PATH.sync_outputs()[0]),
            # files get there whole or not at all, the manifest last: nothing is to be kept or removed
            updated=RUN.left_alone(),
        output:
            # what is delivered stays until it is delivered anew, and when that fails
            PATH.sync_outputs()
            if CONFIG.cloud_destination
            else update(PATH.sync_outputs()),
        log:
            PATH.log("sync_member", "{member}"),
        benchmark:
            PATH.benchmark("sync_member", "{member}")
        # before further forecasts: without keep_scratch its leads go from scratch then
        priority: 50
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=1000,
            runtime=60,
        script:
            "../scripts/sync_member.py"


rule ensemble_manifest:
    input:
        members=RUN.unless_elsewhere(RUN.of_each_member([PATH.manifest()])),
        initial=RUN.of_cycle(lambda one: one.comparison()),
        again=RUN.again(PATH.delivered(KEYS.ensemble_manifest)),
    output:
        PATH.delivered(KEYS.ensemble_manifest),
    log:
        PATH.log("ensemble_manifest"),
    conda:
        "../envs/etl.yaml"
    resources:
        machine="cpu",
        mem_mb=1000,
        runtime=30,
    script:
        "../scripts/ensemble_manifest.py"


rule verify:
    log:
        RUN.first.path.log("verify"),
    conda:
        "../envs/etl.yaml"
    resources:
        machine="cpu",
        mem_mb=1000,
        runtime=60,
    script:
        "../scripts/verify.py"
