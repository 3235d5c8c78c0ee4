# Maps, meteograms and the page to look at them. One job draws all pictures of a cycle: a start of Python takes as long
# as fifty of them. Each picture is an output of its own, so that one can be made by its name.
if CONFIG.products.pictures.enabled:

    rule product_pictures:
        input:
            manifests=RUN.of_each_member([PATH.manifest()]),
            weekly=RUN.each.weekly_members(),
            quintiles=RUN.of_cycle(lambda one: one.quintiles()),
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
        script:
            "../scripts/product_pictures.py"


if CONFIG.products.page.enabled:

    # it names what there is, and reads none of it: of a bucket, Snakemake only looks whether the products are there
    rule product_page:
        input:
            RUN.of_cycle(lambda one: one.in_place(one.products(page=False))),
            RUN.of_each_member([PATH.manifest()]),
        output:
            PATH.delivered(KEYS.page),
        log:
            PATH.log("product_page"),
        group:
            "products"
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=2000,
            runtime=30,
        script:
            "../scripts/product_page.py"
