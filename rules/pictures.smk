# Maps, meteograms and the page to look at them. One job draws all pictures of a cycle: a start of Python takes as long
# as fifty of them. Each picture is an output of its own, so that one can be made by its name.
if CONFIG.products.pictures.enabled:

    rule product_pictures:
        input:
            manifests=RUN.of_cycle(lambda one: one.manifests()),
            weekly=RUN.of_cycle(lambda one: one.weekly_members()),
            quintiles=RUN.of_cycle(lambda one: one.quintiles()),
            again=RUN.of_other_members("product_pictures"),
        output:
            RUN.each.declared(RUN.each.pictures()),
        log:
            PATH.log("product_pictures"),
        benchmark:
            PATH.benchmark("product_pictures")
        group:
            "products"
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=3000,
            runtime=60,
        params:
            by_job=RUN.rented,
            members=RUN.of_cycle(lambda one: one.used),
        script:
            "../scripts/product_pictures.py"


if CONFIG.products.page.enabled:

    # It names what there is, and reads none of it: of a bucket, Snakemake only looks whether the products are there. So
    # it is in no group with them: what jobs of a group make comes into the bucket when all of these have ended.
    rule product_page:
        input:
            RUN.of_cycle(lambda one: one.in_place(one.products(page=False))),
            RUN.of_cycle(lambda one: one.manifests()),
            again=RUN.of_other_members("product_page"),
        output:
            PATH.delivered(KEYS.page),
        log:
            PATH.log("product_page"),
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=2000,
            runtime=30,
        params:
            members=RUN.of_cycle(lambda one: one.used),
        script:
            "../scripts/product_page.py"
