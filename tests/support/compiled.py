"""Whether compiling can be tested here, and one compiled model for all tests that want one."""

import os
from pathlib import Path

from superserve.errors import ConfigError
from superserve.supernet.compile import Compiled, compile_model, find_compiler
from superserve.supernet.hub import save_supernet
from support.supernets import TINY, small_supernet


def why_not() -> str:
    """Why nothing can be compiled here; empty if it can."""
    try:
        find_compiler()
    except ConfigError as error:
        return str(error)
    return ""


class CompiledFolder:
    """A model folder with compiled code of its two subnets, the smallest and the largest of a tiny network.

    Attributes:
        folder: the model.
        cache: the cache folder that the code lies in.
        compiled: what compiling it gave.
        progress: what compiling it told.
    """

    def __init__(self, scratch: Path) -> None:
        self.folder = save_supernet(small_supernet(2, TINY), scratch / "tiny")
        self.cache = Path(os.environ["SUPERSERVE_CACHE"])
        self.progress: list[tuple[int, int, str]] = []
        self.compiled: Compiled = compile_model(self.folder, report=lambda *step: self.progress.append(step))
