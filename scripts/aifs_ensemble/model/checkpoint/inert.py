"""A pickled model read without running anything: every class and function of it is a name, every object a record.

`torch.load` needs the classes of the very versions that pickled a model, and calls what the pickle names. Here a name
is never looked up: in its place stands an `Inert` class, whose objects keep what they were called with and their
state. So the structure of any checkpoint can be read, of versions that are not installed too, from a file that nobody
vouches for. Tensors are known by shape; their numbers are not read.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from aifs_ensemble.common.errors import CheckpointError

# What is harmless to call and handy to have as it is. Not text: that of lists within lists has no end.
_PLAIN = {
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.list": list,
    "builtins.dict": dict,
    "builtins.int": int,
    "builtins.float": float,
    "builtins.tuple": tuple,
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": tuple,
}


class Inert:
    """Stands for an object of a class, or for what a function returned.

    `full_name` is the class's or function's; `arguments` what it was called with; `state` what it was given then.
    """

    full_name: ClassVar[str] = ""

    def __new__(cls, *arguments: Any, **_: Any) -> Inert:
        made = super().__new__(cls)
        made.arguments, made.state, made.items = arguments, {}, []
        return made

    arguments: tuple[Any, ...]
    state: dict[str, Any]
    items: list[Any]

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take whatever a class takes: `__new__` keeps it."""

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for part in parts:
            if isinstance(part, Mapping):
                self.state.update({str(key): value for key, value in part.items()})

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    @property
    def kind(self) -> str:
        """Name of the class, without its module."""
        return type(self).full_name.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<{type(self).full_name}>"

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, as torch's modules keep them: plain, a part, a parameter or a buffer."""
        for group in ("_modules", "_parameters", "_buffers"):
            found = self.state.get(group)
            if isinstance(found, Mapping) and name in found:
                return found[name]
        return self.state.get(name, default)

    def find(self, *names: str) -> Any:
        """Return an attribute of an attribute, None where there is none such."""
        found: Any = self
        for name in names:
            found = found.get(name) if isinstance(found, Inert) else None
        return found

    @property
    def parts(self) -> Mapping[str, Any]:
        """The modules of a module, in order."""
        found = self.state.get("_modules")
        return found if isinstance(found, Mapping) else {}


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a pickled tensor or parameter, None of anything else."""
    if not isinstance(value, Inert):
        return None
    if value.kind in ("_rebuild_parameter", "_rebuild_parameter_with_state") and value.arguments:
        return shape_of(value.arguments[0])
    if value.kind in ("_rebuild_tensor_v2", "_rebuild_tensor") and len(value.arguments) > 2:
        return tuple(value.arguments[2])
    if value.kind in ("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor") and len(value.arguments) > 1:
        sizes = [part for part in value.arguments[1] if isinstance(part, tuple)]
        return tuple(sizes[-1]) if sizes else None
    return None


def plain(value: Any) -> Any:
    """Return omegaconf's and anemoi's containers as the lists and mappings that they hold."""
    if isinstance(value, Inert):
        if "_val" in value.state:
            return plain(value.state["_val"])
        if "_content" in value.state:
            return plain(value.state["_content"])
        if value.kind == "DotDict":
            return {str(key): plain(item) for key, item in value.items}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def modules(root: Any, seen: set[int] | None = None) -> Iterator[Inert]:
    """Yield a module and all modules in it, each once."""
    seen = set() if seen is None else seen
    if isinstance(root, Inert) and id(root) not in seen:
        seen.add(id(root))
        yield root
        for part in root.parts.values():
            yield from modules(part, seen)


class _Unpickler(pickle._Unpickler):
    """Python's own: the one in C makes room for as many remembered objects as a file names, up to 64 GiB."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))
        self.names: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            full = f"{module.replace('__builtin__', 'builtins').replace('copy_reg', 'copyreg')}.{name}"
            made = type(name.rpartition(".")[2], (Inert,), {"full_name": full})
            self.names[module, name] = _Reconstructed if full == "copyreg._reconstructor" else _PLAIN.get(full, made)
        return self.names[module, name]

    def load_extension(self) -> None:
        raise pickle.UnpicklingError("an object that some package of this environment registered")

    for _code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_code[0]] = load_extension

    def persistent_load(self, pid: Any) -> Any:
        """Stand for a tensor's storage: its key is the record that holds it."""
        return pid


class _Reconstructed(Inert):
    """Stands for copyreg's function that makes an object of a class."""

    def __new__(cls, *arguments: Any, **_: Any) -> Any:
        kind = arguments[0] if arguments else None
        return kind() if isinstance(kind, type) and issubclass(kind, Inert) else super().__new__(cls, *arguments)


def read_inert(content: bytes, name: str) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """Return what a pickle describes, as `Inert` objects, and all names that it mentions: (module, name), sorted.

    Raises CheckpointError, which calls the file `name`, when it is no pickle of a model.
    """
    unpickler = _Unpickler(content)
    try:
        found = unpickler.load()
    except Exception as error:  # whatever a file may hold: nothing of it was run
        raise CheckpointError(f"{name}: the pickled model cannot be read ({type(error).__name__}: {error})") from None
    return found, tuple(sorted(unpickler.names))
