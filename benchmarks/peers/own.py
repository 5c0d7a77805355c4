"""SuperServe beside what is no peer: the model in process, its simulator, the bare gRPC library, another generator."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from peers.catalog import OURS, OURS_COMPILED, OURS_GRPC, PEERS
from peers.environments import NotInstallableError
from peers.figures import Cell, Compiled, Elastic, Own
from peers.generator import GeneratorError
from peers.jobs import CNN, CNN_MODEL, NOOP
from peers.measure import (
    DEADLINE_MS,
    Plan,
    Report,
    arrivals,
    awake,
    goodput_run,
    measure_noop,
    paused,
    saturations,
    send,
    whole,
)
from peers.processes import RunningServer, ServerError, running
from superserve.metrics import summarise
from superserve.model_folder import ModelFolder
from superserve.profiler import find_profile
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine
from superserve.serving.cores import available_cores, pinned
from superserve.serving.worker_environment import MALLOC_ENVIRONMENT, THREAD_ENVIRONMENT
from superserve.simulator import simulate
from superserve.traces.trace import Trace

#: Its log is not that of the other one.
ELASTIC: Final = replace(OURS, name="superserve-default", environ={"PEER_POLICY": "default"})
OVERLOAD: Final = 1.3
BURSTS: Final = 16
CONNECTIONS: Final = 64
#: The fastest of the peers in job (B).
RIVAL: Final = "mosec"


def measure_own(own: Own, plan: Plan, folder: Path, report: Report, keep: Callable[[Own], None]) -> None:
    """Every part of `Own` that it has no figures of yet; it is kept after each."""
    own.errors.clear()
    for missing, measure in (
        (not own.wrk, _against_wrk),
        (own.elastic is None or not own.elastic.live, _against_bounds),
        (own.compiled is None, _compiled),
        (not whole(own.grpc, own.grpc_bare), _against_bare_grpc),
    ):
        if not missing:
            continue
        try:
            measure(own, plan, folder, report)
        except (NotInstallableError, ServerError, GeneratorError, ValueError) as error:
            own.errors.append(str(error))
            report(own.errors[-1])
        keep(own)


def _against_wrk(own: Own, plan: Plan, folder: Path, report: Report) -> None:
    if shutil.which("wrk") is None:
        report("wrk is not installed: the generator is not cross-checked")
        return
    with paused([OURS], NOOP, folder) as (server,), awake(server):
        for _ in range(plan.saturation_rounds):
            own.generator.append(send(server, None, connections=CONNECTIONS, seconds=plan.saturation_s).rate())
            own.wrk.append(_wrk(server, plan.saturation_s))
            report(f"closed loop, {CONNECTIONS} connections: ours {own.generator[-1]:,.0f}/s, wrk {own.wrk[-1]:,.0f}/s")


def _against_bounds(own: Own, plan: Plan, folder: Path, report: Report) -> None:
    own.in_process.clear()
    own.served.clear()
    # What the elastic one answers is whichever subnet's it chose: only the fixed one's answer is checked.
    with (
        paused([OURS], CNN, folder) as (fixed,),
        running(ELASTIC, CNN, folder / f"{ELASTIC.name}-{CNN.name}.log") as elastic,
    ):
        elastic.pause()
        _against_in_process(own, fixed, plan, report)
        own.elastic = _against_simulator(fixed, elastic, median(own.served), plan, report)


def _compiled(own: Own, plan: Plan, folder: Path, report: Report) -> None:
    """Compiled code, in a cache of its own: the other servers find none and run eager torch."""
    peer = PEERS[RIVAL]
    cache = str((folder / "cache-compiled").resolve())
    ours = replace(OURS_COMPILED, environ={**OURS_COMPILED.environ, "SUPERSERVE_CACHE": cache})
    report("compiling")
    command = [sys.executable, "-m", "superserve", "compile", CNN_MODEL]
    subprocess.run(command, check=True, env=os.environ | {"SUPERSERVE_CACHE": cache}, stdout=subprocess.DEVNULL)
    eager, compiled = [], []
    with paused([ours, peer], CNN, folder) as servers:
        for _ in range(plan.saturation_rounds):
            eager.append(_in_process(plan.saturation_s, "eager"))
            compiled.append(_in_process(plan.saturation_s, "compiled", cache))
            report(f"in process, inside the supernet: eager {eager[-1]:,.0f}/s, compiled {compiled[-1]:,.0f}/s")
        served, theirs = saturations(servers, plan, report)
    own.compiled = Compiled(
        peer=RIVAL, served=served, theirs=theirs, eager_in_process=eager, compiled_in_process=compiled
    )


def _against_bare_grpc(own: Own, plan: Plan, folder: Path, report: Report) -> None:
    with paused([OURS_GRPC, PEERS["grpc"]], NOOP, folder) as servers:
        own.grpc, own.grpc_bare = measure_noop(servers, plan, report)


def _wrk(server: RunningServer, seconds: float) -> float:
    head, _, body = server.peer.message(server.job).partition(b"\r\n\r\n")
    request, *headers = head.decode().split("\r\n")
    lines = ['wrk.method = "POST"', f"wrk.body = {_lua(body)}"]
    for header in headers:
        name, _, value = header.partition(": ")
        if name not in {"Host", "Content-Length"}:
            lines.append(f'wrk.headers["{name}"] = "{value}"')
    url = f"http://127.0.0.1:{server.port}{request.split()[1]}"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script, pinned(available_cores()[-1]):
        script.write("\n".join(lines))
        script.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}", "-s", script.name, url]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if found is None or "Non-2xx" in said:
        raise GeneratorError(f"wrk said: {said}")
    return float(found[1])


def _lua(data: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'


def _against_in_process(own: Own, server: RunningServer, plan: Plan, report: Report) -> None:
    for _ in range(plan.saturation_rounds):
        server.pause()
        own.in_process.append(_in_process(plan.saturation_s))
        with awake(server):
            own.served.append(send(server, None, connections=CONNECTIONS, seconds=plan.saturation_s).rate())
        report(f"the CNN in process: {own.in_process[-1]:,.0f} images/s, served: {own.served[-1]:,.0f}/s")


def _in_process(seconds: float, kind: str = "extracted", cache: str | None = None) -> float:
    """Images per second of the subnet on the servers' core, full batches one after the other."""
    environment = os.environ | MALLOC_ENVIRONMENT | THREAD_ENVIRONMENT
    if cache is not None:
        environment["SUPERSERVE_CACHE"] = cache
    with pinned(available_cores()[0]):
        command = [sys.executable, "-m", "peers.in_process", str(seconds), kind]
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=seconds + 60, env=environment
        ).stdout
    return float(said)


def _against_simulator(
    fixed: RunningServer, elastic: RunningServer, saturation: float, plan: Plan, report: Report
) -> Elastic:
    folder = ModelFolder.resolve(CNN_MODEL)
    profile = find_profile(folder, choose_engine(folder))
    assert profile is not None, "one was made at the start"
    found = Elastic(policy=DEFAULT_POLICY, rate=OVERLOAD * saturation, live=[], simulated=[], fixed=[])
    cells = [Cell(cv2=BURSTS, load=OVERLOAD, goodput=[], p99_ms=[], late_ms=[]) for _ in range(2)]
    for number in range(plan.goodput_rounds):
        for server, cell in zip((elastic, fixed), cells, strict=True):
            goodput_run(server, cell, saturation, plan, seed=number, report=report)
        trace = Trace("overload", arrivals(found.rate, BURSTS, plan.goodput_s, number))
        log = simulate(trace, profile, policy=found.policy, workers=1, slo_ms=DEADLINE_MS, seed=number)
        row = summarise(log, policy=found.policy, trace="overload", seed=number, workers=1, slo_ms=DEADLINE_MS)
        found.simulated.append(row.slo_attainment)
        report(f"the default policy, simulated: {row.slo_attainment:.3f}")
    found.live, found.fixed = cells[0].goodput, cells[1].goodput
    return found
