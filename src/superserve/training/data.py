"""Labelled examples in memory, and the parts that a data set is split into."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """Inputs (n, ...) as the model's input tensor has them (texts: cells of its dtype), and labels (n,) int64."""

    inputs: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> "Split":
        """The examples of these indices, in this order."""
        return Split(self.inputs[rows], self.labels[rows])

    def head(self, count: int) -> "Split":
        """The first examples, all if there are no more."""
        return Split(self.inputs[:count], self.labels[:count])


class Parts(NamedTuple):
    """Three disjoint parts: to learn from, to choose by, and to report."""

    train: Split
    validate: Split
    test: Split
