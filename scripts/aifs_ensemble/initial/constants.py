"""Constants of nature, as the IFS has them."""

GRAVITY = 9.80665  # m s-2, standard gravity: converts geopotential height (gpm) to geopotential
GAS_CONSTANT = 287.0597  # J kg-1 K-1, dry air, as in the IFS (documentation, part IV)
VAPOUR_RATIO = 0.621981  # gas constant of dry air over that of water vapour, as in the IFS
VIRTUAL = 1 / VAPOUR_RATIO - 1  # virtual temperature = t (1 + VIRTUAL q)
