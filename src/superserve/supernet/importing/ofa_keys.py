"""Names of tensors in OFA checkpoints, old and new.

Source: the ``load_state_dict`` methods of mit-han-lab/once-for-all. New files say ``bn.bn.``, ``conv.conv.weight``
and ``linear.linear.`` where old ones lack the doubling; those of the mobile networks say ``mobile_inverted_conv`` for
a block's ``conv``.
"""

from collections.abc import Iterator
from typing import Final

_SPELLINGS: Final = (
    (".linear.linear.", ".linear."),
    ("bn.bn.", "bn."),
    (".conv.conv.weight", ".conv.weight"),
)

#: Endings of what OFA files hold beside weights: statistics, which are right for one subnet only.
STATISTICS: Final = (".running_mean", ".running_var", ".num_batches_tracked")


def spellings(name: str) -> Iterator[str]:
    """Every name that a tensor of this (new) name goes by, its own first."""
    for other in dict.fromkeys((name, *_variants(name))):
        yield other
        if ".conv." in other:
            yield other.replace(".conv.", ".mobile_inverted_conv.", 1)


def _variants(name: str) -> Iterator[str]:
    """The name without a doubling, or with one where it has none (layers that later became static)."""
    for long, short in _SPELLINGS:
        if long in name:
            yield name.replace(long, short)
        elif short in name:
            yield name.replace(short, long)


def norm(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """The shared parameters of a batch normalisation: our name and the new OFA one."""
    for part in ("weight", "bias"):
        yield f"{ours}.{part}", f"{theirs}.{part}"
