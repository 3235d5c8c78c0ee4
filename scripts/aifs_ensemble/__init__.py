"""AIFS ENS ensembles: initial conditions, forecast, GRIB, verified sync, plans and accounts.

Only the room `workflow` knows Snakemake. Importing the package imports no torch.
"""

__version__ = "0.2.0"
