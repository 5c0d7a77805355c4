"""A made-up transformer supernet for E2: the paper gives no transformer latency in text."""

from dataclasses import replace
from typing import Final

from superserve.experiments.reproduction.lab import Lab
from superserve.experiments.shapes import BATCHES, make_profile
from superserve.profile import Profile

TRANSFORMER_RATE: Final = 1150.0
#: The paper's six transformer points as read off a figure, and their operations over the smallest one's.
_ACCURACIES: Final = (82.2, 83.5, 84.1, 84.8, 85.1, 85.2)
_OPERATIONS: Final = (1, 2, 3, 4, 6, 8)
#: Milliseconds per unit of operations: so that 1,150/s is 0.9 of what eight workers carry at the fourth subnet, which
#: is where 6,400/s stands on R-PROFILE.
_FIXED_MS: Final = 1.0
_ROW_MS: Final = 1.5
#: The paper's SLO over its largest latency.
_SLO_FACTOR: Final = 1.17


def transformer_profile() -> Profile:
    """SYNTHETIC: latency = operations x (1 + 1.5 x rows) milliseconds."""
    rows = [[cost * (_FIXED_MS + _ROW_MS * batch) for batch in BATCHES] for cost in _OPERATIONS]
    return make_profile("transformer", list(_ACCURACIES), rows)


def transformer_lab(lab: Lab) -> Lab:
    """The same lab with the made-up profile and an SLO that fits it."""
    profile = transformer_profile()
    return replace(lab, profile=profile, slo_ms=_SLO_FACTOR * profile.largest_cell_ms())
