# The model's checkpoint: built (demo), fetched once, or the user's own.
if RUN.checkpoint_made():

    rule checkpoint_prepare:
        output:
            RUN.checkpoint_made(),
        log:
            RUN.each_model.path.log("checkpoint_prepare"),
        benchmark:
            RUN.each_model.path.benchmark("checkpoint_prepare")
        localrule: RUN.fetches_checkpoint()
        conda:
            RUN.gpu_software
        resources:
            # building takes torch, which only the GPU machines have
            machine="gpu" if RUN.builds else "cpu",
            mem_mb=4000,
            runtime=60,
        script:
            "../scripts/checkpoint_prepare.py"
