"""What tests of commands share."""

import pytest

from superserve.cli.base import out


@pytest.fixture
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of 200 columns; where tests run in several processes, the console was made with 80 before any began."""
    monkeypatch.setattr(out, "_width", 200)
