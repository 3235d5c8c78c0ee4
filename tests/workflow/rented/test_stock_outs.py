"""Regions: where to try, in which order."""

import pytest
from aifs_ensemble.common.errors import CloudError
from aifs_ensemble.planning.regions import usable_regions


def test_order():
    regions = ["us-central1", "europe-west4", "us-east4"]
    assert usable_regions(regions, None, False) == tuple(regions)
    assert usable_regions(regions, "EUROPE-WEST4", False) == ("europe-west4",)
    assert usable_regions(regions, "EUROPE-WEST4", True) == ("europe-west4", "us-central1", "us-east4")
    assert usable_regions(regions, "US", False) == ("us-central1", "us-east4")
    with pytest.raises(CloudError, match="expected one where the bucket is \\(ASIA\\)"):
        usable_regions(regions, "ASIA", False)
