"""Checkpoints made to do harm: each is refused before anything of it runs, in one line.

The attacks are written instruction by instruction, since no pickler would write them.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.attention import ensure_flash_attention
from aifs_ensemble.model.checkpoint.load import load_model
from aifs_ensemble.model.checkpoint.plain_archive import plain_records
from aifs_ensemble.model.checkpoint.unpickle import pickle_module
from aifs_ensemble.model.edges import KERNEL

PROTO = b"\x80\x02"
INDEX = "anemoi.models.data_indices.index"
NONE, TRUE, EMPTY, REDUCE, NEWOBJ, BUILD, POP, END = b"N", b"\x88", b")", b"R", b"\x81", b"b", b"0", b"."


def g(full: str) -> bytes:
    """GLOBAL: a name."""
    module, _, name = full.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def s(text: str) -> bytes:
    """A string."""
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def n(number: int) -> bytes:
    """A number."""
    return b"I" + str(number).encode() + b"\n"


def raw(content: bytes) -> bytes:
    """Bytes."""
    return b"B" + struct.pack("<I", len(content)) + content


def t(*parts: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def d(**items: bytes) -> bytes:
    """A dictionary of text keys."""
    return b"}(" + b"".join(s(key) + value for key, value in items.items()) + b"u"


def put(place: int) -> bytes:
    """Remember the top of the stack."""
    return b"q" + bytes([place])


def get(place: int) -> bytes:
    """Fetch what was remembered."""
    return b"h" + bytes([place])


def blank(full: str) -> bytes:
    """An instance without constructor."""
    return g(full) + EMPTY + NEWOBJ


def call(full: str, *arguments: bytes) -> bytes:
    """A call by name."""
    return g(full) + t(*arguments) + REDUCE


def evil_instance(**state: bytes) -> bytes:
    """A module whose attributes are the file's choice."""
    parts = ("_modules", "_parameters", "_buffers", "_forward_pre_hooks", "_forward_hooks")
    return blank("torch.nn.modules.linear.Identity") + d(**(dict.fromkeys(parts, b"}") | state)) + BUILD


LINEAR, KERNEL_CLASS = "torch.nn.modules.linear.Linear", "anemoi.models.triton.gt.GraphTransformerFunction"
PARTIAL = call("functools.partial", g(LINEAR))
KERNEL_METHOD = call("builtins.getattr", g(KERNEL_CLASS), s("apply"))
DTYPE = t(s("f8"), b"\x89", TRUE)
FLOAT = g("numpy.dtype") + DTYPE + REDUCE
OBJECT = g("numpy.dtype") + t(s("O8"), b"\x89", TRUE) + REDUCE
ARRAY = g("numpy._core.multiarray._reconstruct") + t(g("numpy.ndarray"), t(n(0)), raw(b"b")) + REDUCE
POINTER = raw(struct.pack("<Q", 0x4141414141414141))
STORAGE = t(s("storage"), g("torch.FloatStorage"), s("0"), s("cpu"), n(4)) + b"Q"

ATTACKS: dict[str, bytes] = {
    # classes and functions changed
    "slots of a class": g(f"{INDEX}.DataIndex") + t(NONE, d(__bases__=t())) + BUILD,
    "state of a class": g("torch.nn.modules.linear.Linear") + d(forward=NONE) + BUILD,
    "state of a class that is a value": g("torch.nn.modules.activation.GELU") + d(forward=NONE) + BUILD,
    "slots of a value class": g("torch.nn.modules.activation.GELU") + t(NONE, d(forward=NONE)) + BUILD,
    "state of a function": g("flash_attn.flash_attn_func") + d(__code__=NONE) + BUILD,
    "state of typing.Any": g("typing.Any") + t(NONE, d(__origin__=NONE)) + BUILD,
    "state of an enumeration": call("torch_geometric.data.graph_store.EdgeLayout", s("coo")) + d(_value_=NONE) + BUILD,
    "slots of an instance": blank(f"{INDEX}.DataIndex") + t(NONE, d(a=NONE)) + BUILD,
    # instances that lie
    "own module": blank(f"{INDEX}.DataIndex") + d(__module__=s("typing")) + BUILD,
    "own class": evil_instance(__class__=g("builtins.dict")),
    "own array interface": evil_instance(__array_interface__=d(data=t(n(1), TRUE))),
    "own method": evil_instance(eval=g("builtins.dict")),
    "own to": evil_instance(to=g("torch.Tensor")),
    "own forward that is no method": evil_instance(forward=g("builtins.dict")),
    "keys that are no names": blank(f"{INDEX}.DataIndex") + b"}(" + n(1) + n(2) + b"u" + BUILD,
    "state twice": evil_instance() + d(training=TRUE) + BUILD,
    "hooks": evil_instance(_forward_pre_hooks=b"}" + n(0) + g("builtins.dict") + b"s"),
    "hooks filled afterwards": b"}" + put(1) + POP + evil_instance(_backward_hooks=get(1)) + get(1) + n(0)
    + g("builtins.dict") + b"s" + POP,
    "hooks of torch-geometric": evil_instance(_message_forward_hooks=b"}" + n(0) + g("builtins.dict") + b"s"),
    "hooks that are no dictionary": evil_instance(_forward_hooks=blank("anemoi.utils.config.DotDict")),
    # things called
    "constructor": call("anemoi.models.interface.AnemoiModelInterface", d(config=b"}")),
    "constructor through a stand-in": g("copyreg._reconstructor")
    + t(g("anemoi.utils.config.DotDict"), g("builtins.dict"), d(a=NONE)) + REDUCE,
    "tensor through a stand-in": g("copyreg._reconstructor")
    + t(g("torch.nn.parameter.Parameter"), g("builtins.object"), NONE) + REDUCE,
    "blank with arguments": g(f"{INDEX}.DataIndex") + t(s("a")) + NEWOBJ,
    "blank parameter": blank("torch.nn.parameter.Parameter"),
    "blank dtype": blank("numpy.dtypes.Float64DType"),
    "blank array": blank("numpy.ndarray"),
    "blank builtin": blank("builtins.dict"),
    "blank hook": blank("torch.nn.modules._functions.BackwardHookFunction"),
    "function that is a value": call("flash_attn.flash_attn_func", NONE, NONE, NONE),
    "attention": call("torch._C._nn.gelu", NONE),
    "activation": call("torch.nn.modules.activation.GELU"),
    "bound forward": call("builtins.getattr", evil_instance(), s("forward")) + t(NONE) + REDUCE,
    "another attribute": call("builtins.getattr", evil_instance(), s("register_forward_hook")),
    "attribute of a dictionary": call("builtins.getattr", blank("anemoi.utils.config.DotDict"), s("forward")),
    "item of an instance": call("_operator.getitem", blank(f"{INDEX}.DataIndex"), s("__init__")),
    "item of a network class": call("_operator.getitem", g("torch.nn.modules.container.ModuleDict"), s("a")),
    "text as a type": call("_operator.getitem", g("typing.Union"), t(g("builtins.int"), s("__import__('os')"))),
    "type of three": call("builtins.type", s("New"), t(), b"}"),
    "type of a class": call("builtins.type", g("builtins.int")),
    "codec": call("_codecs.encode", s("text"), s("zip")),
    "codec with errors": call("_codecs.encode", s("text"), s("latin1"), s("strict")),
    "factory": call("collections.defaultdict", g("anemoi.models.interface.AnemoiModelInterface")),
    "factory that is a value": call("collections.defaultdict", g("torch.Tensor")),
    "iterated": call("builtins.list", blank("torch.nn.modules.container.ModuleList")),
    "set of instances": call("builtins.set", b"](" + blank("omegaconf.dictconfig.DictConfig") + b"e"),
    "text of an instance": call("builtins.str", blank("omegaconf.dictconfig.DictConfig")),
    "tensor called": call("torch.Tensor", n(3)),
    # what anemoi-models keeps from 0.7 on: factories of layers, and a kernel
    "partial of a function": call("functools.partial", g("torch._C._nn.gelu")),
    "partial of a rebuilder": call("functools.partial", g("torch._utils._rebuild_tensor_v2")),
    "partial of what is no layer": call("functools.partial", g(f"{INDEX}.DataIndex")),
    "partial of a builtin": call("functools.partial", g("builtins.dict")),
    "partial of a partial": call("functools.partial", PARTIAL),
    "partial with arguments": call("functools.partial", g(LINEAR), n(3)),
    "partial called": PARTIAL + t(n(3), n(4)) + REDUCE,
    "partial made into another": PARTIAL + t(g("torch.nn.modules.linear.Identity"), t(), b"}", NONE) + BUILD,
    "partial with arguments in its state": PARTIAL + t(g(LINEAR), t(n(1)), b"}", NONE) + BUILD,
    "partial with an instance": PARTIAL + t(g(LINEAR), t(), d(bias=evil_instance()), NONE) + BUILD,
    "partial with attributes": PARTIAL + t(g(LINEAR), t(), b"}", d(call=NONE)) + BUILD,
    "partial with a state of another form": PARTIAL + d(func=NONE) + BUILD,
    "partial with a state twice": PARTIAL + put(1) + t(g(LINEAR), t(), b"}", NONE) + BUILD
    + get(1) + t(g(LINEAR), t(), b"}", NONE) + BUILD,
    "blank partial": blank("functools.partial"),
    "kernel called": call(KERNEL_CLASS, NONE),
    "blank kernel": blank(KERNEL_CLASS),
    "another method of the kernel": call("builtins.getattr", g(KERNEL_CLASS), s("forward")),
    "method of the kernel called": KERNEL_METHOD + t(NONE) + REDUCE,
    "state of the kernel": KERNEL_METHOD + d(a=NONE) + BUILD,
    # containers
    "items of a module": blank("torch.nn.modules.container.ModuleDict") + s("a") + NONE + b"s",
    "items of a configuration": blank("omegaconf.dictconfig.DictConfig") + b"(" + s("a") + NONE + b"u",
    "items of a class": g("builtins.dict") + s("a") + NONE + b"s",
    "element of a module": blank("torch.nn.modules.container.ModuleList") + NONE + b"a",
    "elements of a configuration": blank("omegaconf.listconfig.ListConfig") + b"(" + NONE + b"e",
    "key that hashes": b"}" + blank("omegaconf.dictconfig.DictConfig") + NONE + b"s",
    "key in a tuple": b"}" + t(t(blank("omegaconf.dictconfig.DictConfig"))) + NONE + b"s",
    "key in a literal": b"(" + blank("omegaconf.dictconfig.DictConfig") + NONE + b"d",
    "element that hashes": b"\x8f(" + blank("omegaconf.dictconfig.DictConfig") + b"\x90",
    "frozen element that hashes": b"(" + blank("omegaconf.dictconfig.DictConfig") + b"\x91",
    "items of an array": ARRAY + n(0) + NONE + b"s",
    # instructions
    "INST": b"(ibuiltins\ndict\n",
    "OBJ": b"(" + g("builtins.dict") + b"o",
    "EXT1": b"\x82\xf0",
    "EXT2": b"\x83\xf0\x00",
    "EXT4": b"\x84\xf0\x00\x00\x00",
    "PERSID": b"Pstorage\n",
    "NEWOBJ_EX": g(f"{INDEX}.DataIndex") + EMPTY + b"}" + b"\x92",
    "out-of-band buffer": b"\x97",
    "read-only buffer": ARRAY + b"\x98",
    "dotted name": s("anemoi.models.interface") + s("AnemoiModelInterface._build_model") + b"\x93",
    "name reached through a module": s("torch.nn.modules.linear") + s("torch.hub.load") + b"\x93",
    "name that is no text": n(1) + n(2) + b"\x93",
    # memory
    "array of pointers": call("numpy.ndarray", t(n(1)), s("O"), POINTER),
    "array of pointers by its state": ARRAY + t(n(1), t(n(1)), OBJECT, b"\x89", POINTER) + BUILD,
    "too few objects": ARRAY + t(n(1), t(n(9)), OBJECT, b"\x89", b"](NNe") + BUILD,
    "scalar of a pointer": call("numpy._core.multiarray.scalar", OBJECT, POINTER),
    "buffer of pointers": call("numpy._core.numeric._frombuffer", POINTER, OBJECT, t(n(1)), s("C")),
    "type with fields": call("numpy.dtype", b"](" + t(s("a"), s("O")) + b"e"),
    "type by text with fields": call("numpy.dtype", s("i4,O")),
    "state that adds fields": FLOAT + t(n(3), s("<"), NONE, t(s("a")), d(a=t(OBJECT, n(0))), n(8), n(1), n(0)) + BUILD,
    "state that changes the size": FLOAT + t(n(3), s("<"), NONE, NONE, NONE, n(800), n(1), n(0)) + BUILD,
    "state that hides pointers": OBJECT + t(n(3), s("|"), NONE, NONE, NONE, n(-1), n(-1), n(0)) + BUILD,
    "size of text changed later": call("numpy.dtype", s("S1"), b"\x89", TRUE) + put(1) + ARRAY
    + t(n(1), t(n(1)), get(1), b"\x89", raw(b"a")) + BUILD + POP
    + t(n(3), s("|"), NONE, NONE, NONE, n(9999), n(1), n(0)) + BUILD,
    "array beyond its bytes": ARRAY + t(n(1), t(n(1 << 20)), FLOAT, b"\x89", raw(bytes(8))) + BUILD,
    "negative array": ARRAY + t(n(1), t(n(-1), n(-1)), FLOAT, b"\x89", raw(bytes(8))) + BUILD,
    "array that overflows": ARRAY + t(n(1), t(n(1 << 62), n(4)), FLOAT, b"\x89", raw(b"")) + BUILD,
    "array filled twice": ARRAY + t(n(1), t(n(1)), FLOAT, b"\x89", raw(bytes(8))) + put(1) + BUILD + get(1) + BUILD,
    "tensor beyond its storage": call(
        "torch._utils._rebuild_tensor_v2", STORAGE, n(0), t(n(5)), t(n(1)), b"\x89", b"}"
    ),
    "tensor by strides": call("torch._utils._rebuild_tensor_v2", STORAGE, n(0), t(n(2)), t(n(4)), b"\x89", b"}"),
    "tensor before its storage": call("torch._utils._rebuild_tensor_v2", STORAGE, n(-1), t(n(1)), t(n(1)), TRUE, b"}"),
    "tensor of an instance": call("torch._utils._rebuild_tensor_v2", evil_instance(), n(0), t(n(1)), t(n(1)), TRUE),
    "tensor with metadata": call(
        "torch._utils._rebuild_tensor_v2", STORAGE, n(0), t(n(1)), t(n(1)), b"\x89", b"}", d(conj=TRUE)
    ),
    "storage of another size": t(s("storage"), g("torch.FloatStorage"), s("0"), s("cpu"), n(1 << 20)) + b"Q",
    "negative storage": t(s("storage"), g("torch.FloatStorage"), s("0"), s("cpu"), n(-4)) + b"Q",
    "storage elsewhere": t(s("storage"), g("torch.FloatStorage"), s("../data.pkl"), s("cpu"), n(4)) + b"Q",
    "storage of an instance": t(s("storage"), evil_instance(dtype=NONE), s("0"), s("cpu"), n(4)) + b"Q",
    "as many elements as one likes": ARRAY
    + t(n(1), t(n(1 << 62)), call("numpy.dtype", s("S0"), b"\x89", TRUE), b"\x89", raw(b"")) + BUILD,
    "array interface of a parameter": call(
        "torch._utils._rebuild_parameter_with_state",
        call("torch._utils._rebuild_tensor_v2", STORAGE, n(0), t(n(4)), t(n(1)), b"\x89", b"}"),
        TRUE, b"}", d(__array_interface__=n(1)),
    ),
    "method of a parameter": call(
        "torch._utils._rebuild_parameter_with_state",
        call("torch._utils._rebuild_tensor_v2", STORAGE, n(0), t(n(4)), t(n(1)), b"\x89", b"}"),
        TRUE, b"}", d(to=n(1)),
    ),
    "wrapped hook": blank("torch.nn.modules.module._WrappedHook")
    + d(hook=g("builtins.dict"), with_module=b"\x89") + BUILD,
    "configuration of a class": blank("omegaconf.listconfig.ListConfig")
    + d(_metadata=g("torch.nn.modules.activation.GELU")) + BUILD,
    "matrix without arrays": blank("scipy.sparse._csr.csr_matrix")
    + d(_shape=t(n(3), n(3)), indices=ARRAY, indptr=ARRAY, data=ARRAY) + BUILD,
    "another reference": t(s("module"), s("os")) + b"Q",
}  # fmt: skip


class Record:
    """What stands for torch's archive: one record of four numbers."""

    def persistent_load(self, stored: tuple[Any, ...]) -> Any:
        return torch.zeros(4).storage()


def unpickle(content: bytes) -> Any:
    """Unpickle as `torch.load` does."""
    ensure_flash_attention()
    base = pickle_module(sizes={"data/0": 16}).Unpickler

    class Wrapper(base):  # type: ignore[misc, valid-type]
        def find_class(self, module: str, name: str) -> Any:
            if type(name) is str and "Storage" in name:
                return torch.serialization.StorageType(name)
            return super().find_class(module, name)

    unpickler = Wrapper(io.BytesIO(content), encoding="utf-8")
    unpickler.persistent_load = lambda stored: torch.zeros(4).storage()
    return unpickler.load()


@pytest.fixture(autouse=True)
def extension() -> Any:
    """A registered extension code, as any package might have one: its name would be found without being asked for."""
    copyreg.add_extension("os", "system", 0xF0)
    copyreg._extension_cache[0xF0] = os.system  # type: ignore[attr-defined]
    yield
    copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_refused(attack: str) -> None:
    from anemoi.models.data_indices.index import DataIndex

    before = dict(vars(DataIndex)), DataIndex.__bases__, dict(vars(torch.nn.GELU)), dict(vars(torch.nn.Linear))
    with pytest.raises((CheckpointError, pickle.UnpicklingError)) as caught:
        unpickle(PROTO + ATTACKS[attack] + END)
    assert "\n" not in str(caught.value)
    assert before == (
        dict(vars(DataIndex)), DataIndex.__bases__, dict(vars(torch.nn.GELU)), dict(vars(torch.nn.Linear))
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_the_parts_that_attacks_are_made_of_are_sound_ones() -> None:
    """The same instructions without the harm load: what is refused above is refused for it."""
    module = unpickle(PROTO + evil_instance(training=TRUE) + END)
    assert type(module) is torch.nn.Identity
    array = unpickle(PROTO + ARRAY + t(n(1), t(n(1)), FLOAT, b"\x89", raw(bytes(8))) + BUILD + END)
    np.testing.assert_array_equal(array, [0.0])
    objects = unpickle(PROTO + ARRAY + t(n(1), t(n(2)), OBJECT, b"\x89", b"](NNe") + BUILD + END)
    assert objects.tolist() == [None, None]
    view = call("torch._utils._rebuild_tensor_v2", STORAGE, n(1), t(n(3)), t(n(1)), b"\x89", b"}")
    assert unpickle(PROTO + view + END).shape == (3,)
    assert unpickle(PROTO + call("collections.defaultdict", g("builtins.dict")) + END) == {}
    factory = unpickle(PROTO + PARTIAL + t(g(LINEAR), t(), d(bias=b"\x89"), NONE) + BUILD + END)
    assert (factory.layer, factory.keywords, callable(factory)) == (torch.nn.Linear, {"bias": False}, False)
    assert unpickle(PROTO + KERNEL_METHOD + END) is KERNEL and not callable(KERNEL)
    union = call("_operator.getitem", g("typing.Union"), t(g("builtins.int"), g("builtins.str")))
    assert unpickle(PROTO + union + END) == int | str


def test_what_is_named_but_not_called_is_inert() -> None:
    """A class of the network or a rebuilder that ends up in the data cannot be called by whatever finds it there."""
    for name in (
        "anemoi.models.interface.AnemoiModelInterface",
        "torch.nn.modules.container.ModuleDict",
        "torch._utils._rebuild_tensor_v2",
        "builtins.getattr",
        "_operator.getitem",
        "numpy.ndarray",
        "copyreg._reconstructor",
        "functools.partial",
        KERNEL_CLASS,
        "omegaconf.dictconfig.DictConfig",
    ):
        found = unpickle(PROTO + b"]" + g(name) + b"a" + END)[0]
        assert not callable(found), name


SPARSE = [
    torch.sparse_coo_tensor([[0, 7]], [1.0, 2.0], (4,), check_invariants=False),
    torch.sparse_csr_tensor([0, 1, 2], [0, 9], [1.0, 2.0], (2, 2), check_invariants=False),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tensor", SPARSE, ids=["coo", "csr"])
def test_indices_beyond_a_sparse_tensor(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save(tensor, tmp_path / "s.pt")
    with pytest.raises(RuntimeError, match="ind"):
        torch.load(tmp_path / "s.pt", weights_only=False, pickle_module=pickle_module())


@pytest.mark.parametrize("kind", ["csr", "coo"])
def test_indices_beyond_a_sparse_matrix(kind: str, tmp_path: Path) -> None:
    import scipy.sparse

    matrix = getattr(scipy.sparse, f"{kind}_matrix")(np.eye(3))
    torch.save(matrix, tmp_path / "m.pt")
    sound = torch.load(tmp_path / "m.pt", weights_only=False, pickle_module=pickle_module())
    np.testing.assert_array_equal(sound.toarray(), np.eye(3))
    (matrix.indices if kind == "csr" else matrix.coords[0])[1] = 99
    torch.save(matrix, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="refused: a sparse matrix"):
        torch.load(tmp_path / "m.pt", weights_only=False, pickle_module=pickle_module())


def escape(command: str) -> bytes:
    """Return the pickle that ran a shell command by allowed names only: bases of a class, a lie, a builder."""
    target = d(
        _target_=s("builtins.dict"),
        x=d(
            _target_=s("numpy.testing._private.utils.runstring"),
            astr=s(f"import os; os.system({command!r})"),
            dict=b"}",
        ),
    )
    config = call("anemoi.utils.config.DotDict", d(data=d(processors=d(a=target)), model=d(model=b"}"), training=b"}"))
    parts = ("_modules", "_parameters", "_buffers", "_forward_pre_hooks", "_forward_hooks")
    fields = dict.fromkeys(("data_indices", "statistics", "graph_data", "truncation_data"), NONE)
    return (
        PROTO
        + g(f"{INDEX}.DataIndex")
        + t(NONE, d(__bases__=t(g(f"{INDEX}.BaseIndex"), g("anemoi.models.interface.AnemoiModelInterface"))))
        + BUILD + POP
        + g("copyreg._reconstructor") + t(g(f"{INDEX}.DataIndex"), g("builtins.object"), NONE) + REDUCE + put(5)
        + d(config=config, __module__=s("typing"), **fields, **dict.fromkeys(parts, b"}")) + BUILD + POP
        + call("_operator.getitem", get(5), s("_build_model")) + t() + REDUCE + END
    )  # fmt: skip


def with_records(original: Path, to: Path, **records: bytes) -> Path:
    """Copy a checkpoint with records replaced or added; dots in their names are written as two underlines."""
    changed = {name.replace("__", "."): content for name, content in records.items()}
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(to, "w") as target:
        root = source.namelist()[0].split("/")[0]
        for name in source.namelist():
            target.writestr(name, changed.pop(name.split("/", 1)[1], None) or source.read(name))
        for name, content in changed.items():
            target.writestr(f"{root}/{name}", content)
    return to


def test_a_shell_command_by_allowed_names(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    path = with_records(demo_path, tmp_path / "evil.ckpt", data__pkl=escape(f"touch {tmp_path / 'ran'}"))
    with pytest.raises(CheckpointError, match=r"evil\.ckpt: refused: "):
        load_model(path, demo, device="cpu", trust=True)
    assert not (tmp_path / "ran").exists()


class Scripted(torch.nn.Module):
    """A module that writes a file when TorchScript loads it."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.zeros(4)

    def forward(self, y: torch.Tensor):
        return y

    @torch.jit.export
    def __getstate__(self):
        return (self.x, True)

    @torch.jit.export
    def __setstate__(self, s: tuple[torch.Tensor, bool]):
        self.x = s[0]
        self.training = s[1]
        torch.save(torch.ones(3), "torchscript_wrote_this")


@pytest.mark.filterwarnings("ignore")
def test_an_archive_of_torchscript(
    demo: Model, demo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(Scripted()), "archive.ckpt")
    with zipfile.ZipFile(demo_path) as sound, zipfile.ZipFile("archive.ckpt", "a") as bad:
        root = bad.namelist()[0].split("/")[0]
        for name in sound.namelist():
            if "anemoi-metadata" in name:
                bad.writestr(f"{root}/{name.split('/', 1)[1]}", sound.read(name))
    with pytest.raises(CheckpointError, match="a TorchScript archive"):
        load_model(tmp_path / "archive.ckpt", demo, device="cpu", trust=True)
    assert not (tmp_path / "torchscript_wrote_this").exists()
    torch.load("archive.ckpt", weights_only=False)  # what torch does with it
    assert (tmp_path / "torchscript_wrote_this").exists()


def test_archives_that_two_readers_may_see_differently(demo_path: Path, tmp_path: Path) -> None:
    assert plain_records(demo_path)["data.pkl"] > 0
    content = demo_path.read_bytes()
    path = tmp_path / "c.ckpt"
    with_records(demo_path, path, code__py=b"")
    plain_records(path)
    for name in ("constants.pkl", "CONSTANTS.PKL", "code/x.py"):
        with_records(demo_path, path, **{name: b""})
        with pytest.raises(CheckpointError, match="TorchScript"):
            plain_records(path)
    path.write_bytes(content + b"after")
    with pytest.raises(CheckpointError, match=r"bytes before or after|truncated"):
        plain_records(path)
    path.write_bytes(content[:-22] + content[-22:-2] + b"\x05\x00after")
    with pytest.raises(CheckpointError, match="bytes before or after"):
        plain_records(path)
    path.write_bytes(b"PK\x03\x04before" + content)
    with pytest.raises(CheckpointError, match="bytes before or after"):
        plain_records(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("b/data.pkl", b"")
    with pytest.raises(CheckpointError, match="several folders"):
        plain_records(path)
