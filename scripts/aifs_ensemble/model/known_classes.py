"""The classes of anemoi-models for which the accelerated pass stands in, told by their source.

Later versions keep names and change arithmetic: in 0.11 the model's inputs are put together in another order. So the
accelerated pass is used with known versions only, and where the source of every class that it replaces is known.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any

PACKAGE = "anemoi.models"
VERSIONS = ("0.5", "0.6")

# By module and class, digests of the sources that the accelerated pass was written for. The first is of 0.6.0, which
# is installed, a second of 0.5.1, which was read beside it: the same numbers come out (parts of the block became
# methods of their own, arguments are passed by name). 0.5.0 has none where it differs: its `predict_step` loses
# `fcstep`, without which no step can be made.
KNOWN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "interface": {
        "AnemoiModelInterface": ("92d5e946b2bd8f51",),
    },
    "layers.attention": {
        "FlashAttentionWrapper": ("d7ecc6a8c83d4b2f",),
        "MultiHeadSelfAttention": ("81ac43de2b0f2dff",),
        "SDPAAttentionWrapper": ("ec42ef4c705103dc",),
    },
    "layers.block": {
        "BaseBlock": ("5c43658be4e8b5c1",),
        "GraphTransformerBaseBlock": ("c203409b04369f0a", "61a3f592e4e73de0"),
        "GraphTransformerMapperBlock": ("48187c0fcab0f301", "811def75af4fb680"),
        "TransformerProcessorBlock": ("1d367eba0d87312b",),
    },
    "layers.chunk": {
        "BaseProcessorChunk": ("d22cffd9a80b605c",),
        "TransformerProcessorChunk": ("189a037384a027e9",),
    },
    "layers.conv": {
        "GraphTransformerConv": ("1259526f4e4e255d",),
    },
    "layers.ensemble": {
        "NoiseConditioning": ("72135442bc33bd80",),
        "NoiseInjector": ("dbe8aa27d1fcf421",),
    },
    "layers.graph": {
        "NamedNodesAttributes": ("29b4939904ac6c09",),
        "TrainableTensor": ("326d9ca496c1709d",),
    },
    "layers.mapper": {
        "BackwardMapperPostProcessMixin": ("30593eef1f9f2ffa",),
        "BaseMapper": ("9574d06cb4784143",),
        "ForwardMapperPreProcessMixin": ("a24a8dadff29f085",),
        "GraphEdgeMixin": ("b0f0b25bb52e6eb3",),
        "GraphTransformerBackwardMapper": ("d5a65321f7b05a1d",),
        "GraphTransformerBaseMapper": ("4248a89f387ee86b", "008400b0793f8d9d"),
        "GraphTransformerForwardMapper": ("c339363916f072cd",),
    },
    "layers.normalization": {
        "AutocastLayerNorm": ("771c7620f5d31bd6",),
        "ConditionalLayerNorm": ("edfacd542385c506",),
    },
    "layers.processor": {
        "BaseProcessor": ("f7ea56741371a13d",),
        "TransformerProcessor": ("6183f0678b0af1e7",),
    },
    "models.encoder_processor_decoder": {
        "AnemoiModelEncProcDec": ("7e6676ea70b0f71a",),
    },
    "models.ens_encoder_processor_decoder": {
        "AnemoiEnsModelEncProcDec": ("8324e29f3eeecd12",),
    },
}


def source_digest(source: str) -> str:
    """Return a digest of a class by its source text: without docstrings, lines of comment and blank lines."""
    source = textwrap.dedent(source)
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            for number in range(text.lineno - 1, text.end_lineno or text.lineno):
                lines[number] = ""
    kept = [line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


@cache
def class_digest(kind: type) -> str:
    """Return a digest of a class by its source; OSError or TypeError where there is none to read."""
    return source_digest(inspect.getsource(kind))


def installed_version() -> str:
    """Return the version of anemoi-models that is installed, ``none`` without it."""
    try:
        return metadata.version("anemoi-models")
    except metadata.PackageNotFoundError:
        return "none"


def unknown_version(version: str) -> str:
    """Return why a version of anemoi-models is not accelerated, empty if it is."""
    if any(version == known or version.startswith(f"{known}.") for known in VERSIONS):
        return ""
    return f"anemoi-models {version} is installed, the accelerated pass is written for {' and '.join(VERSIONS)}"


def replaced_classes(interface: Any) -> list[type]:
    """Return the classes of anemoi-models whose work is done in place of an interface's model, bases included."""
    model = interface.model

    def modules() -> Iterator[Any]:
        yield from (interface, model)
        for name in ("noise_injector", "node_attributes"):
            yield getattr(model, name, None)
        for part in (model.encoder, model.processor, model.decoder):
            yield from part.modules()

    found = {kind for module in modules() for kind in type(module).__mro__ if kind.__module__.startswith(PACKAGE)}
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def unknown_class(interface: Any) -> str:
    """Return which class of an interface and its model is not as the accelerated pass knows it, empty if none."""
    for kind in replaced_classes(interface):
        known = KNOWN.get(kind.__module__.removeprefix(f"{PACKAGE}."), {}).get(kind.__qualname__)
        if known is None:
            return f"{kind.__module__}.{kind.__qualname__} is not a class that the accelerated pass is written for"
        try:
            found = class_digest(kind)
        except (OSError, TypeError, SyntaxError) as error:
            return f"the source of {kind.__module__}.{kind.__qualname__} cannot be read ({error})"
        if found not in known:
            return (
                f"{kind.__module__}.{kind.__qualname__} of anemoi-models {installed_version()} has the source {found}, "
                f"the accelerated pass is written for {' or '.join(known)} (0.5.1, 0.6.0)"
            )
    return ""


def why_not_accelerated(interface: Any) -> str:
    """Return all that keeps the accelerated forward pass from standing in for a loaded model's own, empty if nothing.

    It is built as a GPU job builds it, on the model's device, and given up.
    """
    import torch

    from aifs_ensemble.model.accelerated import AcceleratedForward, NotAcceleratedError

    if reason := unknown_version(installed_version()):
        return reason
    try:
        if reason := unknown_class(interface):
            return reason
        AcceleratedForward(interface.model, torch.float16, compiled=False)
    except NotAcceleratedError as reasons:
        return str(reasons)
    except Exception as error:  # a part that it knows by name and not by what is in it: a job falls back, too
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""
