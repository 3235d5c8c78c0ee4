"""What a network consists of: read from its pickle without running it, or from the training configuration.

Names of attributes are those of anemoi-models 0.5 to 0.11. What another version keeps elsewhere is left out here, and
reads "not told" in a table: nothing is guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from aifs_ensemble.model.checkpoint.inert import Inert, modules, plain, shape_of

# Where a training configuration has what; several places for several versions.
_CONFIGURED = {
    "model class": ("model.model._target_",),
    "layers": ("model.processor.num_layers",),
    "channels": ("model.num_channels",),
    "heads": ("model.processor.num_heads",),
    "attention": ("model.processor.attention_implementation",),
    "window": ("model.processor.window_size",),
    "qk norm": ("model.processor.qk_norm",),
    "softcap": ("model.processor.softcap",),
    "alibi slopes": ("model.processor.use_alibi_slopes",),
    "noise": ("model.noise_injector._target_",),
    "noise channels": ("model.noise_injector.noise_channels_dim",),
    "truncation": ("model.residual._target_", "hardware.files.truncation", "model.truncation"),
    "trainable parts": ("model.trainable_parameters",),
    "boundings": ("model.bounding",),
    "processors": ("data.processors",),
}


def octahedral(points: int) -> str:
    """Return the name of the octahedral grid with that many points, such as ``O96``; empty when there is none."""
    number = (math.isqrt(81 + points) - 9) // 2
    return f"O{number}" if points > 0 and 4 * number * (number + 9) == points else ""


def _points(count: Any) -> str:
    if not isinstance(count, int):
        return "not told"
    name = octahedral(count)
    return f"{count:,} points" + (f" ({name})" if name else "")


def _blocks(model: Inert) -> list[Inert]:
    """Return the processor's layers: its modules that attend or convolve, whatever they are grouped in."""
    return [module for module in modules(model.get("processor")) if module.kind.endswith("Block")]


def _told(value: Any) -> Any:
    return plain(value) if not isinstance(value, Inert) else value.kind


def _processor(model: Inert) -> dict[str, Any]:
    blocks = _blocks(model)
    first = blocks[0] if blocks else None
    attention = first.find("attention") if first else None
    facts: dict[str, Any] = {
        "processor": f"{model.get('processor')!r}".strip("<>").rpartition(".")[2] if model.get("processor") else None,
        "layers": len(blocks) or None,
        "channels": model.get("num_channels"),
    }
    if not isinstance(attention, Inert):
        return facts | {"heads": first.get("num_heads") if first else None}
    heads, width = attention.get("num_heads"), attention.get("head_dim")
    return facts | {
        "heads": heads,
        "head width": width,
        "attention": attention.get("attention_implementation"),
        "window": attention.get("window_size"),
        "qk norm": attention.get("qk_norm"),
        "softcap": _told(attention.get("softcap")) or "none",
        "alibi slopes": bool(attention.get("use_alibi_slopes")),
        "layer norm": _told(first.get("layer_norm_attention")) if first else None,
    }


def _noise(model: Inert) -> dict[str, Any]:
    injector = model.get("noise_injector")
    if not isinstance(injector, Inert):
        return {"noise": "none"}
    hidden = next((m.get("out_features") for m in modules(injector) if m.kind == "Linear"), None)
    folded = isinstance(injector.get("projection"), Inert)
    spread = injector.find("noise_projector", "projection_matrix")
    drawn = shape_of(spread)
    return {
        "noise": f"{injector.kind}, standard deviation {injector.get('noise_std')}, MLP {hidden}"
        + (f", drawn at {_points(drawn[1])} and spread by {_entries(spread) or 'unknown'} weights" if drawn else "")
        + (", folded into the channels" if folded else "")
        + ("" if injector.get("inject_noise", True) else ", switched off"),
        "noise channels": injector.get("noise_channels"),
    }


def _entries(matrix: Any) -> int | None:
    """Return the number of entries that a pickled sparse tensor holds."""
    if not isinstance(matrix, Inert) or len(matrix.arguments) < 2:
        return None
    values = shape_of(matrix.arguments[1][1]) or shape_of(matrix.arguments[1][2])
    return values[-1] if values else None


def _truncation(model: Inert) -> str:
    residual = model.get("residual")  # from 0.7 on
    down, up = model.get("A_down"), model.get("A_up")
    if isinstance(residual, Inert):
        down, up = (residual.find(f"project_{way}", "projection_matrix") for way in ("down", "up"))
    ways = []
    for way, matrix in (("down", down), ("up", up)):
        shape = shape_of(matrix)
        if shape:
            ways.append(f"{way} {_points(shape[1])} to {_points(shape[0])}, {_entries(matrix) or 'unknown'} weights")
        elif matrix is not None:
            ways.append(f"{way} ({_told(matrix)})")
    if not ways and isinstance(residual, Inert):
        return residual.kind
    return "; ".join(ways) or "none"


def _trainable(value: Any) -> int:
    """Return how many trainable numbers a node or edge has."""
    shape = shape_of(value.get("trainable")) if isinstance(value, Inert) else None
    return shape[-1] if shape else 0


def _graph(model: Inert) -> dict[str, Any]:
    nodes = model.find("node_attributes", "num_nodes")
    nodes = nodes if isinstance(nodes, Mapping) else {}
    hidden = nodes.get(model.get("_graph_name_hidden", "hidden"))
    edges, trainable, attending = [], {}, set()
    for name in ("encoder", "decoder"):
        mapper = model.get(name)
        if not isinstance(mapper, Inert):
            continue
        shape, attributes = shape_of(mapper.get("edge_index_base")), shape_of(mapper.get("edge_attr"))
        if shape:
            edges.append(f"{name} {shape[1]:,}" + (f" with {attributes[1]} attributes" if attributes else ""))
        trainable[f"{name} edges"] = _trainable(mapper.get("trainable"))
        attending.add(mapper.find("proc", "graph_attention_backend"))
    tensors = model.find("node_attributes", "trainable_tensors")
    for name, part in tensors.parts.items() if isinstance(tensors, Inert) else ():
        trainable[f"{name} nodes"] = _trainable(part)
    return {
        "hidden grid": _points(hidden),
        "edges": "; ".join(edges) or None,
        **({"edges by": " and ".join(sorted(attending))} if attending - {None} else {}),
        "trainable parts": ", ".join(f"{name} {count or 'none'}" for name, count in trainable.items()) or None,
    }


def _variables(value: Any) -> str:
    names = plain(value)
    return " ".join(map(str, names)) if isinstance(names, list) else "not told"


def _boundings(model: Inert) -> list[str]:
    """Return what each bounding is, in the order in which they are applied."""
    told = []
    parts = model.get("boundings")
    for bounding in parts.parts.values() if isinstance(parts, Inert) else ():
        limits = [str(plain(bounding.get(key))) for key in ("min_val", "max_val") if bounding.get(key) is not None]
        limits = [limit for limit in limits if not limit.startswith("[")]
        told.append(
            f"{bounding.kind}{' ' + '..'.join(limits) if limits else ''}: {_variables(bounding.get('variables'))}"
        )
    return told or ["none"]


def _preprocessors(interface: Inert) -> dict[str, Any]:
    found = interface.find("pre_processors", "processors")
    parts = list(found.parts.values()) if isinstance(found, Inert) else []
    normal, imputers, others = [], [], []
    for part in parts:
        if "Normalizer" in part.kind:
            methods = plain(part.get("methods"))
            counts = Counter(methods.values()) if isinstance(methods, dict) else Counter()
            listed = [f"{method} {count}" for method, count in sorted(counts.items(), key=str)]
            remap = plain(part.get("remap")) or {}
            normal.append(
                f"{part.kind}: {part.get('default')} but for " + (", ".join(listed) or "none")
                + (f"; scaled as {', '.join(f'{k} as {v}' for k, v in remap.items())}" if remap else "")
            )  # fmt: skip
        elif "Imputer" in part.kind:
            methods = plain(part.get("methods"))
            what = " ".join(map(str, methods)) if isinstance(methods, dict) else ""
            imputers.append(f"{part.kind}" + (f": {what}" if what else ""))
        else:
            others.append(part.kind)
    return {"normaliser": normal or None, "imputers": imputers or "none", "other processors": others or "none"}


def _parameters(interface: Inert) -> int:
    """Return how many numbers were trained."""
    found = {
        id(value): math.prod(shape_of(value) or (0,))
        for module in modules(interface)
        for value in (module.state.get("_parameters") or {}).values()
        if isinstance(value, Inert)
    }
    return sum(found.values())


def anatomy(interface: Inert) -> dict[str, Any]:
    """Return what a pickled `AnemoiModelInterface` consists of, by name; None where this is not told."""
    model = interface.get("model")
    if not isinstance(model, Inert):
        return {"model class": f"{interface.kind}, expected an AnemoiModelInterface with a model in it"}
    return {
        "model class": type(model).full_name,
        "parameters": f"{_parameters(interface) / 1e6:,.1f} M",
        **_processor(model),
        **_noise(model),
        "truncation": _truncation(model),
        **_graph(model),
        **_preprocessors(interface),
        "boundings": _boundings(model),
    }


def _under(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _short(value: Any) -> Any:
    """Return an entry of a configuration in a few words: lists and mappings of targets by their classes' names."""
    if isinstance(value, Mapping):
        return {key: _short(item) if not isinstance(item, Mapping) else _target(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_target(item) if isinstance(item, Mapping) else item for item in value]
    return value


def _target(item: Mapping[str, Any]) -> str:
    name = str(item.get("_target_", "")).rpartition(".")[2] or ", ".join(map(str, item))
    variables = item.get("variables")
    return f"{name}: {' '.join(map(str, variables))}" if isinstance(variables, Iterable) and variables else name


def anatomy_configured(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same from a training configuration, as far as it says; empty where it says nothing of a network."""
    found = {}
    for name, places in _CONFIGURED.items():
        value = next((value for place in places if (value := _under(config, place)) is not None), None)
        if value is not None:
            found[name] = _short(value)
    return found
