"""Regions: where to try, in which order, and which messages mean that another one may help."""

import pytest
from aifs_ensemble.common.errors import CloudError
from aifs_ensemble.planning.regions import usable_regions
from aifs_ensemble.workflow.coiled.stock_outs import is_stock_out, next_region

MESSAGES = {
    "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to fulfill the request.": True,
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": True,
    "Quota 'NVIDIA_A100_80GB_GPUS' exceeded.  Limit: 0.0 in region us-central1.": True,
    "insufficient instance capacity": True,
    "Permission 'compute.instances.create' denied": False,
    "Task failed with exit code 1": False,
    "instance was preempted": False,
    "": False,
}


@pytest.mark.parametrize("message", MESSAGES)
def test_stock_out_messages(message):
    assert is_stock_out(message) is MESSAGES[message]


def test_order():
    regions = ["us-central1", "europe-west4", "us-east4"]
    assert usable_regions(regions, None, False) == tuple(regions)
    assert usable_regions(regions, "EUROPE-WEST4", False) == ("europe-west4",)
    assert usable_regions(regions, "EUROPE-WEST4", True) == ("europe-west4", "us-central1", "us-east4")
    assert usable_regions(regions, "US", False) == ("us-central1", "us-east4")
    with pytest.raises(CloudError, match="expected one where the bucket is \\(ASIA\\)"):
        usable_regions(regions, "ASIA", False)
    assert next_region(regions, ["us-central1"]) == "europe-west4"
    assert next_region(regions, regions) is None
