"""The conformance page names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
PAGE = TESTS.parent / "docs" / "protocol.md"


def test_every_named_test_exists() -> None:
    """Each row's test is defined in a file of that name."""
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text()))
    assert len(named) > 30
    defined = {
        (path.name, name)
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert named <= defined, named - defined


def test_every_row_names_one() -> None:
    """No claim without a proof."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and "---" not in line]
    claims = [row for row in rows if not row.rstrip(" |").endswith("test")]
    assert claims
    assert all("::test_" in row for row in claims), [row for row in claims if "::test_" not in row]
