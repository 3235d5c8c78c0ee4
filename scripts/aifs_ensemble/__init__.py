"""AIFS ENS ensembles: initial conditions, forecast, GRIB, verified sync, plans and accounts.

Nothing here knows of Snakemake. Importing the package imports no torch.
"""

__version__ = "0.1.0"
