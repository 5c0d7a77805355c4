"""Which modules' inputs reach a tensor: how residual blocks are recognised."""

from collections.abc import Sequence

from superserve.supernet.conversion.operand import Call, Frame, Operand
from superserve.supernet.conversion.rules import ACTIVATIONS, NORMS, SUMS, UNCHANGED, VIEWS


def paths_of(call: Call, operands: Sequence[Operand]) -> dict[Frame, bool]:
    """Which modules' inputs reach the result, unchanged or with something added."""
    if call.name in SUMS:
        return _sum_paths(operands)
    paths = operands[0].info.paths
    if call.name in UNCHANGED or call.name in VIEWS:
        return dict(paths)
    if call.name in ACTIVATIONS or call.name in NORMS:
        return {frame: True for frame, added in paths.items() if added}
    return {}


def _sum_paths(operands: Sequence[Operand]) -> dict[Frame, bool]:
    paths: dict[Frame, bool] = {}
    for operand in operands:
        others = [other for other in operands if other is not operand and other.info.tainted]
        for frame, added in operand.info.paths.items():
            # x + x, or x plus a constant, is no residual; x + f(x) is.
            if added or any(frame not in other.info.paths for other in others):
                paths[frame] = True
    return paths
