"""Loading checkpoints: what is refused, in which words, and that nothing refused was run."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from aifs_ensemble.common import file_identity
from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.model.attention import ensure_flash_attention
from aifs_ensemble.model.checkpoint import digest
from aifs_ensemble.model.checkpoint.describe import describe_checkpoint
from aifs_ensemble.model.checkpoint.digest import checkpoint_digest, compute_digest, read_record, record_path
from aifs_ensemble.model.checkpoint.load import check_digest, load_model
from aifs_ensemble.model.checkpoint.unpickle import find
from anemoi.utils.checkpoints import load_metadata, save_metadata


def altered(original: Path, to: Path, **entries: bytes | None) -> Path:
    """Copy a checkpoint with entries of its archive, by the last part of their name, replaced or left out."""
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(to, "w") as target:
        for name in source.namelist():
            content = entries.get(Path(name).stem, b"kept") if Path(name).suffix in (".pkl", ".json") else b"kept"
            if content is not None:
                target.writestr(name, source.read(name) if content == b"kept" else content)
    return to


def call(module: str, name: str, *arguments: Any) -> bytes:
    """Return a pickle that has a function called with arguments."""
    body = b"".join(b"X" + struct.pack("<I", len(a.encode())) + a.encode() for a in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + body + b"tR."


def with_metadata(original: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a checkpoint with its metadata changed."""
    metadata, arrays = load_metadata(str(original), supporting_arrays=True)
    change(metadata)
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(to, "w") as target:
        for name in source.namelist():
            if "anemoi-metadata" not in name:
                target.writestr(name, source.read(name))
    save_metadata(str(to), metadata, supporting_arrays=arrays)
    return to


def test_loads_ready_to_predict_and_mapped(demo: Model, demo_path: Path) -> None:
    interface = load_model(demo_path, demo, device="cpu")
    assert not interface.training
    assert not any(parameter.requires_grad for parameter in interface.parameters())
    assert str(demo_path) in Path("/proc/self/maps").read_text()


def plain(path: Path, demo_path: Path) -> Path:
    torch.save({"weights": torch.zeros(3)}, path)
    return path


BAD_FILES: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "absent": (lambda to, demo: to, "no such file, expected a checkpoint"),
    "folder": (lambda to, demo: to.parent, "a folder, expected a checkpoint"),
    "empty": (lambda to, demo: (to.write_bytes(b"") and to) or to, "starts with b''"),
    "pointer": (
        lambda to, demo: (to.write_text("version https://git-lfs.github.com/spec/v1") and to) or to,
        "starts with b'vers', expected the zip archive that torch.save writes",
    ),
    "truncated": (
        lambda to, demo: (to.write_bytes(demo.read_bytes()[:-5000]) and to) or to,
        "truncated or damaged",
    ),
    "no metadata": (plain, "no anemoi metadata in it"),
    "broken metadata": (lambda to, demo: altered(demo, to, anemoi=b"{"), "metadata cannot be read"),
    "metadata of something else": (lambda to, demo: altered(demo, to, anemoi=b"[1]"), "metadata cannot be read"),
    "metadata without a part": (
        lambda to, demo: with_metadata(demo, to, lambda m: m.pop("data_indices")),
        "metadata lacks what inference needs",
    ),
    "other time step": (
        lambda to, demo: with_metadata(demo, to, lambda m: m["config"]["data"].update(timestep="12h")),
        "time step 12 h, expected 6 h (demo)",
    ),
    "other input times": (
        lambda to, demo: with_metadata(demo, to, lambda m: m["config"]["training"].update(multistep_input=3)),
        "reads 3 times, expected 2 (demo)",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(demo: Model, demo_path: Path, tmp_path: Path, case: str) -> None:
    make, expected = BAD_FILES[case]
    path = make(tmp_path / "c.ckpt", demo_path)
    with pytest.raises(CheckpointError) as caught:
        load_model(path, demo, device="cpu", trust=True)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"grid": "N48"}, "6114 grid points, expected the 13280 of N48 (other)"),
        ({"timestep_hours": 12}, "time step 6 h, expected 12 h"),
        ({"surface": ("2t",)}, "prognostic has 10u, 10v, 2d, msl, skt, sp, tcw"),
        ({"constant": ("lsm",)}, "constant has sdor, slor, z"),
        ({"pressure": {"q": (500,)}}, "prognostic has q_100, q_1000"),
        ({"diagnostic": ("tp", "waves")}, "diagnostic lacks waves"),
    ],
)
def test_what_differs_from_the_entry(demo: Model, demo_path: Path, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model(demo_path, replace(demo, name="other", **change), device="cpu", trust=True)
    assert expected in str(caught.value)


def test_same_number_of_points_elsewhere(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    metadata, arrays = load_metadata(str(demo_path), supporting_arrays=True)
    path = with_metadata(demo_path, tmp_path / "c.ckpt", lambda m: None)
    path = altered(path, tmp_path / "bare.ckpt", anemoi=None)
    # the arrays are left behind in the copy, and written again under another order of points
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "d.ckpt", "w") as target:
        for name in source.namelist():
            if "anemoi-metadata" not in name:
                target.writestr(name, source.read(name))
    arrays = {**arrays, "latitudes": arrays["latitudes"][::-1].copy()}
    save_metadata(str(tmp_path / "d.ckpt"), metadata, supporting_arrays=arrays)
    with pytest.raises(CheckpointError, match="latitudes are not those of N32, the grid of demo"):
        load_model(tmp_path / "d.ckpt", demo, device="cpu", trust=True)


def released(demo: Model, sha256: str | None, **more: Any) -> Model:
    return replace(demo, name="released", checkpoint={"repository": "a/b", "file": "c", "sha256": sha256, **more})


def test_only_the_listed_digest_is_loaded_unless_trusted(demo: Model, demo_path: Path) -> None:
    digest = checkpoint_digest(demo_path)
    load_model(demo_path, released(demo, digest), device="cpu")
    with pytest.raises(CheckpointError, match=f"sha256 {digest}, expected {'0' * 64} .released in models.yaml"):
        load_model(demo_path, released(demo, "0" * 64), device="cpu")
    with pytest.raises(CheckpointError, match=r"lists no sha256 for released; .* checkpoint register released"):
        load_model(demo_path, released(demo, None), device="cpu")
    load_model(demo_path, released(demo, None), device="cpu", trust=True)


def test_a_built_checkpoint_is_known_by_building_it_again(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "moved.ckpt"
    shutil.copyfile(demo_path, path)
    check_digest(path, demo)
    assert record_path(path).exists()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"which checkpoint\.build of demo makes here; build it anew"):
        check_digest(path, demo)


def test_a_checkpoint_of_an_older_recipe_is_not_taken_for_the_new_one(demo: Model, demo_path: Path) -> None:
    newer = replace(demo, checkpoint={"build": {**demo.checkpoint["build"], "seed": 1}})
    with pytest.raises(CheckpointError, match="build it anew"):
        check_digest(demo_path, newer)


def write_archive(path: Path, content: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", content)


def test_digest_is_computed_once_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "c.ckpt"
    write_archive(path, "one")
    first = checkpoint_digest(path)
    assert first == compute_digest(path)
    # a record that says otherwise shows that it is read, and not the file
    record_path(path).write_text(record_path(path).read_text().replace(first, "f" * 64))
    assert checkpoint_digest(path) == "f" * 64
    write_archive(path, "two")
    os.utime(path, ns=(1, 1))
    assert checkpoint_digest(path) == compute_digest(path)
    record_path(path).write_text("not JSON")
    assert read_record(path) is None
    assert checkpoint_digest(path) == compute_digest(path)


def flip(path: Path, at: float = 0.5) -> None:
    """Flip one bit and leave size and time of change as they were: a disk does that."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(int(status.st_size * at))
        byte = file.read(1)[0] ^ 1
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_flipped_bit_is_found_though_the_record_says_otherwise(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "demo.ckpt"
    for name in (path, record_path(path)):
        shutil.copy2(demo_path.with_name(name.name), name)
    sound = checkpoint_digest(path)
    assert read_record(path) is not None
    flip(path)
    assert read_record(path) is None
    with pytest.raises(CheckpointError, match=f"expected {sound}"):
        check_digest(path, demo)
    with pytest.raises(CheckpointError, match=f"expected {sound}"):
        check_digest(path, released(demo, sound))
    assert checkpoint_digest(path) == compute_digest(path) != sound


def test_a_start_of_the_machine_has_everything_read_again(
    demo: Model, demo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "demo.ckpt"
    for name in (path, record_path(path)):
        shutil.copy2(demo_path.with_name(name.name), name)
    read = []
    monkeypatch.setattr(digest, "compute_digest", lambda path: read.append(path) or compute_digest(path))
    for boot, times in (("one", 1), ("one", 1), ("two", 2), ("one", 2)):  # two machines that share the file
        monkeypatch.setattr(file_identity, "boot_id", lambda boot=boot: boot)
        checkpoint_digest(path)
        assert len(read) == times


def test_no_digest_is_kept_beside_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# one")
    assert checkpoint_digest(path) == compute_digest(path)
    assert list(tmp_path.iterdir()) == [path]


def test_digest_where_nothing_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "c.ckpt"
    write_archive(path, "one")
    record_path(path).mkdir()  # stands in the way of the record, for a root user too
    assert checkpoint_digest(path) == compute_digest(path)


REFUSED = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("functools", "partialmethod"),
    ("hydra._internal.target_policy", "_DeferredTarget"),
    ("anemoi.models.triton.gt", "GraphTransformerFunction"),
    ("operator", "attrgetter"),
    ("importlib", "import_module"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.serialization", "load"),
    ("torch.nn.modules.module", "torch.serialization.load"),
    ("torch_geometric.data", "download_url"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("typing", "get_type_hints"),
    ("typing", "ForwardRef"),
    ("typing", "sys"),
    ("hydra.utils", "instantiate"),
    ("anemoi.models.interface", "instantiate"),
    ("anemoi.models.interface", "uuid.os.system"),
    ("anemoi.models.layers.utils", "load_layer_kernels"),
    ("omegaconf", "OmegaConf"),
    ("aifs_ensemble.common.files", "write_bytes"),
]


@pytest.mark.parametrize(("module", "name"), REFUSED, ids=str)
def test_names_that_are_refused(module: str, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"refused: it names {module}.{name}, which no model consists of"):
        find(module, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "float16"),
        ("typing", "Any"),
        ("typing", "Union"),
        ("typing", "OrderedDict"),
        ("anemoi.models.layers.mlp", "MLP"),
        ("flash_attn.flash_attn_interface", "flash_attn_func"),
    ],
)
def test_names_that_models_consist_of(module: str, name: str) -> None:
    ensure_flash_attention()
    assert find(module, name) is getattr(sys.modules[module], name)


def test_nothing_refused_is_run(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = altered(demo_path, tmp_path / "c.ckpt", data=call("os", "system", f"touch {trace}"))
    with pytest.raises(CheckpointError, match=r"c\.ckpt: refused: it names os\.system"):
        load_model(path, demo, device="cpu", trust=True)
    assert not trace.exists()
    # the pickle does what it says where nothing refuses it
    pickle.load(io.BytesIO(call("os", "system", f"touch {trace}")))
    assert trace.exists()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (call("__builtin__", "getattr", "text", "format"), "refused: attribute 'format' of str"),
        (call("__builtin__", "type", "New", "bases", "dict"), "refused: type() of anything but None"),
        (call("_operator", "getitem", "text", "key"), "refused: item of str"),
    ],
)
def test_stand_ins_do_only_what_models_need(
    demo: Model, demo_path: Path, tmp_path: Path, payload: bytes, expected: str
) -> None:
    path = altered(demo_path, tmp_path / "c.ckpt", data=payload)
    with pytest.raises(CheckpointError) as caught:
        load_model(path, demo, device="cpu", trust=True)
    assert expected in str(caught.value)


def test_a_model_may_list_further_names(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    path = altered(demo_path, tmp_path / "c.ckpt", data=call("fractions", "Fraction", "1/2"))
    with pytest.raises(CheckpointError, match=r"refused: it names fractions\.Fraction.*under checkpoint\.globals"):
        load_model(path, released(demo, None), device="cpu", trust=True)
    listed = released(demo, None, globals=["fractions.Fraction"])
    with pytest.raises(CheckpointError, match="holds a Fraction, expected an AnemoiModelInterface"):
        load_model(path, listed, device="cpu", trust=True)


def test_what_this_environment_lacks_is_said_with_the_difference(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    newer = with_metadata(
        demo_path,
        tmp_path / "a.ckpt",
        lambda m: m["provenance_training"]["module_versions"].update({"anemoi.models": "9.9.9"}),
    )
    path = altered(newer, tmp_path / "c.ckpt", data=call("anemoi.models.layers.future", "Layer"))
    with pytest.raises(CheckpointError) as caught:
        load_model(path, demo, device="cpu", trust=True)
    assert "No module named 'anemoi.models.layers.future'" in str(caught.value)
    assert "pickled with anemoi.models 9.9.9 (here 0.6.0)" in str(caught.value)


def test_describing_and_checking_import_no_torch(demo_path: Path, root: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from aifs_ensemble.common.models import get_model;"
        "from aifs_ensemble.model.checkpoint.describe import check_description, describe_checkpoint;"
        "from aifs_ensemble.model.checkpoint.digest import checkpoint_digest;"
        "d = describe_checkpoint(Path(sys.argv[1])); check_description(d, get_model('demo'));"
        "checkpoint_digest(d.path); assert 'torch' not in sys.modules; print(d.points)"
    )
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(demo_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "6114"


def test_description_names_versions(demo_path: Path) -> None:
    description = describe_checkpoint(demo_path)
    assert description.versions["anemoi.models"] == get_model("demo").anemoi_models
    assert len(description.variables["prognostic"]) == 88
    assert description.timestep_hours == 6
