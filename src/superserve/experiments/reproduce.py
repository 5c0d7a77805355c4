"""``superserve reproduce``: the paper's experiments, one or all, into one page."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from superserve.errors import ConfigError
from superserve.experiments.reproduction.actuation import run_e10
from superserve.experiments.reproduction.azure import run_e1, run_e2, run_e3
from superserve.experiments.reproduction.course import run_e11
from superserve.experiments.reproduction.faults import run_e6
from superserve.experiments.reproduction.finding import NAMES, Finding
from superserve.experiments.reproduction.grids import run_e4, run_e5
from superserve.experiments.reproduction.lab import Lab
from superserve.experiments.reproduction.live_check import run_live_check
from superserve.experiments.reproduction.page import reproduction_page
from superserve.experiments.reproduction.policies import run_e8
from superserve.experiments.reproduction.throughput import run_e7, run_e9
from superserve.profile import Profile

#: Relative to the page's folder.
FINDINGS: Final = Path("reproduction")
IMAGES: Final = Path("images/reproduction")

OnProgress = Callable[[int, int, str], None]

_EXPERIMENTS: Final[dict[str, Callable[[Lab], Finding]]] = {
    "E1": run_e1,
    "E2": run_e2,
    "E3": run_e3,
    "E4": run_e4,
    "E5": run_e5,
    "E6": run_e6,
    "E7": run_e7,
    "E8": run_e8,
    "E9": run_e9,
    "E10": run_e10,
    "E11": run_e11,
    "live": run_live_check,
}
assert tuple(_EXPERIMENTS) == NAMES


def reproduce(
    names: Sequence[str],
    *,
    out: Path = Path("docs"),
    data: Path | None = None,
    seeds: int = 3,
    seconds_factor: float = 1.0,
    processes: int | None = None,
    runs: Path | None = None,
    on_progress: OnProgress | None = None,
) -> list[Finding]:
    """Run experiments and write ``out/reproduction.md``, figures under ``out/images/`` and findings beside the page.

    Findings of earlier runs stay on the page until they are run again.

    Args:
        names: some of E1 ... E11 and ``live``, or ``all``.
        out: folder of the page.
        data: folder of recorded traces, which E1, E2, E3 and E10 need.
        seeds: how many; 0, 1, ...
        seconds_factor: shortens every trace, for a first look.
        processes: how many at a time; default: one per core.
        runs: file in which finished runs are kept, so that a killed command goes on where it was; None: nowhere.
        on_progress: called with (runs done, runs of this experiment, which experiment).

    Returns:
        The findings of the experiments that were run.

    Raises:
        ConfigError: for an unknown name, or a missing data folder.
    """
    wanted = _chosen(names)
    folder = out / FINDINGS
    lab = Lab(
        out / IMAGES,
        Profile.load("r-profile"),
        data,
        seeds,
        seconds_factor=seconds_factor,
        processes=processes,
        runs=runs,
    )
    found = []
    for name in wanted:
        finding = _EXPERIMENTS[name](replace(lab, on_progress=_labelled(name, on_progress)))
        found.append(finding)
        folder.mkdir(parents=True, exist_ok=True)
        json = msgspec.json.format(msgspec.json.encode(finding), indent=1)
        (folder / f"{name}.json").write_bytes(json + b"\n")
        write_page(out)
    return found


def write_page(out: Path) -> None:
    """Write the page of all findings that lie in a folder."""
    files = {name: out / FINDINGS / f"{name}.json" for name in NAMES}
    findings = [msgspec.json.decode(file.read_bytes(), type=Finding) for file in files.values() if file.exists()]
    missing = [name for name, file in files.items() if not file.exists()]
    (out / "reproduction.md").write_text(reproduction_page(findings, missing, str(IMAGES)))


def _chosen(names: Sequence[str]) -> list[str]:
    if not names or "all" in names:
        return list(NAMES)
    for name in names:
        if name not in _EXPERIMENTS:
            raise ConfigError(f"experiment {name!r} is unknown; known: {', '.join(NAMES)}, all")
    return [name for name in NAMES if name in names]


def _labelled(name: str, on_progress: OnProgress | None) -> OnProgress | None:
    if on_progress is None:
        return None
    return lambda done, total, label: on_progress(done, total, f"{name}, {label}")
