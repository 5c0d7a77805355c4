import io
import json
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from superserve.experiments.report import (
    TABLE_COLUMNS,
    DemoReport,
    LoadRecord,
    Machine,
    RunRecord,
    table_cells,
    write_report,
)
from superserve.experiments.screen import print_report
from superserve.experiments.verdict import check, summary
from superserve.plots import NamedRun
from support.profiles import make_profile
from support.rows import make_log, make_row

LIVE = (make_row("slackfit", 0.995, 90.0), make_row("fixed:<b>", 0.3, 95.0), make_row("fixed:s", 0.0, None))
SIMULATED = (make_row("slackfit", 0.99, 90.0), make_row("fixed:<b>", 0.4, 95.0), make_row("fixed:s", 0.0, None))


def make_report(*void: str) -> DemoReport:
    return DemoReport(
        machine=Machine(processor="A & B", cores=2, device="cpu", python="3.11", torch="2"),
        model="digits",
        slo_ms=50.0,
        live=LIVE,
        simulated=SIMULATED,
        version="0",
        workers=1,
        load=LoadRecord(seconds=10, seed=0, requests=1000, mean_rate=100.0, base_rate=21.0, gamma_rate=79.0, cv2=2.0),
        runs=tuple(
            RunRecord(
                policy=row.policy,
                attainment_difference=row.slo_attainment - twin.slo_attainment,
                p99_lateness_ms=0.5,
                router_core_share=0.25,
                generator_cpu_share=0.1,
                void=void if row is LIVE[0] else (),
            )
            for row, twin in zip(LIVE, SIMULATED, strict=True)
        ),
        summary=tuple(summary(LIVE)),
        checks=check(LIVE, SIMULATED),
        profile=make_profile([[1.0]], (1,)),
    )


def test_table_sets_prediction_and_difference_beside_what_was_measured() -> None:
    cells = table_cells(make_report())
    assert len(cells[0]) == len(TABLE_COLUMNS)
    assert cells[0][:5] == ["slackfit", "0.9950", "0.9900", "+0.0050", "90.00"]
    assert cells[2][4:6] == ["-", "-"]


def test_json_has_the_agreed_keys_and_reads_back(tmp_path: Path) -> None:
    report = make_report()
    report.write(tmp_path / "deep" / "r.json")
    raw = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert {"machine", "model", "slo_ms", "live", "simulated"} <= raw.keys()
    assert raw["live"][0]["policy"] == "slackfit"
    assert raw["live"][0]["slo_attainment"] == 0.995
    assert msgspec.json.decode((tmp_path / "deep" / "r.json").read_bytes(), type=DemoReport) == report


def test_void_is_said_everywhere(tmp_path: Path) -> None:
    report = make_report("sent too late")
    assert report.void
    assert not make_report().void
    console = Console(record=True, width=100, file=io.StringIO())
    print_report(console, report)
    assert "VOID slackfit: sent too late." in console.export_text()
    page = write_report(tmp_path, report, [NamedRun("slackfit", make_log(0))]).read_text()
    assert "Void run, slackfit: sent too late." in page


class Page(HTMLParser):
    """Tags of a page, and what it would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "srcset", "href"}]


def test_page_is_complete_self_contained_and_escaped(tmp_path: Path) -> None:
    page = write_report(tmp_path, make_report(), [NamedRun("slackfit", make_log(0)), NamedRun("x", make_log(1), 2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dynamics.png",
        "index.html",
        "report.json",
        "tradeoff.png",
    ]
    parsed = Page()
    parsed.feed(page.read_text())
    assert parsed.tags.count("img") == 2
    assert parsed.tags.count("source") == 2
    assert parsed.tags.count("tr") == 1 + len(LIVE)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in parsed.sources)
    assert "fixed:&lt;b&gt;" in page.read_text()
    assert "A &amp; B" in page.read_text()
    assert "$" not in page.read_text()
    assert page.stat().st_size < 2_000_000


@pytest.mark.parametrize("width", [80, 120])
def test_table_fits_a_terminal_of_80_columns(width: int) -> None:
    console = Console(record=True, width=width, file=io.StringIO())
    print_report(console, make_report())
    text = console.export_text()
    assert "…" not in text
    assert "does not hold: slackfit is more accurate than fixed:s" not in text
    assert "simulator predicts" in text
