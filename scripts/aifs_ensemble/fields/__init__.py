"""Fields on grids, and their GRIB: states, interpolation, encoding, indexes, checks."""
