# Two models of a cycle side by side, once the members of both are delivered; a member of either that was made again
# makes it again. Its job is of no model, and shares no machine with those of one.
if RUN.pairs.wanted:

    rule compare:
        input:
            RUN.pairs.inputs,
            again=RUN.pairs.again,
        output:
            RUN.pairs.outputs(),
        log:
            RUN.pairs.log(),
        benchmark:
            RUN.pairs.benchmark()
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=4000,
            runtime=120,
        params:
            members=RUN.pairs.members,
        script:
            "../scripts/compare.py"
