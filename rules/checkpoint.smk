# The model's checkpoint: built (demo), fetched once, or the user's own.
def checkpoint_file():
    named = CONFIG["checkpoint"]
    if named and str(named).startswith("gs://"):
        return storage.gcs(named)
    if named:
        return local(named) if RENTED else named
    return between_machines(f"checkpoints/{CONFIG.model.name}.ckpt")


if not CONFIG["checkpoint"]:

    rule checkpoint_prepare:
        output:
            checkpoint_file(),
        log:
            log_file("checkpoint_prepare"),
        benchmark:
            benchmark_file("checkpoint_prepare")
        conda:
            "../envs/gpu.yaml"
        resources:
            machine="cpu",
            mem_mb=4000,
            runtime=60,
        script:
            "../scripts/checkpoint_prepare.py"
