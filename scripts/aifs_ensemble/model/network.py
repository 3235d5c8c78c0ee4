"""What the accelerated pass reads of a model: one description of a network, whichever anemoi-models made it.

Encoder, decoder and the layers of the processor have parts of the same names in either form of anemoi-models. What
differs is where the rest is: an adapter for each form, `network_0_6` and `network_0_11`, reads it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor


class NotAcceleratedError(Exception):
    """The accelerated pass does not know a part of the model; the caller uses the model's own forward."""


@dataclass(frozen=True)
class Places:
    """Columns of the assembled input, in which the variables of all times come first.

    Attributes
    ----------
    attributes : first column of the data nodes' attributes
    step : column that says whether it is the first step
    skip : first column of the skip connection, None where the network does not read it
    inputs : columns that the network reads
    """

    attributes: int
    step: int
    skip: int | None
    inputs: int


class Network(ABC):
    """The parts of an ``AnemoiEnsModelEncProcDec``.

    Each is read when it is asked for. So what a model lacks is an AttributeError then, which `supported` puts down to
    the part.

    Attributes
    ----------
    classes : by module and class, digests of the sources that stand behind this form, for `known_classes`
    read_versions : those that were read, in words
    """

    classes: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]]
    read_versions: ClassVar[str]

    def __init__(self, model: Any):
        self.model = model

    # the same in either form

    @property
    def encoder(self) -> Any:
        return self.model.encoder

    @property
    def decoder(self) -> Any:
        return self.model.decoder

    @property
    def points(self) -> int:
        """Number of data nodes."""
        return int(self.model.node_attributes.num_nodes[self.model._graph_name_data])

    @property
    def hidden_nodes(self) -> int:
        """Number of hidden nodes."""
        return int(self.model.node_attributes.num_nodes[self.model._graph_name_hidden])

    @property
    def data(self) -> Tensor:
        """Attributes of the data nodes, ``(nodes, attributes)``."""
        return self.model.node_attributes(self.model._graph_name_data, batch_size=1)  # type: ignore[no-any-return]

    @property
    def hidden(self) -> Tensor:
        """Attributes of the hidden nodes, ``(nodes, attributes)``."""
        return self.model.node_attributes(self.model._graph_name_hidden, batch_size=1)  # type: ignore[no-any-return]

    @property
    def prognostic_in(self) -> Sequence[int]:
        """Places of the prognostic variables among those that are read."""
        return self.model._internal_input_idx  # type: ignore[no-any-return]

    @property
    def prognostic_out(self) -> Sequence[int]:
        """Their places among those that are made."""
        return self.model._internal_output_idx  # type: ignore[no-any-return]

    @property
    def boundings(self) -> Any:
        """What keeps the output within bounds, one after another, in place."""
        return self.model.boundings

    @property
    def noise_injector(self) -> Any:
        return self.model.noise_injector

    @property
    def _columns(self) -> tuple[int, int, int]:
        """Numbers of columns of the input: variables of all times, attributes of the nodes, skip connection."""
        variables = int(self.model.multi_step) * len(self.model.data_indices.model.input)
        attributes = int(self.model.node_attributes.attr_ndims[self.model._graph_name_data])
        return variables, attributes, len(self.prognostic_in)

    def edges(self, mapper: Any) -> tuple[Tensor, Tensor]:
        """Return the edges of a mapper, ``(2, edges)`` source and destination, and their ``(edges, attributes)``."""
        return mapper.edge_index_base, mapper.trainable(mapper.edge_attr, 1)

    # what each form has elsewhere

    @property
    @abstractmethod
    def layers(self) -> list[Any]:
        """The layers of the processor."""

    @abstractmethod
    def query_key_value(self, layer: Any) -> tuple[Any, ...]:
        """Return the linear layers whose outputs, one after another, are queries, keys and values."""

    @property
    @abstractmethod
    def places(self) -> Places:
        """Where what is in the assembled input."""

    @property
    @abstractmethod
    def skip_kind(self) -> str:
        """The class of the skip connection, empty where it is none."""

    @property
    @abstractmethod
    def skip_time(self) -> int:
        """Which time of the input is passed on."""

    @property
    @abstractmethod
    def skip_matrices(self) -> list[Tensor]:
        """The sparse matrices that the skip connection passes through, in order."""

    @property
    @abstractmethod
    def noise_matrix(self) -> Tensor | None:
        """Sparse ``(hidden nodes, points)`` by which noise is spread, None where it is drawn at the hidden nodes."""

    @abstractmethod
    def replaced(self) -> Iterator[Any]:
        """Yield the parts, besides mappers and processor, whose work the accelerated pass does."""

    @staticmethod
    @abstractmethod
    def entrance(interface: Any) -> Any:
        """Return the part of an interface whose ``forward`` its ``predict_step`` calls."""
