"""A subnet in a static runtime, as the packed engine runs it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from superserve.errors import ModelFolderError
from superserve.supernet.builds import check_ours
from superserve.supernet.engine import as_tensor
from superserve.supernet.preprocess import Preprocessor
from superserve.supernet.runtimes.sessions import FILES, Arrays, Session, open_session

_FIX: Final = "pack it again with `superserve pack --force`"


class RuntimeModule:
    """Runs one subnet; see `superserve.supernet.packed_engine.Module`.

    Args:
        session: it, opened.
        datatypes: of the request's tensors, as ``config.json`` has them.
        preprocess: comes before the session, if it is not part of what was exported (texts).
    """

    def __init__(self, session: Session, datatypes: Sequence[str], preprocess: Preprocessor | None = None) -> None:
        self._session: Session | None = session
        self._datatypes = datatypes
        self._preprocess = preprocess

    @classmethod
    def load(
        cls, runtime: str, dtype: str, path: Path, datatypes: Sequence[str], preprocess: Preprocessor | None
    ) -> "RuntimeModule":
        """Open the subnet in a folder.

        Raises:
            ModelFolderError: if others may write its files, or they cannot be opened.
        """
        for name in FILES[runtime]:
            check_ours(path / name, _FIX)
        return cls(open_session(runtime, dtype, path), datatypes, preprocess)

    def run(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        """Request arrays, contiguous, to outputs, which may be overwritten by the next call."""
        if self._session is None:
            raise ModelFolderError("this subnet has been closed")
        if self._preprocess is None:
            return self._session(inputs)
        tensors = [as_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)]
        return self._session([tensor.numpy() for tensor in self._preprocess(tensors)])

    def close(self) -> None:
        """Give its memory back; it cannot be run any more."""
        self._session = None
