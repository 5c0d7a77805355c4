"""What a subnet asks of a machine: operators launched, bytes touched, multiply-accumulates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from superserve.levers import Work
from superserve.supernet.engine import EagerEngine


def count_work(
    engine: EagerEngine, subnet: int, row: Sequence[np.ndarray[Any, Any]], weights: Iterable[nn.Parameter]
) -> Work:
    """Count what one forward of a row does, preprocessing included.

    Every operator but views is counted, with the tensors that it reads and writes as torch hands them over; of
    embeddings the rows that are looked up. What caches save and what a kernel reads twice is not known here.

    Args:
        engine: on the CPU.
        subnet: one of its subnets.
        row: one row of each input.
        weights: of the engine's network.
    """
    with FlopCounterMode(display=False) as flops, _Traffic(weights) as traffic:
        engine.run(subnet, row)
    return Work(
        operators=traffic.operators,
        weight_bytes=traffic.weight_bytes,
        activation_bytes=traffic.activation_bytes,
        macs=int(flops.get_total_flops()) // 2,
    )


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators and the bytes that they touch; what belongs to a parameter's memory is a weight."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = self.weight_bytes = self.activation_bytes = 0
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 (torch's signature)
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run the operator, and count it."""
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            self.operators += 1
            if func is torch.ops.aten.embedding.default:
                self.weight_bytes += result.nbytes
                args = args[1:]
            for leaf in tree_leaves((args, kwargs, result)):
                if isinstance(leaf, Tensor):
                    self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        if tensor.untyped_storage().data_ptr() in self._weights:
            self.weight_bytes += tensor.nbytes
        else:
            self.activation_bytes += tensor.nbytes
