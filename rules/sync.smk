# Delivery where the forecast job does not stream, and the ensemble's manifest.
if not STREAMING:

    rule sync_member:
        input:
            rules.forecast_member.output,
            again=made_again(sync_outputs()[0]),
        output:
            # what is delivered stays until it is delivered anew, and when that fails
            sync_outputs() if CONFIG.cloud_destination else update(sync_outputs()),
        log:
            log_file("sync_member", member=True),
        benchmark:
            benchmark_file("sync_member", member=True)
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
        members=expand(delivered("manifests/member{member}.json"), member=MEMBERS),
        initial=rules.initial_members.output,
        again=made_again(delivered("manifest.json")),
    output:
        delivered("manifest.json"),
    log:
        log_file("ensemble_manifest"),
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
        log_file("verify"),
    conda:
        "../envs/etl.yaml"
    resources:
        machine="cpu",
        mem_mb=1000,
        runtime=60,
    script:
        "../scripts/verify.py"
