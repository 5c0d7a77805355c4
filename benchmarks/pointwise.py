"""A 1x1 convolution on a slice of a larger weight, float32, one thread: torch's own choice beside oneDNN.

What `SlicedConv2d` decides by (``_ONEDNN_FROM``): below 16 rows torch takes a matrix product of MKL's.
Run: ``python benchmarks/pointwise.py [--json FILE]``.
"""

import itertools
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from side_by_side import json_argument, measure, table, write

#: Inputs, outputs and edge of the image, by rising multiplications per row.
SHAPES: Final = ((16, 32, 16), (64, 128, 8), (128, 128, 8), (64, 128, 16), (256, 64, 28), (512, 512, 14))
ROWS: Final = (1, 4, 15, 16)
_CALLS: Final = 4


def main() -> None:
    """Print a table per shape and number of rows."""
    path = json_argument(main.__doc__ or "")
    torch.set_num_threads(1)
    tables = []
    with torch.inference_mode():
        for (inputs, outputs, edge), rows in itertools.product(SHAPES, ROWS):
            weight = torch.randn(2 * outputs, 2 * inputs, 1, 1)[:outputs, :inputs]
            x = torch.randn(rows, inputs, edge, edge).contiguous(memory_format=torch.channels_last)
            work = inputs * outputs * edge * edge / 1e6
            title = f"{inputs} to {outputs} channels, {edge} x {edge}, {work:.2f} M multiplications a row, {rows} rows"
            tables.append(table(title, measure({"torch's choice": _chosen(x, weight), "oneDNN": _onednn(x, weight)})))
    write(path, tables)


def _chosen(x: Tensor, weight: Tensor) -> Callable[[], int]:
    def work() -> int:
        for _ in range(_CALLS):
            functional.conv2d(x, weight)
        return _CALLS

    return work


def _onednn(x: Tensor, weight: Tensor) -> Callable[[], int]:
    def work() -> int:
        for _ in range(_CALLS):
            torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001 (torch's compiler uses this one)
                x, weight, None, (0, 0), (1, 1), (1, 1), 1, "none", [], ""
            )
        return _CALLS

    return work


if __name__ == "__main__":
    main()
