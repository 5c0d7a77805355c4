"""Lines of a server's log as JSON."""

import json
import logging
import sys
from typing import Any

from superserve.cli.logs import JsonFormatter
from superserve.request import Outcome


def line(message: str, *args: object, **options: Any) -> dict[str, Any]:
    record = logging.getLogger("superserve.x").makeRecord(
        "superserve.x", logging.WARNING, "x.py", 1, message, args, options.get("exc_info"), extra=options.get("extra")
    )
    written = JsonFormatter().format(record)
    assert "\n" not in written
    told: dict[str, Any] = json.loads(written)
    return told


def test_a_line_is_an_object_with_what_was_added_by_name() -> None:
    """Time, level, logger and message; beside them what the code says of the request."""
    told = line("request %s:\n%s", "r-1", "gone", extra={"request_id": "r-1", "outcome": Outcome.FAILED})
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "WARNING",
        "logger": "superserve.x",
        "message": "request r-1:\ngone",
        "request_id": "r-1",
        "outcome": "failed",
    }


def test_an_exception_is_part_of_its_line() -> None:
    """The traceback is one of the values."""
    try:
        int("broken")
    except ValueError:
        told = line("it failed", exc_info=sys.exc_info())
    assert "ValueError: invalid literal" in told["exception"]


def test_anything_can_be_added() -> None:
    """What JSON does not know is written as text."""
    assert line("x", extra={"what": {1}, "path": object})["what"] == [1]
