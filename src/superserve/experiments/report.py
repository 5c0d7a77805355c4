"""What a demo leaves behind: ``report.json``, figures, and a page that shows them."""

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Final, NamedTuple

import msgspec
from matplotlib.figure import Figure

from superserve.experiments.verdict import Check
from superserve.metrics import ResultRow
from superserve.plots import DARK, LIGHT, NamedRun, Theme, dynamics_figure, figure_bytes, tradeoff_figure
from superserve.profile import Profile


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where a demo ran."""

    processor: str
    cores: int
    device: str
    python: str
    torch: str


class LoadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was offered; see `superserve.experiments.load.Load`."""

    seconds: float
    seed: int
    requests: int
    mean_rate: float
    base_rate: float
    gamma_rate: float
    cv2: float


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How well a live run could be measured, and how far the simulator was off (live minus simulated attainment)."""

    policy: str
    attainment_difference: float
    p99_lateness_ms: float
    router_core_share: float
    generator_cpu_share: float
    void: tuple[str, ...]


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``report.json``."""

    machine: Machine
    model: str
    slo_ms: float
    live: tuple[ResultRow, ...]
    simulated: tuple[ResultRow, ...]
    version: str
    workers: int
    load: LoadRecord
    runs: tuple[RunRecord, ...]
    summary: tuple[str, ...]
    checks: tuple[Check, ...]
    """Empty where the demo passes no judgement: for harsher loads than its own."""
    profile: Profile

    @property
    def void(self) -> bool:
        """Whether any run says nothing of its policy."""
        return any(run.void for run in self.runs)

    def write(self, path: Path) -> None:
        """Write it as indented JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


class TableRow(NamedTuple):
    """What one line of the demo's table is made of."""

    live: ResultRow
    simulated: ResultRow
    run: RunRecord


#: Columns of the demo's table: heading, format, and where the figure stands.
TABLE_COLUMNS: Final[tuple[tuple[str, str, Callable[[TableRow], float | str | None]], ...]] = (
    ("policy", "", lambda row: row.live.policy),
    ("attainment", ".4f", lambda row: row.live.slo_attainment),
    ("simulated", ".4f", lambda row: row.simulated.slo_attainment),
    ("difference", "+.4f", lambda row: row.run.attainment_difference),
    ("accuracy %", ".2f", lambda row: row.live.mean_serving_accuracy),
    ("measured %", ".2f", lambda row: row.live.measured_accuracy),
    ("goodput-weighted %", ".2f", lambda row: row.live.goodput_weighted_accuracy),
    ("p50 ms", ".1f", lambda row: row.live.p50_ms),
    ("p99 ms", ".1f", lambda row: row.live.p99_ms),
    ("mean batch", ".1f", lambda row: row.live.mean_batch),
)


def table_cells(report: DemoReport) -> list[list[str]]:
    """The demo's table as text: a row per policy, in the order of `TABLE_COLUMNS`; a dash where there is no figure."""
    rows = map(TableRow, report.live, report.simulated, report.runs)
    return [[_cell(value(row), form) for _, form, value in TABLE_COLUMNS] for row in rows]


def _cell(value: float | str | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def write_report(folder: Path, report: DemoReport, shown: Sequence[NamedRun]) -> Path:
    """Write everything into a folder; returns the page.

    Args:
        folder: made if need be.
        report: what came of the demo.
        shown: the runs whose course over time is drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder / "report.json")
    figures = {theme.name: _figures(report, shown, theme) for theme in (LIGHT, DARK)}
    for name, figure in figures[LIGHT.name].items():
        (folder / f"{name}.png").write_bytes(figure_bytes(figure, "png"))
    page = folder / "index.html"
    page.write_text(_page(report, figures), encoding="utf-8")
    return page


def load_words(report: DemoReport) -> str:
    """What was offered, in a sentence."""
    load = report.load
    emulated = "emulated " if any(row.emulated for row in report.live) else ""
    workers = f"{report.workers} {emulated}worker{'' if report.workers == 1 else 's'}"
    return (
        f"{load.requests} requests in {load.seconds:g} s: {load.base_rate:.0f}/s steady plus {load.gamma_rate:.0f}/s "
        f"in bursts (gamma gaps, CV^2 = {load.cv2:g}), each with a deadline of {report.slo_ms:.1f} ms, on {workers}."
    )


def _figures(report: DemoReport, shown: Sequence[NamedRun], theme: Theme) -> dict[str, Figure]:
    emulated = ", emulated devices" if any(row.emulated for row in report.live) else ""
    title = f"{report.model}, SLO {report.slo_ms:.0f} ms, {report.load.mean_rate:.0f} requests/s{emulated}"
    return {
        "dynamics": dynamics_figure(shown, title=title, theme=theme),
        "tradeoff": tradeoff_figure(report.live, report.simulated, title=title, theme=theme),
    }


def _page(report: DemoReport, figures: dict[str, dict[str, Figure]]) -> str:
    return _PAGE.substitute(
        title=escape(f"SuperServe demo: {report.model}"),
        load=escape(load_words(report)),
        void="".join(f'<p class="void">Void run, {escape(words)}</p>' for words in void_words(report)),
        summary="".join(f"<li>{escape(line)}</li>" for line in report.summary),
        table=_table(report),
        checks="".join(_check(check) for check in report.checks),
        checks_hidden="" if report.checks else "hidden",
        dynamics=_picture(figures, "dynamics", "Load, accuracy, batch size, queue and misses over time"),
        tradeoff=_picture(figures, "tradeoff", "SLO attainment against accuracy of each policy"),
        machine=escape(_machine_words(report)),
        cores=escape(core_words(report)),
    )


def void_words(report: DemoReport) -> list[str]:
    """A sentence for each reason why a run is void."""
    return [f"{run.policy}: {reason}." for run in report.runs for reason in run.void]


def core_words(report: DemoReport) -> str:
    """How busy the router's core was, in a sentence."""
    shares = ", ".join(f"{run.policy} {run.router_core_share:.0%}" for run in report.runs)
    lateness = max(run.p99_lateness_ms for run in report.runs)
    return f"Share of the router's core in use: {shares}. Send lateness (p99 of the worst run): {lateness:.2f} ms."


def _machine_words(report: DemoReport) -> str:
    machine = report.machine
    return (
        f"{machine.processor}, {machine.cores} cores, device {machine.device}, Python {machine.python}, torch "
        f"{machine.torch}; superserve {report.version}, seed {report.load.seed}"
    )


def _table(report: DemoReport) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column, *_ in TABLE_COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table_cells(report)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _check(check: Check) -> str:
    mark, kind = ("holds", "yes") if check.holds else ("does not hold", "no")
    return f'<li><b class="{kind}">{mark}</b>: {escape(check.claim)} ({escape(check.figures)})</li>'


def _picture(figures: dict[str, dict[str, Figure]], name: str, words: str) -> str:
    light, dark = (_data_uri(figures[theme.name][name]) for theme in (LIGHT, DARK))
    return (
        f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{light}" alt="{escape(words)}"></picture>'
    )


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure_bytes(figure, "svg")).decode()


_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #59636e; --line: #d8dee4; --back: #ffffff;
        --yes: #00694d; --no: #a33b00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --muted: #9aa4ae; --line: #333a41; --back: #14171a; --yes: #2fbf94; --no: #e69f00; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--muted); font-size: .85rem; }
th:first-child, td:first-child { text-align: left; }
tbody tr:first-child { font-weight: 600; }
img { width: 100%; max-width: 54rem; height: auto; }
.small { color: var(--muted); font-size: .85rem; }
.void { border-left: 4px solid var(--no); padding-left: .8rem; }
.yes { color: var(--yes); } .no { color: var(--no); }
</style>
</head>
<body>
<h1>$title</h1>
<p>One and the same trace was sent through a live server under each policy: $load</p>
$void
<ul>$summary</ul>
<div class="scroll">$table</div>
<p class="small">Attainment: share of all offered requests answered within their deadline. Simulated: what the
simulator, which runs the same scheduler in virtual time, predicts of it. Accuracy: mean profiled accuracy of the
answers in time; measured: their share of right answers; goodput-weighted: summed over all offered requests, so that
nothing is gained by dropping.</p>
<h2>Over time</h2>
$dynamics
<h2>The trade-off</h2>
$tradeoff
<div $checks_hidden><h2>Checks</h2><ul>$checks</ul></div>
<p class="small">$cores</p>
<p class="small">$machine</p>
</body>
</html>
""")
