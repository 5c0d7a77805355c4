"""What all lives have in common."""

import pytest

from deterministic.scenery import Scenery


@pytest.fixture(scope="session")
def scenery(tmp_path_factory: pytest.TempPathFactory) -> Scenery:
    """The models on disk."""
    return Scenery.make(tmp_path_factory.mktemp("scenery"))
