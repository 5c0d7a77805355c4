"""The page of the configuration, from its structs."""

from typing import get_type_hints

import msgspec

from reference.commands import options_of
from reference.markdown import code, summary, table
from reference.structs import rows
from superserve.serving.config import Config, ModelSettings, NamedModelSettings, flag_of

_HEAD = """\
# Configuration

What a server is told comes from four places: a flag of `superserve serve` beats the environment, which beats the TOML
file of `--config`, which beats the default. `superserve config show` prints what holds and where it came from. Unknown
keys, values of another type or out of range, and values that contradict each other are refused with the name of the
key, its source and what would fit.

```toml
[server]
host = "0.0.0.0"
drain_timeout_s = 20

[model]
slo_ms = 100

[models.digits]
slo_ms = 50
```

Each key has a variable of the environment: `SUPERSERVE_`, the section, two underscores, the key
(`SUPERSERVE_SERVER__HOST`, `SUPERSERVE_MODELS__DIGITS__SLO_MS`). Keys with a flag name it.

Two variables are of the program and not of a server: `SUPERSERVE_CACHE` is the folder of profiles and compiled code
(default: `~/.cache/superserve`), `SUPERSERVE_DATA` that of data sets.

"""


def configuration() -> str:
    """Every section with its keys."""
    hints = get_type_hints(Config)
    sections = {name: kind for name, kind in hints.items() if name in Config.__struct_fields__}
    return _HEAD + "\n".join(_section(name, kind) for name, kind in sections.items())


def _section(name: str, kind: object) -> str:
    if name == "models":
        own = [row for row in rows(NamedModelSettings) if row.name not in ModelSettings.__struct_fields__]
        body = [[code(row.name), row.kind, row.default, row.meaning] for row in own]
        return _titled("models.NAME", NamedModelSettings, table(("key", "type", "default", "meaning"), body))
    assert isinstance(kind, type)
    assert issubclass(kind, msgspec.Struct)
    columns = ("key", "type", "default", "flag", "meaning")
    body = [[code(row.name), row.kind, row.default, _flag(f"{name}.{row.name}"), row.meaning] for row in rows(kind)]
    return _titled(name, kind, table(columns, body))


def _titled(name: str, kind: type, body: str) -> str:
    # "``[server]``: where it listens" becomes "Where it listens".
    meaning = summary(kind).partition(": ")[2]
    return f"## [{name}]\n\n{meaning[0].upper()}{meaning[1:]}\n\n{body}"


def _flag(key: str) -> str:
    flag = flag_of(key)
    return code(flag) if flag in options_of("serve") else ""
