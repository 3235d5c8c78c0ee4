"""Software that not every machine has, by extra of pyproject.toml, and what is told where it lacks."""

from __future__ import annotations

from aifs_ensemble.common.errors import WorkflowError

# extra by what is imported, and by the package where its version is asked for
_EXTRAS = {
    "PIL": "products",
    "anemoi": "run",
    "contourpy": "products",
    "icechunk": "products",
    "mir": "grids",
    "mir-python": "grids",
    "netCDF4": "products",
    "omegaconf": "run",
    "pyarrow": "products",
    "pynvml": "run",
    "scipy": "grids",
    "torch": "run",
    "torch_geometric": "run",
    "triton": "run",
    "xarray": "products",
    "zarr": "products",
}


def lacks(error: ModuleNotFoundError) -> WorkflowError | None:
    """Return the error that tells a user which extra to install; None where what is missing is of none."""
    name = (error.name or "").partition(".")[0]
    if name not in _EXTRAS:
        return None
    return WorkflowError(
        f"{name}: not installed here, expected for this command: `make install` installs everything, "
        f"pip install --editable '.[{_EXTRAS[name]}]' what is of its kind"
    )
