"""Settings for every test."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from support.compiled import CompiledFolder

# Shared machines stall now and then: a slow example is no failure. "thorough" is what `make test-all` runs, and looks
# for new failures; what every change has to pass gives the same verdict on the same code each time it is asked.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What `make test` may run at the same time: files of unit tests; real servers one after the other."""
    for item in items:
        alone = item.get_closest_marker("integration") is not None
        item.add_marker(pytest.mark.xdist_group("servers" if alone else item.nodeid.partition("::")[0]))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's compiled code and profiles change what commands do: tests have a cache folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUPERSERVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def compiled_folder(tmp_path_factory: pytest.TempPathFactory) -> "CompiledFolder":
    """A tiny model that was compiled once for all tests: skipped where there is no C++ compiler."""
    from support.compiled import CompiledFolder, why_not  # noqa: PLC0415 (imports torch)

    if reason := why_not():
        pytest.skip(reason)
    return CompiledFolder(tmp_path_factory.mktemp("compiled"))
