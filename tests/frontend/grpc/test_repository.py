"""The repository's calls as messages, before a repository that only listens."""

from collections.abc import Mapping
from typing import Any, cast

import pytest

from superserve.errors import UnknownModelError
from superserve.frontend.grpc.repository import RepositoryCalls
from superserve.frontend.repository import ModelRepository
from superserve.protocol.messages import message
from superserve.serving.metadata import ModelIndex


class Listening:
    """What it is asked; it has one model that is ready and one that is not."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, list[str]]] = []

    def index(self, *, ready_only: bool = False) -> list[ModelIndex]:
        told = [ModelIndex("a", "1", "READY"), ModelIndex("b", state="UNAVAILABLE", reason="not loaded")]
        return told[:1] if ready_only else told

    async def load(self, name: str, parameters: Mapping[str, object]) -> None:
        self.asked.append(("load", name, sorted(parameters)))

    async def unload(self, name: str, parameters: Mapping[str, object]) -> None:
        self.asked.append(("unload", name, sorted(parameters)))


async def call(repository: Listening, method: str, **fields: Any) -> Any:
    request = message(f"inference.{method}Request")(**fields)
    return await RepositoryCalls(cast("ModelRepository", repository)).calls()[method](request)


async def test_the_index_says_what_the_repository_says() -> None:
    """Of all models, or those that are ready."""
    every = await call(Listening(), "RepositoryIndex")
    assert [(each.name, each.version, each.state, each.reason) for each in every.models] == [
        ("a", "1", "READY", ""),
        ("b", "", "UNAVAILABLE", "not loaded"),
    ]
    ready = await call(Listening(), "RepositoryIndex", ready=True)
    assert [each.name for each in ready.models] == ["a"]


async def test_loads_and_unloads_reach_the_repository() -> None:
    """With their parameters, which it may refuse."""
    repository = Listening()
    parameter = {"config": {"string_param": "{}"}}
    await call(repository, "RepositoryModelLoad", model_name="b", parameters=parameter)
    await call(repository, "RepositoryModelUnload", model_name="a")
    assert repository.asked == [("load", "b", ["config"]), ("unload", "a", [])]


@pytest.mark.parametrize("method", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"])
async def test_there_is_one_repository(method: str) -> None:
    """And it has no name."""
    with pytest.raises(UnknownModelError, match="'other'"):
        await call(Listening(), method, repository_name="other")
