"""WeightSlice for linear layers, embeddings and layer normalisation."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from superserve.supernet.operators.slot import Slot, WeightSlice, owned


class SlicedWeight(NamedTuple):
    """The leading part of a layer's weight and bias, as views."""

    weight: Tensor
    bias: Tensor | None


class SlicedLinear(nn.Linear, WeightSlice[SlicedWeight]):
    """WeightSlice for a linear layer: the leading outputs and inputs of one matrix and bias.

    Attention heads are the leading ``heads * head width`` outputs of q, k and v and inputs of o; the neurons of an
    MLP (gated or not) the leading outputs of its first matrices and inputs of its last.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.slot = Slot[SlicedWeight]()

    def bind(self, outputs: int, inputs: int) -> SlicedWeight:
        """Views of the leading ``outputs`` x ``inputs`` part and of the leading ``outputs`` biases."""
        # torch's stub calls the bias a Tensor; without one it is None.
        bias: Tensor | None = self.bias
        return SlicedWeight(self.weight[:outputs, :inputs], None if bias is None else bias[:outputs])

    def extract(self, outputs: int, inputs: int) -> nn.Linear:
        """See `WeightSlice.extract`."""
        weight, bias = self.bind(outputs, inputs)
        plain = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
        plain.weight = owned(weight)
        if bias is not None:
            plain.bias = owned(bias)
        return plain

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        weight, bias = self.slot.value
        return functional.linear(x, weight, bias)


class SlicedEmbedding(nn.Embedding, WeightSlice[Tensor]):
    """WeightSlice for an embedding: the leading columns of the table; outputs are its width, inputs its symbols."""

    def __init__(self, symbols: int, width: int, *, padding_idx: int | None = None) -> None:
        super().__init__(symbols, width, padding_idx=padding_idx)
        self.slot = Slot[Tensor]()

    def bind(self, outputs: int, inputs: int) -> Tensor:
        """A view of the leading ``outputs`` columns of the leading ``inputs`` rows, (inputs, outputs)."""
        return self.weight[:inputs, :outputs]

    def extract(self, outputs: int, inputs: int) -> nn.Embedding:
        """See `WeightSlice.extract`."""
        plain = nn.Embedding(inputs, outputs, padding_idx=self.padding_idx, device="meta")
        plain.weight = owned(self.bind(outputs, inputs))
        return plain

    def forward(self, x: Tensor) -> Tensor:
        """Indices (...), integers, to (..., width)."""
        return functional.embedding(x, self.slot.value, self.padding_idx)


class SlicedLayerNorm(nn.LayerNorm, WeightSlice[SlicedWeight | int]):
    """WeightSlice for a layer normalisation over the last dimension, whose width is elastic.

    It needs no statistics per subnet: it has none. Where the width is fixed a plain `nn.LayerNorm` does.
    """

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        super().__init__(width, eps=eps)
        self.slot = Slot[SlicedWeight | int]()

    def bind(self, outputs: int, inputs: int) -> SlicedWeight | int:
        """Views of the leading scales and shifts; without them the width alone. Outputs and inputs are the same."""
        assert outputs == inputs, f"a normalisation keeps its width: {inputs} inputs, {outputs} outputs"
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if weight is None:
            return outputs
        return SlicedWeight(weight[:outputs], None if bias is None else bias[:outputs])

    def extract(self, outputs: int, inputs: int) -> nn.LayerNorm:
        """See `WeightSlice.extract`."""
        part = self.bind(outputs, inputs)
        if isinstance(part, int):
            return nn.LayerNorm(outputs, eps=self.eps, elementwise_affine=False)
        plain = nn.LayerNorm(outputs, eps=self.eps, bias=part.bias is not None, device="meta")
        plain.weight = owned(part.weight)
        if part.bias is not None:
            plain.bias = owned(part.bias)
        return plain

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., width) over its last dimension."""
        part = self.slot.value
        if isinstance(part, int):
            return functional.layer_norm(x, (part,), None, None, self.eps)
        return functional.layer_norm(x, part.weight.shape, part.weight, part.bias, self.eps)
