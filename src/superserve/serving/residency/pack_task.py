"""What a packing process is told; it answers with a `PackRecord`."""

import msgspec

from superserve.engine import EngineChoice
from superserve.model_folder import ModelFolder


class PackTask(msgspec.Struct, frozen=True, kw_only=True):
    """Pack one subnet, as JSON on the command line of ``pack_process.py``."""

    folder: str
    bundled: bool
    engine: str
    """The one behind: it is timed beside the packed subnet."""
    dtype: str
    subnet: int
    background: bool = True
    """Whether it is to take only what time others leave."""
    cores: tuple[int, ...] = ()
    """Those that it may run on then; none: where it is started."""
    runtimes: tuple[str, ...] | None = None
    """Static runtimes to try it on beside its program; None: what is kept will do, else all that are installed."""
    force: bool = False
    """Whether to pack what is kept already."""

    @classmethod
    def of(cls, folder: ModelFolder, choice: EngineChoice) -> "PackTask":
        """For the first subnet of a model; `msgspec.structs.replace` makes those for others of it."""
        return cls(
            folder=str(folder.path.resolve()),
            bundled=folder.bundled,
            engine=choice.behind.engine,
            dtype=choice.dtype,
            subnet=0,
        )
