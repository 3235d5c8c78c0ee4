# What is made from delivered leads: read by byte range, so a product needs a member's manifest and nothing else.
# Jobs of seconds share a machine (group `products`). A member that was made again makes its products again.
if CONFIG.products.members.enabled:

    rule product_member:
        input:
            PATH.manifest(),
        output:
            PATH.delivered(KEYS.member_netcdf("{member}", CONFIG.products.grid)),
        log:
            PATH.log("product_member", "{member}"),
        benchmark:
            PATH.benchmark("product_member", "{member}")
        group:
            "products"
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=2000,
            runtime=60,
        script:
            "../scripts/product_member.py"


if CONFIG.periods:

    rule product_weekly_member:
        input:
            PATH.manifest(),
        output:
            PATH.delivered(KEYS.weekly("{member}")),
        log:
            PATH.log("product_weekly_member", "{member}"),
        benchmark:
            PATH.benchmark("product_weekly_member", "{member}")
        group:
            "products"
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=2000,
            runtime=60,
        script:
            "../scripts/product_weekly_member.py"

    rule product_weekly:
        input:
            RUN.of_cycle(lambda one: one.weekly_members()),
            again=RUN.of_other_members("product_weekly"),
        output:
            PATH.delivered(KEYS.product("weekly/ensemble.nc")),
        log:
            PATH.log("product_weekly"),
        group:
            "products"
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=2000,
            runtime=30,
        params:
            members=RUN.of_cycle(lambda one: one.used),
        script:
            "../scripts/product_weekly.py"

    if CONFIG.products.weekly.climatology:

        rule product_quintiles:
            input:
                RUN.of_cycle(lambda one: one.weekly_members()),
                again=RUN.of_other_members("product_quintiles"),
            output:
                RUN.each_day.quintiles(),
                RUN.each_day.submissions(),
            log:
                RUN.each_day.path.log("product_quintiles"),
            group:
                "products"
            conda:
                "../envs/etl.yaml"
            resources:
                machine="cpu",
                mem_mb=2000,
                runtime=30,
            params:
                members=RUN.of_cycle(lambda one: one.used),
            script:
                "../scripts/product_quintiles.py"

    if CONFIG.products.weekly.model_climatology:

        rule product_model_quintiles:
            input:
                RUN.of_cycle(lambda one: one.weekly_members()),
                again=RUN.of_other_members("product_model_quintiles"),
            output:
                RUN.each_day.model_quintiles(),
            log:
                RUN.each_day.path.log("product_model_quintiles"),
            group:
                "products"
            conda:
                "../envs/etl.yaml"
            resources:
                machine="cpu",
                mem_mb=2000,
                runtime=30,
            params:
                members=RUN.of_cycle(lambda one: one.used),
            script:
                "../scripts/product_model_quintiles.py"


# some leads of all members a job, each with rule, log and outputs of its own: the windows that end there differ
for chunk in RUN.statistics():

    rule:
        name:
            f"product_statistics_{chunk.name}"
        input:
            RUN.of_cycle(lambda one: one.manifests()),
            again=RUN.of_other_members(f"product_statistics_{chunk.name}"),
        output:
            RUN.each.statistics(chunk),
        log:
            PATH.log(f"product_statistics_{chunk.name}"),
        benchmark:
            PATH.benchmark(f"product_statistics_{chunk.name}")
        group:
            "products"
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=3000,
            runtime=60,
        params:
            chunk=chunk.name,
            members=RUN.of_cycle(lambda one: one.used),
        script:
            "../scripts/product_statistics.py"


if CONFIG.products.cube.enabled:

    # the data sets are folders whose files have names of their own: the job puts them there, and their record is the output
    rule product_cube:
        input:
            RUN.of_cycle(lambda one: one.manifests()),
            again=RUN.of_other_members("product_cube"),
        output:
            PATH.delivered(KEYS.cube),
        log:
            PATH.log("product_cube"),
        benchmark:
            PATH.benchmark("product_cube")
        group:
            "products"
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=3000,
            runtime=60,
        params:
            members=RUN.of_cycle(lambda one: one.used),
        script:
            "../scripts/product_cube.py"


# Scores need analyses, which come after the forecast: made by name, and with the products once there may be some.
rule product_evaluation:
    input:
        RUN.of_cycle(lambda one: one.manifests()),
        RUN.of_cycle(lambda one: one.quintiles()),
        again=RUN.of_other_members("product_evaluation"),
    output:
        RUN.each.evaluation(),
    log:
        PATH.log("product_evaluation"),
    benchmark:
        PATH.benchmark("product_evaluation")
    group:
        "products"
    conda:
        "../envs/etl.yaml"
    resources:
        machine="cpu",
        mem_mb=4000,
        runtime=120,
    params:
        members=RUN.of_cycle(lambda one: one.used),
    script:
        "../scripts/product_evaluation.py"


rule evaluation:
    input:
        RUN.of_each_cycle(lambda one: one.evaluation()),


rule products:
    input:
        RUN.of_each_cycle(lambda one: one.declared(one.products())),
        RUN.compared(),
