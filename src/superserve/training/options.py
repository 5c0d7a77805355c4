"""What `superserve train` was asked for."""

from pathlib import Path

import msgspec


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that recipes share; one that a recipe cannot honour it refuses."""

    out: Path
    """The model folder to write."""
    data: Path | None = None
    """The folder of data sets."""
    seed: int = 0
    epochs: int | None = None
    """None means what the recipe says."""
    processes: int | None = None
    """None means what the recipe says."""
    resume: bool = False
    """Go on from the checkpoint in the model folder."""
    backbone: Path | None = None
    """A folder with a BERT to start from; None starts from scratch."""
