"""Fields on grids, and their GRIB: states, interpolation, encoding, indexes, checks."""

import logging
import os

# Definitions of another ecCodes give parameters other names, or make it end the process: the ones that it brings serve.
_FOREIGN = ("ECCODES_DEFINITION_PATH", "ECCODES_SAMPLES_PATH", "GRIB_DEFINITION_PATH", "GRIB_SAMPLES_PATH")


def set_aside_definitions() -> list[str]:
    """Take another ecCodes' paths out of the environment, for this process and its children; return their names."""
    found = [name for name in _FOREIGN if os.environ.pop(name, None) is not None]
    if found:
        logging.getLogger(__name__).warning("%s: set aside, ecCodes' own serve", ", ".join(found))
    return found


set_aside_definitions()
