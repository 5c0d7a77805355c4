"""Pictures of the live page, light and dark: the bundled digits model in front of a minute of bursts.

In calm half of what the most accurate subnet can do comes, in bursts most of what the fastest one can. Then somebody
draws a digit. Writes ``live-light.png`` and ``live-dark.png``.

Run: ``python benchmarks/live_page.py --out docs/images``, or ``make screenshot``. It wants the machine to itself for a
minute, Chromium with its driver, and selenium (extra ``test-page``).
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from browser import chromium, prefer, why_not
from superserve.engine import EngineChoice
from superserve.experiments.children import ChildProcess
from superserve.experiments.server_process import running_server
from superserve.frontend.deployment import choose_profile
from superserve.model_folder import ModelFolder
from superserve.profile import LatencyTable
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine
from superserve.serving.cores import available_cores, plan_cores
from superserve.traces.arrivals import spikes
from superserve.traces.trace import Trace

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

MODEL: Final = "digits"
SECONDS: Final = 75.0
PERIOD_S: Final = 15.0
BURST_S: Final = 5.0
#: The page shows a minute: all of it is to be full.
SHOWN_S: Final = 58.0

#: Of what can be done: in calm by the most accurate subnet alone, one request at a time; in bursts by the fastest one.
CALM: Final = 0.5
BURST: Final = 0.6

SIZE: Final = (1440, 1500)
#: Pixels of the picture for each of the page.
SCALE: Final = 1.5


def load(table: LatencyTable, workers: int) -> Trace:
    """Calm and bursts, in proportion to what the machine can do."""
    calm = CALM * workers / (table.latency_ns[-1][1] / 1e9)
    burst = BURST * workers * table.max_rows / (table.latency_ns[0][table.max_rows] / 1e9)
    return spikes(calm, burst, PERIOD_S, BURST_S, 1.0, SECONDS, np.random.default_rng(0))


def picture(url: str, out: Path) -> None:
    """Look at what a minute has brought, draw a seven, and take the pictures."""
    time.sleep(SHOWN_S)  # the server remembers, and has the machine to itself meanwhile
    with chromium(width=SIZE[0], height=SIZE[1], scale=SCALE) as driver:
        driver.get(url)
        time.sleep(4)
        driver.execute_script("document.querySelector('.pad').focus()")
        driver.switch_to.active_element.send_keys("0")
        time.sleep(2)
        driver.execute_script("document.activeElement.blur()")
        for scheme in ("light", "dark"):
            _take(driver, scheme, out / f"live-{scheme}.png")


def _take(driver: "Chrome", scheme: str, file: Path) -> None:
    prefer(driver, scheme)
    time.sleep(0.5)
    driver.save_screenshot(str(file))
    print(file)


async def run(choice: EngineChoice, workers: int, offered: Trace, out: Path) -> None:
    """A server, a load and a browser."""
    with tempfile.TemporaryDirectory(prefix="superserve-page-") as name:
        scratch = Path(name)
        trace = scratch / "trace.npz"
        offered.save(trace)
        async with running_server(
            MODEL,
            policy=DEFAULT_POLICY,
            workers=workers,
            choice=choice,
            profile=None,
            log=scratch / "server.log",
        ) as server:
            replay = ["replay", str(trace), "--url", server.url, "--model", MODEL]
            async with ChildProcess("superserve", replay, log=scratch / "replay.log"):
                await asyncio.to_thread(picture, server.url, out)


def main() -> int:
    """Take the pictures; the exit status is 1 where there is no browser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the pictures go")
    options = parser.parse_args()
    reason = why_not()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    folder = ModelFolder.resolve(MODEL)
    choice = choose_engine(folder, "cpu", "auto", "auto")
    workers = len(plan_cores(available_cores()).workers)
    table = LatencyTable(choose_profile(folder, choice))  # measured now, if there is none: so before the event loop
    asyncio.run(run(choice, workers, load(table, workers), options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
