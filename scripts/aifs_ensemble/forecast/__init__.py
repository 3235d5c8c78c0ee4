"""The forecast of one member: from an initial state to one GRIB file per lead, in its work folder."""
