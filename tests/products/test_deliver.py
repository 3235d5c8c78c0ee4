"""Products that are made on this machine reach its bucket, and a disk without room is one line."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.products.deliver import deliver_copies
from delivery.members import make_config


@pytest.mark.cloud
def test_a_product_made_anew_takes_the_place_of_the_old_one(tmp_path: Path, bucket) -> None:
    config = make_config(tmp_path / "scratch", bucket())
    key = config.objects.product("weekly/ensemble.nc")
    copy = config.scratch.copy(key)
    copy.parent.mkdir(parents=True)
    for content in (b"first", b"second"):
        copy.write_bytes(content)
        deliver_copies(config, [copy, tmp_path / "no copy of an object"])
        assert open_destination(config).get_bytes(key) == content
    assert [info.key for info in open_destination(config).list(f"{config.cycle}/")] == [key]


def test_a_folder_needs_no_delivery(tmp_path: Path) -> None:
    config = make_config(tmp_path / "scratch", str(tmp_path / "results"))
    deliver_copies(config, [config.scratch.copy(config.objects.product("x.nc"))])
    assert not (tmp_path / "results").exists()


WRITES = """
import sys, numpy as np, xarray as xr
from pathlib import Path
from aifs_ensemble.products.netcdf import write_netcdf
rng = np.random.default_rng(1)
data = xr.Dataset({"a": (("x", "y"), rng.random((500, 500)).astype(np.float32))})
try:
    write_netcdf(data, Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_no_room_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-c", WRITES, str(path)], capture_output=True, text=True, check=True, preexec_fn=limit,
        # Python would leave its caches of modules cut off at the limit, for all tests after this one
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "scripts"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.stdout.startswith(f"StorageError {path}: cannot be written (") and done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
