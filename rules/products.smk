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
            expand(PATH.delivered(KEYS.weekly("{member}")), member=MEMBERS),
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
        script:
            "../scripts/product_weekly.py"

    if CONFIG.products.weekly.climatology:

        rule product_quintiles:
            input:
                expand(PATH.delivered(KEYS.weekly("{member}")), member=MEMBERS),
            output:
                PATH.delivered(KEYS.quintiles),
                [PATH.delivered(key) for key in RUN.submissions()],
            log:
                PATH.log("product_quintiles"),
            group:
                "products"
            conda:
                "../envs/etl.yaml"
            resources:
                machine="cpu",
                mem_mb=2000,
                runtime=30,
            script:
                "../scripts/product_quintiles.py"


rule products:
    input:
        RUN.unless_elsewhere(RUN.products()),
