"""What stands for the functions and classes that a model's pickle has called: each checks its arguments first.

Sources: `torch/_utils.py` and `torch/serialization.py` of torch 2.13 for tensors, scipy 1.16 for sparse matrices.
"""

from __future__ import annotations

import collections
import enum
import functools
import inspect
import pathlib
import re
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np

from aifs_ensemble.common.strict_pickle import Blank, Rebuilder, common_names, is_one_of, is_plain, plain_call, refuse
from aifs_ensemble.model.edges import KERNEL, KERNEL_FUNCTION, EdgeKernel

_FACTORIES = (dict, list, set, int, float, str, None)


@dataclass(eq=False)
class LayerFactory:
    """Stands for a functools.partial by which anemoi-models 0.7 and later made the layers of a part of a network.

    A model keeps it and makes nothing with it any more, so it cannot be called.
    """

    layer: type
    keywords: Mapping[str, Any] = field(default_factory=dict)


def layer_factory(layer: Any) -> LayerFactory:
    """Stand for functools.partial: of a class of layers, and of nothing that may be called."""
    import torch

    cls = _class_of(layer)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        refuse(f"functools.partial of {str(getattr(layer, 'name', type(layer).__name__))[:60]}")
    return LayerFactory(cls)


def _class_of(named: Any) -> Any:
    """Return the class that a pickle named, whether it may make instances of it or is given it as a value."""
    return named.cls if type(named) is Blank else named


def set_factory(factory: LayerFactory, state: Any) -> None:
    """Give a factory its arguments: plain ones by name; RefusedError for any other state of a functools.partial."""
    if type(state) is not tuple or len(state) != 4:
        refuse("a functools.partial with an unknown state")
    layer, arguments, keywords, attributes = state
    if (
        _class_of(layer) is not factory.layer
        or type(arguments) is not tuple
        or arguments
        or not (attributes is None or attributes == {})
    ):
        refuse("a functools.partial with a state of another")
    if not (keywords is None or (type(keywords) is dict and all(map(is_plain, keywords.values())))):
        refuse("a functools.partial with arguments that are not plain")
    factory.keywords = dict(keywords or {})


def method_of(module: Any, name: Any) -> Any:
    """Stand for getattr: anemoi's interface keeps the bound method ``forward`` of its model, and nothing else.

    A block of anemoi-models 0.11 keeps the kernel by which it attends over edges.
    """
    import torch

    if type(module) is Blank and module.cls is EdgeKernel and is_one_of(name, KERNEL_FUNCTION):
        return KERNEL
    if type(name) is not str or name != "forward" or not issubclass(type(module), torch.nn.Module):
        refuse(f"attribute {str(name)[:40]!r} of {type(module).__name__}")
    return types.MethodType(type(module).forward, module)


def _is_annotation(value: Any) -> bool:
    return value is None or value is Ellipsis or isinstance(value, type) or type(value).__module__ == typing.__name__


def parameters_of(container: Any, parameters: Any) -> Any:
    """Stand for operator.getitem: omegaconf keeps types such as ``Union[int, str]``."""
    generic = any(container is cls for cls in (dict, frozenset, list, set, tuple, type))
    if not (generic or type(container).__module__ == typing.__name__):
        refuse(f"item of {type(container).__name__}")
    given = parameters if type(parameters) is tuple else (parameters,)
    types_given = tuple(value.cls if type(value) is Blank else value for value in given)
    if not all(map(_is_annotation, types_given)):
        refuse("a type whose parameters are none")
    return container[types_given if len(types_given) != 1 else types_given[0]]


def type_of(*arguments: Any) -> type:
    """Stand for type: the class of None and its like, never a new class."""
    if len(arguments) != 1 or not any(arguments[0] is value for value in (None, Ellipsis, NotImplemented)):
        refuse("type() of anything but None")
    return type(arguments[0])


def member(cls: type[enum.Enum], value: Any) -> enum.Enum:
    """Return the member of an enumeration by its value, which is text or a number."""
    if type(value) not in (int, str):
        refuse(f"a member of {cls.__qualname__} by {type(value).__name__}")
    return cls(value)


def _sizes(values: Any) -> bool:
    import torch

    return type(values) in (tuple, torch.Size) and all(type(n) is int and n >= 0 for n in values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """Stand for torch._utils._rebuild_tensor and _v2: a view within its storage, without hooks."""
    import torch

    if type(storage) is not torch.storage.TypedStorage or not (_sizes((offset,)) and _sizes(size) and _sizes(stride)):
        refuse("a tensor of something other than a storage and sizes")
    length = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= length and 0 not in size:
        refuse(f"a tensor of {last + 1} values in a storage of {length}")
    if any(not (part is None or (type(part) is dict and not part)) for part in rest[2:]):
        refuse("a tensor with metadata")
    tensor = torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))
    return tensor.requires_grad_(rest[0] is True) if rest else tensor


def _parameter(data: Any, requires_grad: Any, hooks: Any = None, state: Any = None) -> Any:
    """Stand for torch._utils._rebuild_parameter and _with_state: attributes are plain, and none of Tensor's own."""
    import torch

    if type(data) is not torch.Tensor:
        refuse("a parameter that is no tensor")
    parameter = torch._utils._rebuild_parameter(data, requires_grad is True, collections.OrderedDict())
    attributes, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    if any(not (part is None or type(part) is dict) for part in (attributes, slots)) or slots:
        refuse("a parameter with a state that is no dictionary of attributes")
    for name, value in (attributes or {}).items():
        if type(name) is not str or name[:2] == "__" or hasattr(torch.nn.Parameter, name) or not is_plain(value):
            refuse(f"a parameter with {str(name)[:60]}")
        setattr(parameter, name, value)
    return parameter


def _sparse(layout: Any, data: Any) -> Any:
    """Stand for torch._utils._rebuild_sparse_tensor: with indices that are within the tensor."""
    import torch

    if type(data) is not tuple or not 3 <= len(data) <= 4:
        refuse("a sparse tensor of an unknown form")
    coordinates = layout is torch.sparse_coo
    tensors = data[:2] if coordinates else data[:3]
    size = data[2] if coordinates else data[-1]
    if any(type(part) is not torch.Tensor for part in tensors) or not _sizes(size):
        refuse("a sparse tensor of something other than tensors")
    if coordinates:
        coalesced = data[3] if len(data) == 4 else None
        return torch.sparse_coo_tensor(tensors[0], tensors[1], size, check_invariants=True, is_coalesced=coalesced)
    known = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
    if not any(layout is one for one in known):
        refuse("a sparse tensor of an unknown layout")
    rows, columns, values = tensors
    return torch.sparse_compressed_tensor(rows, columns, values, size, layout=layout, check_invariants=True)


def _layout(name: Any) -> Any:
    import torch

    if type(name) is not str:
        refuse("a layout that is no name")
    return torch.serialization._get_layout(name)


# Without the prefixes under which pickles of different versions name them.
REBUILDERS: dict[str, Callable[..., Any]] = {
    "builtins.getattr": method_of,
    "functools.partial": layer_factory,
    "builtins.type": type_of,
    "_operator.getitem": parameters_of,
    "operator.getitem": parameters_of,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.serialization._get_layout": _layout,
}
# Those that stand for something that can do more: nobody finds what they stand for.
STAND_INS = ("builtins.getattr", "builtins.type", "_operator.getitem", "functools.partial", "operator.getitem")


def _collection(cls: type) -> Callable[..., Any]:
    """Return a constructor of sets from lists of plain values."""

    def made(values: Any = ()) -> Any:
        if type(values) not in (list, tuple) or not all(map(is_plain, values)):
            refuse(f"a {cls.__name__} of anything but plain values")
        return cls(values)

    return made


def _default(factory: Any = None) -> collections.defaultdict[Any, Any]:
    if not any(factory is known for known in _FACTORIES):
        refuse("a defaultdict with an unknown factory")
    return collections.defaultdict(factory)


def _counter(counts: Any = None) -> collections.Counter[Any]:
    if counts is not None and (type(counts) is not dict or not all(type(n) is int for n in counts.values())):
        refuse("a Counter of anything but numbers")
    return collections.Counter(counts)


def _parameter_of_a_call(name: Any, kind: Any) -> inspect.Parameter:
    if type(name) is not str or type(kind) is not type(inspect.Parameter.VAR_KEYWORD):
        refuse("an inspect.Parameter of something other than a name and a kind")
    return inspect.Parameter(name, kind)


def _torch_size(sizes: Any = ()) -> Any:
    import torch

    if not _sizes(sizes):
        refuse("a torch.Size of anything but sizes")
    return torch.Size(sizes)


@functools.cache
def value_classes() -> dict[type, Rebuilder]:
    """Return the classes that are values, such as the type of an argument, and what stands for a call of each."""
    import torch

    ordered: Rebuilder = common_names()["collections.OrderedDict"]
    numbers = (int, float, complex, type(None))
    calls = [plain_call(cls.__name__, cls, *numbers) for cls in (complex, range, slice)]
    times = [
        plain_call(cls.__name__, cls, bytes, str, int, timedelta, timezone)
        for cls in (date, datetime, timedelta, timezone)
    ]
    checked: dict[type, Callable[..., Any]] = {
        set: _collection(set),
        frozenset: _collection(frozenset),
        collections.OrderedDict: ordered.call,
        collections.defaultdict: _default,
        collections.Counter: _counter,
        inspect.Parameter: _parameter_of_a_call,
        torch.Size: _torch_size,
        bytes: plain_call("bytes", bytes).call,
        bytearray: plain_call("bytearray", bytearray, bytes).call,
        object: plain_call("object", object).call,
        torch.device: plain_call("torch.device", torch.device, str, int).call,
        pathlib.PosixPath: plain_call("pathlib.PosixPath", pathlib.PosixPath, str).call,
        pathlib.PurePosixPath: plain_call("pathlib.PurePosixPath", pathlib.PurePosixPath, str).call,
        **dict(zip((complex, range, slice), (c.call for c in calls), strict=True)),
        **dict(zip((date, datetime, timedelta, timezone), (c.call for c in times), strict=True)),
    }
    return {cls: Rebuilder(cls.__name__, call) for cls, call in checked.items()}


def set_state(instance: Any, state: Any) -> None:
    """Give an instance the state that its class understands, found on the class and not on the instance."""
    cls = type(instance)
    if cls is inspect.Parameter and (type(state) is not dict or set(state) - {"_annotation", "_default"}):
        refuse("an inspect.Parameter with an unknown state")
    if cls is uuid.UUID and (type(state) is not dict or set(state) != {"int"} or type(state["int"]) is not int):
        refuse("a UUID with an unknown state")
    if hasattr(cls, "__setstate__"):
        cls.__setstate__(instance, state)
    elif not hasattr(instance, "__dict__"):
        refuse(f"a state for {cls.__qualname__}, which has none")
    else:
        instance.__dict__.update(state)


def check_built(instance: Any) -> None:
    """Raise RefusedError when something that got a state has hooks, or is a sparse matrix with indices beyond it."""
    attributes = getattr(instance, "__dict__", None)
    if type(attributes) is not dict:
        return
    for name, value in attributes.items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and (
            type(value) not in (dict, collections.OrderedDict) or value
        ):
            refuse(f"{type(instance).__qualname__} with {name}")
    if type(instance).__module__.startswith("scipy.sparse."):
        _check_matrix(instance)


def _check_matrix(matrix: Any) -> None:
    shape = matrix.__dict__.get("_shape")
    coordinates = matrix.__dict__.get("coords")
    arrays = [matrix.__dict__.get(name) for name in ("indices", "indptr")] if coordinates is None else coordinates
    arrays = [*arrays, matrix.__dict__.get("data")] if type(arrays) in (list, tuple) else [None]
    if (
        not _sizes(shape)
        or len(shape) != 2
        or any(type(array) is not np.ndarray or array.ndim != 1 for array in arrays)
    ):
        refuse("a sparse matrix without its arrays")
    if coordinates is None:
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            refuse(f"a sparse matrix that is none ({error})")
    elif any(
        len(index) != len(arrays[-1]) or (index.size and (index.min() < 0 or index.max() >= n))
        for index, n in zip(coordinates, shape, strict=True)
    ):
        refuse("a sparse matrix with indices beyond it")


def check_storage(stored: Any, sizes: Mapping[str, int] | None) -> None:
    """Raise RefusedError unless a reference to tensor data is one that torch writes, of as many bytes as its record."""
    import torch

    sound = (
        type(stored) is tuple
        and len(stored) == 5
        and is_one_of(stored[0], "storage")
        and type(stored[1]) is torch.serialization.StorageType
        and type(stored[2]) is str
        and re.fullmatch(r"\d{1,9}", stored[2], re.ASCII)
        and type(stored[3]) is str
        and _sizes((stored[4],))
    )
    if not sound:
        refuse("a reference to something other than tensor data")
    if sizes is not None and sizes.get(f"data/{stored[2]}") != stored[4] * stored[1].dtype.itemsize:
        refuse(f"tensor data {stored[2]} of another size than its record")
