"""An unpickler that knows only what a model consists of.

A pickle names classes and functions, and may have any of them called. Here a name is found only when it is a class of
the packages that models are made of, or one of a few functions that rebuild tensors and arrays; everything else is
refused by name. This narrows what a malicious file can do, and is no proof that it can do nothing: the digest of the
file, checked before, is what vouches for it.

`torch.load(weights_only=True)` with an allow-list goes further, but does not know the objects of numpy, omegaconf and
torch-geometric that whole-model checkpoints hold.
"""

from __future__ import annotations

import importlib
import pickle
import types
import typing
from collections.abc import Callable, Collection
from typing import Any

from aifs_ensemble.common.errors import CheckpointError

# Classes in these modules and below: the network and its configuration. Not whole packages: others of their classes
# open files, download or run what a configuration names.
_CLASSES = (
    "anemoi.models.data_indices",
    "anemoi.models.interface",
    "anemoi.models.layers",
    "anemoi.models.models",
    "anemoi.models.preprocessing",
    "anemoi.utils.config",
    "omegaconf.base",
    "omegaconf.basecontainer",
    "omegaconf.dictconfig",
    "omegaconf.listconfig",
    "omegaconf.nodes",
    "numpy.dtypes",
    "scipy.sparse",
    "torch.nn.modules",
    "torch.nn.parameter",
    "torch_geometric.data.data",
    "torch_geometric.data.feature_store",
    "torch_geometric.data.graph_store",
    "torch_geometric.data.hetero_data",
    "torch_geometric.data.storage",
    "torch_geometric.data.view",
    "torch_geometric.inspector",
    "torch_geometric.nn.aggr",
    "torch_geometric.nn.conv",
)

_NAMES = frozenset(
    {
        *(
            f"builtins.{name}"
            for name in ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int")
        ),
        *(f"builtins.{name}" for name in ("list", "object", "range", "set", "slice", "str", "tuple")),
        "_codecs.encode",
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "copyreg._reconstructor",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "datetime.timezone",
        "flash_attn.flash_attn_func",
        "flash_attn.flash_attn_interface.flash_attn_func",
        "inspect.Parameter",
        "inspect._ParameterKind",
        "inspect._empty",
        "numpy.dtype",
        "numpy.ndarray",
        *(f"numpy.{core}.multiarray.{name}" for core in ("_core", "core") for name in ("_reconstruct", "scalar")),
        *(f"numpy.{core}.numeric._frombuffer" for core in ("_core", "core")),
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch._C._nn.gelu",
        "torch._C._nn.scaled_dot_product_attention",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_sparse_csr_tensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.serialization._get_layout",
        "uuid.UUID",
    }
)


def _forward_of(module: Any, name: str) -> Any:
    """Stand for getattr: anemoi's interface keeps the bound method ``forward`` of its model, and nothing else."""
    import torch

    if name != "forward" or not isinstance(module, torch.nn.Module):
        raise CheckpointError(f"refused: attribute {name!r} of {type(module).__name__}")
    return module.forward


def _parameters_of(container: Any, parameters: Any) -> Any:
    """Stand for operator.getitem: omegaconf keeps types such as ``Union[int, str]``."""
    if not (isinstance(container, type) or getattr(container, "__module__", None) == typing.__name__):
        raise CheckpointError(f"refused: item of {type(container).__name__}")
    return container[parameters]


def _type_of(*arguments: Any) -> type:
    """Stand for type: the class of None and its like, never a new class."""
    if len(arguments) != 1 or arguments[0] not in (None, Ellipsis, NotImplemented):
        raise CheckpointError("refused: type() of anything but None")
    return type(arguments[0])


_STAND_INS: dict[str, Callable[..., Any]] = {
    "builtins.getattr": _forward_of,
    "builtins.type": _type_of,
    "_operator.getitem": _parameters_of,
    "operator.getitem": _parameters_of,
}


def _is_plain(found: Any) -> bool:
    """Whether something is a dtype of torch or a type such as ``typing.Optional``: neither runs anything."""
    import torch

    return isinstance(found, torch.dtype) or type(found).__module__ == typing.__name__


def _below(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def find(module: str, name: str, also: Collection[str] = ()) -> Any:
    """Return what a pickle may name; CheckpointError naming it when it is nothing that a model consists of.

    `also` holds further full names that the catalogue allows for a model. What this environment lacks is an ImportError
    or AttributeError.
    """
    full = f"{module}.{name}"
    if full in _STAND_INS:
        return _STAND_INS[full]
    # A dotted name would reach through a class or module to what these lists leave out.
    listed = "." not in name and (full in _NAMES or full in also)
    if listed or ("." not in name and (module in ("torch", "typing") or _below(module, _CLASSES))):
        found = getattr(importlib.import_module(module), name)
        is_class = isinstance(found, type) and _below(found.__module__, _CLASSES)
        if listed or is_class or _is_plain(found):
            return found
    raise CheckpointError(
        f"refused: it names {full}, which no model consists of; if you know it to be harmless, list it in models.yaml "
        "under checkpoint.globals"
    )


def pickle_module(also: Collection[str] = ()) -> types.SimpleNamespace:
    """Return what `torch.load` takes for a pickle module: its `Unpickler` finds only what `find` finds."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            python2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
            renamed = {"builtins.long": "int", "builtins.unicode": "str", "builtins.xrange": "range"}
            return find(python2, renamed.get(f"{python2}.{name}", name), also)

    return types.SimpleNamespace(Unpickler=Unpickler, __name__="aifs_ensemble.model.checkpoint.unpickle")
