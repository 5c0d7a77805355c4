import inspect

from superserve import errors
from superserve.frontend.status import http_status, reason_phrase, retry_after

EXPECTED = {
    "UnauthorizedError": 401,
    "ForbiddenError": 403,
    "ConflictError": 409,
    "UnsupportedError": 501,
    "LoadError": 500,
    "SuperServeError": 500,
    "PayloadTooLargeError": 413,
    "UnknownModelError": 404,
    "UnknownRequestError": 404,
    "RefusedError": 503,
    "QueueFullError": 429,
    "InfeasibleError": 504,
    "ExpiredError": 504,
    "CancelledError": 499,
    "UnavailableError": 503,
    "UnreachableError": 503,
    "WorkerError": 500,
}


def test_every_error_has_its_status() -> None:
    """The whole tree: what a user can mend is 400 unless listed, and so a new class of another kind shows up here."""
    found = {}
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        assert issubclass(kind, errors.SuperServeError)
        found[name] = http_status(errors.QueueFullError("x", 1.0) if name == "QueueFullError" else kind("x"))
    usage = {name: 400 for name, kind in inspect.getmembers(errors) if name in found and issubclass(kind, ValueError)}
    assert found == usage | EXPECTED


def test_when_to_come_back() -> None:
    """Whole seconds, at least one, and milliseconds beside; nothing where the deadline itself is too short."""
    assert retry_after(errors.InfeasibleError("x", 0.0123)) == (1, 13)
    assert retry_after(errors.QueueFullError("x", 2.5)) == (3, 2500)
    assert retry_after(errors.QueueFullError("x", 0.0)) == (1, 1)
    assert retry_after(errors.UnavailableError("x")) == (1, 1000)
    assert retry_after(errors.InfeasibleError("x")) is None
    assert retry_after(errors.ExpiredError("x")) is None


def test_every_status_has_a_phrase() -> None:
    """Also the one that HTTP does not know."""
    assert reason_phrase(404) == "Not Found"
    assert all(reason_phrase(status) for status in EXPECTED.values())
