"""An unpickler that builds data and calls nothing but a few rebuilders, with arguments that were checked.

A pickle is a program: it names functions and classes, has them called, sets attributes and items. The pickle module
lets whoever subclasses it choose which names are found; what is done with them stays the file's choice. Here each
instruction is held to what plain data need:

- what is named is a value, a class of which blank instances may be made, or a function that may be called; none of
  the three serves as another, and the latter two are of no use to anything that finds them in the data later;
- an instance gets its state once, by its exact type, and no class or function ever gets any;
- items go into plain containers alone, under plain keys;
- arrays of numpy are made of numbers and text, never of pointers.

Instructions that no current pickler writes for such data (INST, OBJ, EXT, PERSID, NEWOBJ_EX, out-of-band buffers)
are refused. Protocols 0 to 5 are read otherwise.
"""

from __future__ import annotations

import collections
import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np

_PLAIN = (str, int, float, bool, bytes, type(None))
_DTYPE = re.compile(r"[<>|=]?(?:[?bBhHiIlLqQefdgFDG]|b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SUmM]\d{0,4})")
_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_OBJECTS = ("O", "O8", "|O")


class RefusedError(Exception):
    """A pickle asks for what plain data do not need; the text says what, in part of a line."""


@dataclass(frozen=True, eq=False)
class Rebuilder:
    """A function that the pickle may have called. Not callable itself: as a value it is inert."""

    name: str
    call: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Blank:
    """A class of which the pickle may have instances made, without their constructor. Inert as a value, too."""

    cls: type


def refuse(text: str) -> NoReturn:
    """Raise RefusedError."""
    raise RefusedError(text)


def is_plain(value: Any) -> bool:
    """Whether a value is text, bytes, a number, None, or a tuple of such: its hash runs no foreign code."""
    return type(value) in _PLAIN or (type(value) is tuple and all(map(is_plain, value)))


def is_one_of(value: Any, *known: Any) -> bool:
    """Whether a value is one of some plain ones. Anything else is not compared: that would run code of its class."""
    return is_plain(value) and value in known


def plain_call(name: str, call: Callable[..., Any], *kinds: type) -> Rebuilder:
    """Return a function that is called with positional arguments of exact types only."""

    def checked(*arguments: Any) -> Any:
        if any(type(argument) not in kinds for argument in arguments):
            refuse(f"{name} called with {', '.join(type(argument).__name__ for argument in arguments)}")
        return call(*arguments)

    return Rebuilder(name, checked)


def _encode(text: Any, encoding: Any = None) -> bytes:
    """Stand for _codecs.encode: bytes in protocols that have none."""
    if type(text) is not str or not is_one_of(encoding, "latin1"):
        refuse("_codecs.encode called with anything but text and latin1")
    return text.encode("latin1")


def _ordered(*arguments: Any) -> collections.OrderedDict[Any, Any]:
    """Stand for collections.OrderedDict: empty, or of pairs as Python 2 wrote them."""
    pairs = arguments[0] if arguments else []
    sound = len(arguments) <= 1 and type(pairs) is list
    if not sound or not all(type(p) in (list, tuple) and len(p) == 2 and is_plain(p[0]) for p in pairs):
        refuse("collections.OrderedDict called with anything but pairs")
    return collections.OrderedDict(pairs)


def _dtype(code: Any, align: Any = False, copy: Any = False) -> np.dtype[Any]:
    """Stand for numpy.dtype: always a new one, since its state is set afterwards, and never with fields."""
    if type(code) is not str or not (_DTYPE.fullmatch(code) or code in _OBJECTS):
        refuse(f"numpy.dtype of {str(code)[:40]!r}")
    return np.dtype(np.dtype(code), copy=True)


def _reconstruct(cls: Any, shape: Any, typecode: Any) -> np.ndarray[Any, Any]:
    if not (type(cls) is Blank and cls.cls is np.ndarray and is_one_of(shape, (0,)) and is_one_of(typecode, b"b", "b")):
        refuse("numpy's _reconstruct called for anything but an empty array")
    return np.empty((0,), np.int8)


def _check_numbers(dtype: Any, shape: Any, raw: Any) -> None:
    """Raise RefusedError unless bytes hold an array of this type and shape, of numbers or text."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.names or dtype.subdtype or dtype.kind == "V":
        refuse("an array of a type other than numbers and text")
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        refuse("an array whose shape is no tuple of sizes")
    # elements of no bytes: any number of them would fit
    if not dtype.itemsize or type(raw) not in (bytes, bytearray) or len(raw) != math.prod(shape) * dtype.itemsize:
        refuse(f"an array of shape {str(shape)[:60]} and type {dtype} whose bytes are not as many")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    _check_numbers(dtype, (), raw)
    return np.ndarray((), dtype, bytes(raw))[()]


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any = "C", *rest: Any) -> np.ndarray[Any, Any]:
    if not is_one_of(order, "C", "F") or not is_one_of(rest, (), (None,)):
        refuse("numpy's _frombuffer called with an unknown order")
    _check_numbers(dtype, shape, raw)
    return np.ndarray(shape, dtype, bytes(raw), order=order)


def numpy_names() -> dict[str, Any]:
    """Return what pickles of arrays name, in the spellings of numpy 1 and 2, and what stands for it."""
    found: dict[str, Any] = {"numpy.dtype": Rebuilder("numpy.dtype", _dtype), "numpy.ndarray": Blank(np.ndarray)}
    for core in ("numpy.core", "numpy._core"):
        for name, call in (("_reconstruct", _reconstruct), ("scalar", _scalar)):
            found[f"{core}.multiarray.{name}"] = Rebuilder(name, call)
        found[f"{core}.numeric._frombuffer"] = Rebuilder("_frombuffer", _from_buffer)
    return found


def common_names() -> dict[str, Any]:
    """Return what pickles of plain containers name."""
    return {
        "_codecs.encode": Rebuilder("_codecs.encode", _encode),
        "builtins.bytes": plain_call("builtins.bytes", bytes),  # without arguments: no bytes, in protocols without
        "collections.OrderedDict": Rebuilder("collections.OrderedDict", _ordered),
    }


def _set_dtype(dtype: np.dtype[Any], state: Any) -> None:
    """Set the byte order of a number type; RefusedError for a state that changes more."""
    if type(state) is not tuple or len(state) not in (8, 9) or not is_one_of(state[0], 3, 4):
        refuse("a numpy.dtype with an unknown state")
    _, order, subtype, names, fields, size, alignment, flags = state[:8]
    text, objects = dtype.kind in "SU", dtype.kind == "O"
    expected_size = (dtype.itemsize,) if text else (-1,)
    expected_flags = (63,) if objects else (0, 8) if text else (0,)
    sound = (
        is_plain(state[:8])
        and order in ("<", ">", "|", "=")
        and (subtype, names, fields) == (None, None, None)
        and size in expected_size
        and alignment in (-1, 1, 4)
        and flags in expected_flags
    )
    if not sound or (len(state) == 9 and not _is_unit(dtype, state[8])):
        refuse(f"a numpy.dtype of {dtype} made into another by its state")
    dtype.__setstate__(state)  # type: ignore[attr-defined]


def _is_unit(dtype: np.dtype[Any], metadata: Any) -> bool:
    """Whether the ninth part of a type's state is the unit of dates, such as ``({}, (b"ns", 1, 1, 1))``, or nothing."""
    if metadata is None:
        return True
    if dtype.kind not in "mM" or type(metadata) is not tuple or len(metadata) != 2:
        return False
    more, unit = metadata
    if not (more is None or (type(more) is dict and not more)):
        return False
    return type(unit) is tuple and len(unit) == 4 and is_plain(unit) and all(type(n) is int for n in unit[1:])


def _set_array(array: np.ndarray[Any, Any], state: Any, *, objects: bool) -> None:
    """Fill an empty array; RefusedError for a state whose bytes, shape and type do not agree."""
    if type(state) is not tuple or len(state) != 5 or not is_one_of(state[0], 1) or type(state[3]) not in (bool, int):
        refuse("a numpy.ndarray with an unknown state")
    _, shape, dtype, _, raw = state
    if isinstance(dtype, np.dtype) and dtype.kind == "O" and objects:
        if type(shape) is not tuple or type(raw) is not list or any(type(n) is not int or n < 0 for n in shape):
            refuse("an array of objects that is no list of them")
        if len(raw) != math.prod(shape):
            refuse("an array of objects with another number of them")
    else:
        _check_numbers(dtype, shape, raw)
    array.__setstate__(state)


class StrictUnpickler(pickle._Unpickler):
    """Loads plain data, and what `names` adds: full names with a value, a `Rebuilder` or a `Blank` each.

    Raises RefusedError before anything that is not allowed is done, and whatever a damaged pickle makes happen.
    """

    names: Mapping[str, Any] = common_names() | numpy_names()
    # classes that are values and may be called, too: annotations and factories
    calls: Mapping[type, Rebuilder] = {}
    mappings: tuple[type, ...] = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    # arrays of objects: their elements are of this file's making, and as checked as anything
    object_arrays = False
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._built: dict[int, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{_PYTHON2.get(module, module)}.{name}"
        if full not in self.names:
            refuse(f"names {full}")
        return self.names[full]

    def build(self, instance: Any, state: Any) -> None:
        """Give an instance its state; RefusedError where its exact type takes none."""
        if type(instance) is np.ndarray:
            _set_array(instance, state, objects=self.object_arrays)
        elif isinstance(instance, np.dtype):
            _set_dtype(instance, state)
        else:
            refuse(f"a state for {_shown(instance)}")

    def blank(self, cls: type) -> Any:
        """Return an instance of a class without calling its constructor."""
        refuse(f"an instance of {cls.__module__}.{cls.__qualname__}")

    def called(self, function: Any) -> Any:
        """Return the rebuilder that stands for what the pickle wants called; anything else when it may not be."""
        # by exact type: looking an arbitrary object up would call its hash
        return self.calls.get(function) if type(function) is type else function

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        called = self.called(function)
        if type(called) is not Rebuilder or type(arguments) is not tuple:
            refuse(f"a call of {_shown(function)}")
        try:
            self.stack[-1] = called.call(*arguments)
        except TypeError as error:
            refuse(f"a call of {called.name} that does not fit it ({error})")

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        cls = self.stack.pop()
        if type(cls) is not Blank or type(arguments) is not tuple or arguments:
            refuse(f"an instance of {_shown(cls)}{' made with arguments' if arguments else ''}")
        self.append(self.blank(cls.cls))

    def load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if id(instance) in self._built:
            refuse(f"a second state for {_shown(instance)}")
        self._built[id(instance)] = instance  # kept, so that the number is not another object's later
        self.build(instance, state)

    def _put(self, mapping: Any, items: list[Any]) -> None:
        if type(mapping) not in self.mappings or len(items) % 2:
            refuse(f"items for {_shown(mapping)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_plain(key):
                refuse(f"{_shown(key)} as a key")
            mapping[key] = value

    def load_setitem(self) -> None:
        items = [self.stack[-2], self.stack[-1]]
        del self.stack[-2:]
        self._put(self.stack[-1], items)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._put(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        made: dict[Any, Any] = {}
        self._put(made, items)
        self.append(made)

    def load_append(self) -> None:
        value = self.stack.pop()
        if type(self.stack[-1]) is not list:
            refuse(f"an element for {_shown(self.stack[-1])}")
        self.stack[-1].append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        if type(self.stack[-1]) is not list:
            refuse(f"elements for {_shown(self.stack[-1])}")
        self.stack[-1].extend(values)

    def load_additems(self) -> None:
        values = self.pop_mark()
        if type(self.stack[-1]) is not set or not all(map(is_plain, values)):
            refuse(f"elements for {_shown(self.stack[-1])}")
        self.stack[-1].update(values)

    def load_frozenset(self) -> None:
        values = self.pop_mark()
        if not all(map(is_plain, values)):
            refuse("a set of anything but plain values")
        self.append(frozenset(values))

    def load_refused(self) -> None:
        refuse("an instruction that pickles of such data do not have")

    _refused = (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID)
    for _code in (*_refused, pickle.NEWOBJ_EX, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[_code[0]] = load_refused
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def _shown(value: Any) -> str:
    """Return what an error calls a value: the name of what was named, the type of everything else."""
    if isinstance(value, Rebuilder):
        return value.name
    named = value.cls if isinstance(value, Blank) else value if isinstance(value, type) else type(value)
    return f"{named.__module__}.{named.__qualname__}"[:100]
