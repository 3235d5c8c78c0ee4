"""An unpickler that knows only what a model consists of.

A pickle names classes and functions, has them called, and sets attributes of what it made. Here a name is found only
when it is a class of the packages that models are made of, or one of a few functions that rebuild tensors and arrays;
everything else is refused by name. What is found is used in one way only (`common/strict_pickle.py`): classes of the
network have blank instances made and nothing else, those get their state once and without any that would stand in
for a method, and functions are called by `rebuild.py` with arguments that were checked. This narrows what a malicious
file can do, and is no proof that it can do nothing: the digest of the file, checked before, is what vouches for it.

`torch.load(weights_only=True)` with an allow-list does not know the objects of numpy, omegaconf and torch-geometric
that whole-model checkpoints hold.
"""

from __future__ import annotations

import enum
import functools
import importlib
import inspect
import pickle
import types
import typing
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.strict_pickle import (
    Blank,
    Rebuilder,
    RefusedError,
    StrictUnpickler,
    common_names,
    numpy_names,
    refuse,
)
from aifs_ensemble.model.checkpoint import rebuild
from aifs_ensemble.model.edges import KERNEL_CLASS, KERNEL_MODULE, EdgeKernel

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
    "scipy.sparse._coo",
    "scipy.sparse._csr",
    "scipy.sparse.coo",
    "scipy.sparse.csr",
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


def _is_type(found: Any) -> bool:
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
    if full in rebuild.STAND_INS:
        return rebuild.REBUILDERS[full]
    # A dotted name would reach through a class or module to what these lists leave out.
    listed = "." not in name and (full in _NAMES or full in also)
    if listed or ("." not in name and (module in ("torch", "typing") or _below(module, _CLASSES))):
        found = getattr(importlib.import_module(module), name)
        is_class = isinstance(found, type) and _below(found.__module__, _CLASSES)
        if listed or is_class or _is_type(found):
            return found
    raise CheckpointError(
        f"refused: it names {full}, which no model consists of; if you know it to be harmless, list it in models.yaml "
        "under checkpoint.globals"
    )


# Classes of the network that are also values, by which a model says how it was made: calling them makes no more than
# a module without parameters, or a record.
_VALUES = ("torch.nn.modules.activation", "torch_geometric.data.feature_store", "torch_geometric.data.graph_store")


def _is_network(cls: type) -> bool:
    return _below(cls.__module__, _CLASSES) and not issubclass(cls, enum.Enum | type | np.dtype)


def _blank(cls: type) -> Any:
    """Return an instance without calling anything of its class."""
    # a private class is none of which a model keeps instances; torch's wrapped hook among them calls what it holds
    if cls.__name__.startswith("_") or not (_is_network(cls) or cls is uuid.UUID):
        refuse(f"an instance of {cls.__module__}.{cls.__qualname__}")
    try:
        return dict.__new__(cls) if issubclass(cls, dict) else object.__new__(cls)
    except TypeError:  # of a class written in C, or an abstract one
        return refuse(f"an instance of {cls.__module__}.{cls.__qualname__}")


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    """Stand for copyreg._reconstructor: a blank instance of a class that builds on no other type."""
    if type(cls) is not Blank or base is not object or state is not None:
        refuse("an instance made from one of another type")
    return _blank(cls.cls)


def _usable(found: Any, full: str) -> Any:
    """Return what the pickle gets of what it named: functions and classes in the one use that models have for them."""
    if full == "copyreg._reconstructor":
        return Rebuilder(full, _reconstructor)
    if full in rebuild.REBUILDERS:
        return Rebuilder(full, rebuild.REBUILDERS[full])
    if not isinstance(found, type):
        return found
    if issubclass(found, enum.Enum):
        return Rebuilder(full, functools.partial(rebuild.member, found))
    if found is uuid.UUID or (_below(found.__module__, _CLASSES) and not _below(found.__module__, _VALUES)):
        return Blank(found)
    return found


def _check_state(cls: type, state: Any) -> None:
    """Raise RefusedError unless a state is one of attributes, none of which stands in for a method of the class."""
    if type(state) is not dict or any(type(name) is not str for name in state):
        refuse(f"a state of {cls.__qualname__} that is no dictionary of attributes")
    if "_metadata" in state and type(state["_metadata"]).__module__ != "omegaconf.base":
        refuse(f"a {cls.__qualname__} whose metadata are none")  # its class sets attributes of them
    for name, value in state.items():
        own = inspect.getattr_static(cls, name, None)
        forward = name == "forward" and type(value) is types.MethodType  # made by `rebuild.method_of`
        special = name.startswith("__") and name.endswith("__")
        if special or ((callable(own) or isinstance(own, classmethod | staticmethod)) and not forward):
            refuse(f"a state of {cls.__qualname__} with {name[:60]}")


class _ModelUnpickler(StrictUnpickler):
    """Loads a model. `also` holds names that the catalogue allows besides, `sizes` the bytes of records."""

    names = numpy_names() | {
        "_codecs.encode": common_names()["_codecs.encode"],
        f"{KERNEL_MODULE}.{KERNEL_CLASS}": Blank(EdgeKernel),
    }
    object_arrays = True
    also: Collection[str] = ()
    sizes: Mapping[str, int] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        from anemoi.utils.config import DotDict

        super().__init__(*arguments, **options)
        self.calls = rebuild.value_classes()
        self.mappings = (*StrictUnpickler.mappings, DotDict)
        self._trusted: list[Any] = []

    def load(self) -> Any:
        """Return what the pickle holds, once nothing in it waits to be called or points outside its arrays."""
        try:
            loaded = super().load()
            for instance in self._built.values():  # not before: what a state holds can be filled after it was set
                rebuild.check_built(instance)
        except RefusedError as error:
            raise CheckpointError(f"refused: {error}, which no model has") from None
        except (CheckpointError, ImportError, AttributeError, TypeError, RuntimeError, EOFError, pickle.PickleError):
            raise
        except Exception as error:  # a damaged pickle may raise anything
            raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None
        return loaded

    def find_class(self, module: str, name: str) -> Any:
        python2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        renamed = {"builtins.long": "int", "builtins.unicode": "str", "builtins.xrange": "range"}
        name = renamed.get(f"{python2}.{name}", name)
        full = f"{python2}.{name}"
        if full in self.also:
            self._trusted.append(find(python2, name, self.also))
            return self._trusted[-1]
        return self.names[full] if full in self.names else _usable(find(python2, name), full)

    def called(self, function: Any) -> Any:
        if any(function is trusted for trusted in self._trusted):
            return Rebuilder("checkpoint.globals", function)
        return super().called(function)

    def blank(self, cls: type) -> Any:
        return _blank(cls)

    def load_newobj(self) -> None:
        cls, arguments = self.stack[-2:]
        if any(cls is trusted for trusted in self._trusted):
            self.stack[-2:] = [cls.__new__(cls, *arguments)]
            return
        if isinstance(cls, type) and _below(cls.__module__, _VALUES):
            self.stack[-2] = Blank(cls)
        super().load_newobj()

    def build(self, instance: Any, state: Any) -> None:
        cls = type(instance)
        if any(cls is trusted for trusted in self._trusted) or cls is inspect.Parameter or cls is uuid.UUID:
            rebuild.set_state(instance, state)
        elif cls is rebuild.LayerFactory:
            rebuild.set_factory(instance, state)
        elif _is_network(cls):
            _check_state(cls, state)
            rebuild.set_state(instance, dict(state))  # a copy: the file could fill its own afterwards
            rebuild.check_built(instance)  # before another's state is set, whose class may look into this one
        else:
            super().build(instance, state)

    def load_binpersid(self) -> None:
        rebuild.check_storage(self.stack[-1], self.sizes)
        self.append(self.persistent_load(self.stack.pop()))

    dispatch: typing.ClassVar[dict[int, Callable[[Any], None]]] = {
        **StrictUnpickler.dispatch,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BINPERSID[0]: load_binpersid,
    }


def pickle_module(also: Collection[str] = (), sizes: Mapping[str, int] | None = None) -> types.SimpleNamespace:
    """Return what `torch.load` takes for a pickle module: its `Unpickler` finds only what `find` finds.

    `sizes` are the bytes of the archive's records by name, such as ``data/0``: a tensor then has no more than its own.
    """
    unpickler = type("Unpickler", (_ModelUnpickler,), {"also": frozenset(also), "sizes": sizes})
    return types.SimpleNamespace(Unpickler=unpickler, __name__="aifs_ensemble.model.checkpoint.unpickle")
