# The model's checkpoint: built (demo), fetched once, or the user's own.
if not CONFIG.checkpoint:

    rule checkpoint_prepare:
        output:
            RUN.checkpoint(),
        log:
            RUN.first.path.log("checkpoint_prepare"),
        benchmark:
            RUN.first.path.benchmark("checkpoint_prepare")
        localrule: RUN.fetches_checkpoint()
        conda:
            f"../envs/{RUN.gpu_software}.yaml"
        resources:
            # building takes torch, which only the GPU machines have
            machine="gpu" if CONFIG.model.built else "cpu",
            mem_mb=4000,
            runtime=60,
        script:
            "../scripts/checkpoint_prepare.py"
