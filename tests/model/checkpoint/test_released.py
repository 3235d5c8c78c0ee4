"""What others publish of AIFS ENS v1 and of other checkpoints, against the catalogue and the reading of checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.model.attention import ensure_flash_attention
from aifs_ensemble.model.checkpoint import architecture, build
from aifs_ensemble.model.checkpoint.check import examine, names_here
from aifs_ensemble.model.checkpoint.describe import describe_checkpoint
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.stepper import TensorPlaces

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
# earth2studio, models/px/aifsens.py at VARIABLES: "from config.json >> dataset.variables" of aifs-ens-crps-1.0.ckpt
_SURFACE = """
10u 10v 2d 2t lsm msl sdor skt slor sp tcw z cp tp cos_latitude cos_longitude sin_latitude sin_longitude cos_julian_day
cos_local_time sin_julian_day sin_local_time insolation stl1 stl2 ssrd strd sf tcc mcc hcc lcc 100u 100v ro
"""
ORDER = [*(f"{parameter}_{level}" for parameter in "qtuvwz" for level in LEVELS), *_SURFACE.split()]

# Hugging Face, "Detected Pickle imports" of ecmwf/aifs-single-0.2.1 and 1.0: those that stored copies of the pages show
PICKLED = """
anemoi.models.data_indices.collection.IndexCollection anemoi.models.data_indices.index.DataIndex
anemoi.models.data_indices.index.ModelIndex anemoi.models.data_indices.tensor.InputTensorIndex
anemoi.models.data_indices.tensor.OutputTensorIndex anemoi.models.interface.AnemoiModelInterface
anemoi.models.layers.attention.MultiHeadSelfAttention anemoi.models.layers.block.GraphTransformerMapperBlock
anemoi.models.layers.bounding.HardtanhBounding anemoi.models.layers.chunk.TransformerProcessorChunk
anemoi.models.layers.conv.GraphTransformerConv anemoi.models.layers.mapper.GraphTransformerBackwardMapper
anemoi.models.layers.mapper.GraphTransformerForwardMapper anemoi.models.layers.processor.TransformerProcessor
anemoi.models.models.encoder_processor_decoder.AnemoiModelEncProcDec anemoi.models.preprocessing.Processors
anemoi.models.preprocessing.normalizer.InputNormalizer
_codecs.encode _operator.getitem builtins.getattr builtins.int builtins.list builtins.set builtins.type
collections.OrderedDict collections.defaultdict flash_attn.flash_attn_interface.flash_attn_func
inspect.Parameter inspect._ParameterKind inspect._empty numpy.dtype numpy.ndarray
omegaconf.base.ContainerMetadata omegaconf.nodes.AnyNode pathlib.PosixPath
torch._utils._rebuild_parameter torch._utils._rebuild_tensor_v2 torch.nn.modules.container.ModuleDict
torch.nn.modules.container.ModuleList torch.nn.modules.container.Sequential torch.nn.modules.linear.Linear
torch_geometric.data.graph_store.EdgeAttr torch_geometric.data.hetero_data.HeteroData
torch_geometric.data.storage.BaseStorage torch_geometric.data.storage.NodeStorage
torch_geometric.nn.aggr.basic.SumAggregation torch_geometric.nn.conv.utils.inspector.Inspector typing.Any typing.Union
"""
# What an ensemble model with truncation and imputers of that time holds besides.
LIKELY = """
anemoi.models.layers.attention.FlashAttentionWrapper anemoi.models.layers.ensemble.NoiseConditioning
anemoi.models.layers.normalization.ConditionalLayerNorm anemoi.models.preprocessing.imputer.InputImputer
numpy.core.multiarray._reconstruct scipy.sparse._coo.coo_matrix scipy.sparse._csr.csr_matrix torch.Size
torch._utils._rebuild_sparse_tensor torch.serialization._get_layout
"""


def variables(cube: Mapping[str, Any]) -> Iterator[str]:
    """Yield the variables of a qube, as checkpoints name them."""
    for child in cube["children"]:
        if child["key"] == "param":
            levels = [level for part in child["children"] for level in part["values"]["values"]]
            for parameter in child["values"]["values"]:
                yield from [f"{parameter}_{level}" for level in levels] or [parameter]
        else:
            yield from variables(child)


def test_the_catalogue_has_what_ecmwf_read_out_of_the_file(shared_data: Path) -> None:
    artifacts = json.loads((shared_data / "released" / "fiab-artifacts-aifs.json").read_text())
    model = get_model("aifs-ens-1.0")
    for name in ("aifs-ens-crps-1.0_w_flash_attn", "aifs-ens-crps-1.0_w_sdpa"):
        artifact = artifacts[name]["specific"]
        assert set(variables(artifact["input_qube"])) == set(model.inputs) and len(model.inputs) == 92
        assert set(variables(artifact["output_qube"])) == set(model.outputs) and len(model.outputs) == 100
        assert artifact["timestep"] == f"{model.timestep_hours}h"
        assert f"anemoi-models=={model.anemoi_models}" in artifact["pip_package_constraints"]
    common = artifacts["aifs-ens-crps-1.0_w_flash_attn"]["common"]
    assert common["disk_size_bytes"] == model.checkpoint["size"]
    assert common["url"] == model.checkpoint["mirror"]


def test_the_second_version_extends_what_ecmwf_read_out_of_the_first(shared_data: Path) -> None:
    """The list has no AIFS ENS v2; 20 of its variables stand in none of the models that it has."""
    artifacts = json.loads((shared_data / "released" / "fiab-artifacts-aifs.json").read_text())
    first = set(variables(artifacts["aifs-ens-crps-1.0_w_flash_attn"]["specific"]["output_qube"]))
    single = set(variables(artifacts["aifs-single-mse-1.1_w_flash_attn"]["specific"]["output_qube"]))
    model = get_model("aifs-ens-2.0")
    assert first < set(model.outputs) and single < set(model.outputs)
    assert len(set(model.outputs) - first) == 20
    assert set(model.outputs) - first - single == {*model.waves, "sd", "snowc", *(f"{name}_10" for name in "tuvwz")}


def test_the_catalogue_has_the_variables_of_the_published_order() -> None:
    model = get_model("aifs-ens-1.0")
    assert len(ORDER) == len(set(ORDER)) == 113
    assert sorted(ORDER) == architecture.all_variables(model)


def test_variables_in_the_published_order_are_found_by_name(
    demo: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (build, architecture):
        monkeypatch.setattr(module, "all_variables", lambda model: list(ORDER))
    path = tmp_path / "ordered.ckpt"
    build.build_checkpoint(demo, path, hidden="O4", channels=8, layers=1, heads=2, window=16)
    monkeypatch.undo()
    places = TensorPlaces.of(describe_checkpoint(path).anemoi, demo)
    read = [name for name in ORDER if name not in demo.diagnostic]
    made = [name for name in ORDER if name not in (*demo.constant, *demo.computed)]
    assert [read[place] for place in places.state_index] == list(demo.inputs)
    assert [read[place] for place in places.prognostic_in] == list(demo.prognostic)
    assert [made[place] for place in places.prognostic_out] == list(demo.prognostic)
    assert [made[place] for place in places.output_index] == list(demo.outputs)
    indices = load_model(path, demo, device="cpu", trust=True).data_indices.model
    assert list(indices.input.name_to_index) == read and list(indices.output.name_to_index) == made
    report = examine(path, trust=True)
    assert report.problems == [] and report.accelerated
    assert report.facts["data"]["order"].startswith("its own, places are taken by name: q_50 q_100 q_150")


@pytest.mark.parametrize("names", [PICKLED, LIKELY], ids=["published", "likely"])
def test_names_that_released_checkpoints_hold_are_allowed_and_here(names: str) -> None:
    ensure_flash_attention()
    pairs = [(name.rpartition(".")[0], name.rpartition(".")[2]) for name in names.split()]
    assert len(pairs) == len(set(pairs)) >= 10
    assert names_here(pairs, ()) == ([], [])


# of each file: what check tells of it that only reading it right gives
TOLD = {
    "integration__era5-cerra__metadata.json": ("10,944 points (O48)", "era5, cerra", "anemoi.models 0.13.0.post15"),
    "integration__global-multi-steps-2in-2out__metadata.json": ("makes 2 times in a step, expected 1",),
    "integration__rmi-lam__metadata.json": ("6,043 points", "InputNormalizer", "anemoi.models 0.8.1.post35"),
    "integration__single-o48-1.1__metadata.json": (
        "90: 10u 10v",
        "nearest is aifs-ens-1.0",
        "prognostic has swvl1, swvl2",
    ),
    "unit__checkpoints__atmos.json": ("time step 24 h, expected 6 h", "avg_siconc"),
    "unit__checkpoints__multi-single.json": ("40,320 points (O96)", "torch_geometric 2.7.0"),
    "unit__checkpoints__mwd.json": ("cos_mwd", "swh", "prognostic has sh10"),
    "unit__checkpoints__ocean.json": ("prognostic has avg_icesalt", "levels none"),
    "integration__single-o48-1.1__config.yaml": ("a list of 19, expected a checkpoint",),
    "models-v2.yaml": ("keys models, expected a checkpoint",),
    "fiab-artifacts-aifs.json": ("keys aifs-single-mse-1.1_w_flash_attn",),
}


@pytest.mark.parametrize("name", TOLD)
def test_files_that_nobody_here_wrote_are_told(
    shared_data: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["checkpoint", "check", str(shared_data / "released" / name)]) == 4
    printed = capsys.readouterr()
    text = " ".join((printed.out + printed.err).split())
    for expected in TOLD[name]:
        assert expected in text
