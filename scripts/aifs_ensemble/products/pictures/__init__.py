"""Maps and meteograms of a delivered ensemble."""
