"""What an adapter can say about a module: `Units`, `Projection` or `Concatenation`."""

from collections.abc import Mapping

import msgspec


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """A module whose inner width consists of equal units, such as the heads of an attention.

    Unit ``i`` of ``count`` is the i-th of as many equal runs of whatever the layers produce and read, and the module
    keeps its first units. The module's own ``forward`` is what runs, narrowed or not; it must treat units alike and
    sum over nothing but one unit's own channels. Names are relative to the module.

    Example: the heads of an attention with a fused ``qkv``, whose forward reshapes by ``num_heads``::

        Units(count=12, produced_by={"qkv": 3}, read_by=("proj",), attributes=("num_heads",))
    """

    count: int
    produced_by: Mapping[str, int]
    """Layers whose outputs the units are, and of how many projections, one after the other, each of them consists."""
    read_by: tuple[str, ...]
    """Layers whose inputs the units are."""
    attributes: tuple[str, ...] = ()
    """Whole numbers that the forward computes shapes from and that must shrink with the units: multiples of them."""


class Projection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A layer that computes ``x W + b`` on the last dimension, of a class that torch does not know.

    Its parameters are called ``weight`` and ``bias`` (which may be None).

    Example: Hugging Face's ``Conv1D``, which reshapes its result by ``nf``::

        Projection(transposed=True, counts_outputs=("nf",), counts_inputs=("nx",))
    """

    transposed: bool = False
    """Whether the weight is (inputs, outputs); `nn.Linear` has (outputs, inputs)."""
    counts_outputs: tuple[str, ...] = ()
    """Attributes that hold the number of outputs."""
    counts_inputs: tuple[str, ...] = ()
    """Attributes that hold the number of inputs."""


class Concatenation(msgspec.Struct, frozen=True, kw_only=True):
    """A module that answers with its input, or what else it begins with, and after it the outputs of its parts.

    Its last parts may be left out: they answer with nothing, and what reads the module's output reads less of it, a
    leading part. So they need not be next to each other in the module, but no part may read a later one.

    Example: a dense block of a DenseNet::

        Concatenation(parts=("denselayer1", "denselayer2", "denselayer3"))
    """

    parts: tuple[str, ...]
    """Modules whose outputs are joined, in order; relative to the module."""
    dim: int = 1
    """The dimension along which they are."""


Adaptation = Units | Projection | Concatenation
