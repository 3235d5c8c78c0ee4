"""AIFS ENS ensembles: initial conditions, forecast, GRIB, verified sync, plans and accounts.

Only the room `workflow` knows Snakemake. Importing the package imports no torch.
"""

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Return ``open_ensemble``, imported when it is asked for: importing the package stays quick."""
    if name == "open_ensemble":
        from importlib import import_module

        return import_module("aifs_ensemble.products.ensemble_reader").open_ensemble
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
