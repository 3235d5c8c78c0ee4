# Delivery where the forecast job does not stream, and the ensemble's manifest.
if not STREAMING:

    def sync_outputs():
        declare = CONFIG["declare_leads"] and not CONFIG.cloud_destination
        leads = (
            LEAD_FILES if declare and CONFIG["delivery"]["layout"] != "blocks" else []
        )
        return [
            delivered(f"manifests/member{{member}}.json"),
            *[delivered(f"forecasts/{name}") for name in leads],
        ]

    rule sync_member:
        input:
            rules.forecast_member.output,
        output:
            sync_outputs(),
        log:
            log_file("sync_member", member=True),
        benchmark:
            benchmark_file("sync_member", member=True)
        conda:
            "../envs/etl.yaml"
        resources:
            machine="cpu",
            mem_mb=1000,
            runtime=60,
        script:
            "../scripts/sync_member.py"


def member_files():
    """What says that a member is delivered; where leads are declared, a missing one is missed."""
    return sync_outputs() if not STREAMING else forecast_outputs()


rule ensemble_manifest:
    input:
        members=expand(delivered("manifests/member{member}.json"), member=MEMBERS),
        initial=rules.initial_members.output,
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
    script:
        "../scripts/verify.py"
