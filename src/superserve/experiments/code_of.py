"""Which code a simulated run depends on: kept results of older code are not used."""

import ast
import hashlib
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Final

import superserve
from superserve.profile import LatencyTable, Profile
from superserve.scheduling import HeadPolicy, Policy, create_policy

_ROOT: Final = Path(superserve.__file__).parent
#: Every run goes through these.
_CORE: Final = (
    "clock.py",
    "latency.py",
    "metrics.py",
    "profile.py",
    "request.py",
    "scheduling/drift.py",
    "scheduling/expiry.py",
    "scheduling/overhead.py",
    "scheduling/policy.py",
    "scheduling/quantile.py",
    "scheduling/queue.py",
    "scheduling/ranking.py",
    "scheduling/scheduler.py",
    "simulator/conditions.py",
    "simulator/results.py",
    "simulator/simulator.py",
    "traces/arrivals.py",
    "traces/convert.py",
    "traces/squeeze.py",
    "traces/trace.py",
)
#: What the view offers beside the queue: a policy that looks at the head alone never sees it.
_OFFERED: Final = ("scheduling/arrivals.py", "scheduling/commitments.py")


def code_of_policy(name: str, profile: Profile) -> str:
    """A digest of the simulator, the scheduler, and what a policy is made of.

    The last are the modules of its class and its bases, and all of the package's modules that these import.
    """
    return _code_of_class(type(create_policy(name, LatencyTable(profile))))


@cache
def code_of_bounds() -> str:
    """A digest of what bounds are made of."""
    return _digest({*_with_imports(_ROOT / "bounds/distance.py"), *(_ROOT / "bounds").glob("*.py")})


@cache
def _code_of_class(kind: type[Policy]) -> str:
    files = {_ROOT / file for file in _CORE}
    for base in kind.__mro__:
        source = getattr(sys.modules.get(base.__module__), "__file__", None)
        if source is not None and issubclass(base, Policy):
            files |= _with_imports(Path(source))
    if issubclass(kind, HeadPolicy) and not kind.observes_arrivals:
        files -= {_ROOT / file for file in _OFFERED}
    return _digest(files)


def _with_imports(file: Path) -> set[Path]:
    """A module and the package's modules that it imports, directly or not. Packages themselves are not followed."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imported(module)
    return found


def _imported(file: Path) -> list[Path]:
    names = [node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    paths = [_ROOT.parent / f"{name.replace('.', '/')}.py" for name in names if name]
    return [path for path in paths if path.is_relative_to(_ROOT) and path.exists()]


def _digest(files: Collection[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
