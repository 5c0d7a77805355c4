"""What every test of this folder needs."""

from collections.abc import Iterator

import pytest

from support.ray_nodes import Nodes


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """The cluster of all tests."""
    found = Nodes()
    yield found
    found.cluster.shutdown()
