"""A layer's attention with relative positions, float32, one thread: written out, as lines of the grid, and without.

The sizes are AutoFormer-tiny's at 224 pixels. Written out means an embedding for every two tokens, gathered in each
forward, as AutoFormer's own code does.
Run: ``python benchmarks/relative_position.py [--json FILE]``.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from side_by_side import json_argument, measure, table, write
from superserve.supernet.zoo.relative_position import Lines, RelativePosition, attend, lines_of

SIDE: Final = 14
REACH: Final = 14
HEADS: Final = 4
WIDTH: Final = 64
ROWS: Final = (1, 8)
_SCALE: Final = WIDTH**-0.5


def main() -> None:
    """Print a table per number of rows."""
    path = json_argument(main.__doc__ or "")
    torch.set_num_threads(1)
    to_keys, to_values = (RelativePosition(WIDTH, REACH) for _ in range(2))
    for parameter in (*to_keys.parameters(), *to_values.parameters()):
        nn.init.normal_(parameter)
    tables = []
    with torch.inference_mode():
        for rows in ROWS:
            heads = torch.randn(rows, SIDE**2 + 1, HEADS, 3, WIDTH).permute(3, 0, 2, 1, 4)
            query, key, value = heads.unbind()
            lines = lines_of(SIDE, REACH, query)
            torch.testing.assert_close(
                attend(heads, to_keys, to_values, lines, _SCALE), _written_out(heads, to_keys, to_values, lines)
            )
            alternatives: dict[str, Callable[[], object]] = {
                "written out": lambda: _written_out(heads, to_keys, to_values, lines),  # noqa: B023 (run at once)
                "as lines of the grid": lambda: attend(heads, to_keys, to_values, lines, _SCALE),  # noqa: B023
                "no relative positions": lambda: functional.scaled_dot_product_attention(query, key, value),  # noqa: B023
            }
            title = f"{HEADS} heads of {WIDTH}, {SIDE} x {SIDE} patches, {rows} rows"
            tables.append(table(title, measure({name: _once(run) for name, run in alternatives.items()})))
    write(path, tables)


def _once(run: Callable[[], object]) -> Callable[[], int]:
    def work() -> int:
        run()
        return 1

    return work


def _written_out(heads: Tensor, to_keys: RelativePosition, to_values: RelativePosition, lines: Lines) -> Tensor:
    query, key, value = heads.unbind()
    scores = query @ key.mT + torch.einsum("bhic,ijc->bhij", query, _ways(to_keys, lines))
    shares = (scores * _SCALE).softmax(-1)
    return shares @ value + torch.einsum("bhij,ijc->bhic", shares, _ways(to_values, lines))


def _ways(positions: RelativePosition, lines: Lines) -> Tensor:
    """The embedding of the way between every two tokens, (tokens, tokens, width)."""
    table_of = positions.table()
    entries, members = lines.entries[0, 0], lines.members[0, 0, 1:]
    rows, columns = members[:, 1 : 1 + SIDE].argmax(1) + 1, members[:, 1 + SIDE :].argmax(1) + 1 + SIDE
    patches = table_of[entries[:, rows]] + table_of[entries[:, columns]]
    return torch.cat((table_of[entries[:, :1]], patches), 1)


if __name__ == "__main__":
    main()
