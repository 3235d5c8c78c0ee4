# The model's checkpoint: built (demo), fetched once, or the user's own.
if not CONFIG["checkpoint"]:

    rule checkpoint_prepare:
        output:
            checkpoint_file(),
        log:
            log_file("checkpoint_prepare"),
        benchmark:
            benchmark_file("checkpoint_prepare")
        localrule: aifs_models.fetched_by_coordinator(CONFIG.model, aifs_routing.provider(workflow))
        conda:
            "../envs/gpu.yaml"
        resources:
            # building takes torch, which only the GPU machines have
            machine="gpu" if CONFIG.model.built else "cpu",
            mem_mb=4000,
            runtime=60,
        script:
            "../scripts/checkpoint_prepare.py"
