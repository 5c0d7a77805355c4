"""The model repository calls of ``inference.GRPCInferenceService``."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from superserve.errors import UnknownModelError
from superserve.frontend.repository import ModelRepository
from superserve.protocol import messages


class RepositoryCalls:
    """Answers request messages with response messages.

    Args:
        repository: what can be loaded.
    """

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    def calls(self) -> Mapping[str, Callable[[Any], Awaitable[Any]]]:
        """By method."""
        return {
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    async def _index(self, asked: Any) -> Any:
        _check_name(asked)
        response = messages.RepositoryIndexResponse()
        for model in self._repository.index(ready_only=asked.ready):
            response.models.add(**msgspec.structs.asdict(model))
        return response

    async def _load(self, asked: Any) -> Any:
        _check_name(asked)
        await self._repository.load(asked.model_name, asked.parameters)
        return messages.RepositoryModelLoadResponse()

    async def _unload(self, asked: Any) -> Any:
        _check_name(asked)
        await self._repository.unload(asked.model_name, asked.parameters)
        return messages.RepositoryModelUnloadResponse()


def _check_name(asked: Any) -> None:
    """There is one repository, and it has no name."""
    if asked.repository_name:
        raise UnknownModelError(f"no repository is named {asked.repository_name!r}: leave repository_name empty")
