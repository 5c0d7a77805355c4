"""How a server process writes its log."""

import logging
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

LogFormat = Literal["console", "json"]

_CONSOLE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: What every record has; everything else came as ``extra``.
_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and whatever the code added to it by name."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(told, enc_hook=str).decode()


def log_to_stderr(form: LogFormat) -> None:
    """Write everything from INFO on to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_CONSOLE))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
