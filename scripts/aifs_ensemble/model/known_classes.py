"""The classes of anemoi-models for which the accelerated pass stands in, told by their source.

Later versions keep names and change arithmetic: in 0.11 the model's inputs are put together in another order. So the
accelerated pass is used with known versions only, and where the source of every class that it replaces is known. The
adapter of each form (`network_0_6`, `network_0_11`) lists them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from aifs_ensemble.model.forms import installed_version, network_class, unknown_version

if TYPE_CHECKING:
    from aifs_ensemble.model.network import Network

PACKAGE = "anemoi.models"


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


def replaced_classes(interface: Any, network: Network) -> list[type]:
    """Return the classes of anemoi-models whose work is done in place of an interface's model, bases included."""
    model = interface.model

    def modules() -> Iterator[Any]:
        yield from (interface, model, getattr(model, "node_attributes", None))
        yield from network.replaced()
        for part in (model.encoder, model.processor, model.decoder):
            yield from part.modules()

    kinds = [getattr(module, "stands_for", type(module)) for module in modules()]
    found = {kind for one in kinds for kind in one.__mro__ if kind.__module__.startswith(PACKAGE)}
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def unknown_class(interface: Any) -> str:
    """Return which class of an interface and its model is not as the accelerated pass knows it, empty if none.

    Raises NotAcceleratedError where the installed version has no form that is known.
    """
    network = network_class()(interface.model)
    for kind in replaced_classes(interface, network):
        known = network.classes.get(kind.__module__.removeprefix(f"{PACKAGE}."), {}).get(kind.__qualname__)
        if known is None:
            return f"{kind.__module__}.{kind.__qualname__} is not a class that the accelerated pass is written for"
        try:
            found = class_digest(kind)
        except (OSError, TypeError, SyntaxError) as error:
            return f"the source of {kind.__module__}.{kind.__qualname__} cannot be read ({error})"
        if found not in known:
            return (
                f"{kind.__module__}.{kind.__qualname__} of anemoi-models {installed_version()} has the source {found}, "
                f"the accelerated pass is written for {' or '.join(known)} ({network.read_versions})"
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
