"""Every error that SuperServe raises on purpose, in one tree.

::

    SuperServeError
    ├── UsageError (ValueError)        somebody can mend it: the message names the field and the fix
    │   ├── InvalidRequestError        a request that does not fit the protocol or the model
    │   ├── PayloadTooLargeError       a request body above the configured limit
    │   ├── UnauthorizedError          no token, or one that is not known
    │   ├── ForbiddenError             a token that does not allow this
    │   ├── UnknownModelError          no model of that name or version
    │   ├── UnknownRequestError        no request of that id is remembered
    │   ├── ConflictError              something else happens to the model at present
    │   ├── UnsupportedError           a call that this server is not set up to answer
    │   ├── ConfigError                an option, environment variable or config key
    │   ├── ModelFolderError           a model folder with a missing, wrong or stale file
    │   ├── IllegalSubnetError         a subnet outside its search space
    │   ├── ConversionError            a model that cannot be made elastic as it is
    │   ├── CheckpointError            a checkpoint or data file that cannot be imported
    │   ├── ProfileError               a latency profile that cannot be used
    │   └── TraceError                 an arrival trace that cannot be read
    ├── RefusedError                   the scheduler ended the request without an answer
    │   ├── QueueFullError             no room to wait (carries ``retry_after_s``)
    │   ├── InfeasibleError            the deadline could not be met when the request arrived (``retry_after_s``)
    │   ├── ExpiredError               the deadline could no longer be met while the request waited
    │   ├── CancelledError             the client gave up
    │   └── UnavailableError           no live worker, the server is stopping, or no answer came from it
    │       └── UnreachableError       no connection to the server: nothing was sent
    ├── LoadError                      a model could not be loaded into the workers, or not be taken out of them
    └── WorkerError                    a worker process failed to start, failed on a batch, or was lost

``frontend/status.py`` is the one place that maps these classes to protocol statuses; ``cli.py`` maps
`UsageError` to exit code 2 and every other `SuperServeError` to exit code 1.
"""


class SuperServeError(Exception):
    """Root of the tree.

    ``reason`` is why a request ended so, in a word, if the scheduler ended it.
    """

    reason: str = ""


class UsageError(SuperServeError, ValueError):
    """Something the caller gave cannot be used; the message names the field and the fix."""


class InvalidRequestError(UsageError):
    """A request that does not fit the protocol or the model."""


class PayloadTooLargeError(UsageError):
    """A request body above the configured limit."""


class UnauthorizedError(UsageError):
    """A request without a token, or with one that is not known."""


class ForbiddenError(UsageError):
    """A request whose token does not allow what it asks for."""


class UnknownModelError(UsageError):
    """No model of that name or version is served."""


class UnknownRequestError(UsageError):
    """No request of that id is remembered."""


class ConflictError(UsageError):
    """Something else happens to the model at present, or it is not what the caller takes it for."""


class UnsupportedError(UsageError):
    """A call that this server is not set up to answer; the message names the setting."""


class ConfigError(UsageError):
    """An option, environment variable or config key that cannot be used."""


class ModelFolderError(UsageError):
    """A model folder with a missing, wrong or stale file."""


class IllegalSubnetError(UsageError):
    """A subnet outside its search space."""


class ConversionError(UsageError):
    """A model that cannot be made elastic as it is, or an example input that it rejects."""


class CheckpointError(UsageError):
    """A checkpoint, or the data given with it, that cannot be imported."""


class ProfileError(UsageError):
    """A latency profile that cannot be used."""


class TraceError(UsageError):
    """An arrival trace that cannot be read."""


class RefusedError(SuperServeError):
    """The scheduler ended a request without an answer."""


class QueueFullError(RefusedError):
    """No room to wait.

    ``retry_after_s`` is when the queue is expected to have room again, in seconds.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InfeasibleError(RefusedError):
    """The deadline could not be met when the request arrived.

    ``retry_after_s`` is when a request like it is expected to be admitted, in seconds; 0: never, the deadline is too
    short whatever else waits.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ExpiredError(RefusedError):
    """The deadline could no longer be met while the request waited."""


class CancelledError(RefusedError):
    """The client gave up before an answer."""


class UnavailableError(RefusedError):
    """No live worker, the server is stopping, or, as a client sees it, no answer came.

    ``retry_after_s`` is when it is worth trying again, in seconds; 0 if nobody said so.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnreachableError(UnavailableError):
    """A client has no connection to the server and gets none: nothing was sent."""


class LoadError(SuperServeError):
    """A model could not be loaded into the workers, or not be taken out of them."""


class WorkerError(SuperServeError):
    """A worker process failed to start, failed on a batch, or was lost."""
