"""The command line: every command in one file, each a thin call of the library.

Exit codes: 0 done, 1 failed, 2 usage. Commands import what they run when they run, so that ``--help`` is quick.
"""

import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from superserve import __version__
from superserve.errors import ConfigError, SuperServeError, UsageError

app = typer.Typer(
    name="superserve",
    help="Serve a weight-shared supernet: for every batch the most accurate subnet that the deadlines allow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
trace_app = typer.Typer(help="Make and look at arrival traces.", no_args_is_help=True)
config_app = typer.Typer(help="Look at the server's configuration.", no_args_is_help=True)
app.add_typer(trace_app, name="trace")
app.add_typer(config_app, name="config")

out = Console()
err = Console(stderr=True)

#: Share of the time that a profiled worker may wait for its core before the profile is called doubtful.
BUSY_MACHINE = 0.05

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or the name of a bundled model.")]
SloMs = Annotated[float | None, typer.Option(min=0.001, help="Deadline of each request, milliseconds from arrival.")]
Device = Annotated[str, typer.Option(help="cpu, or emulated:PROFILE for workers that only pretend.")]


def main() -> None:
    """Run the command line; the console script."""
    try:
        _require_platform()
        app()
    except UsageError as error:
        err.print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SuperServeError as error:
        err.print(f"[bold red]failed:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Options of the program itself."""
    if version:
        out.print(__version__)
        raise typer.Exit


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="Length of the load, per policy.")] = 20.0,
    seed: Seed = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one per core left.")] = None,
    device: Device = "cpu",
    cv2: Annotated[float, typer.Option(min=0.0, help="Burstiness: squared variation of the gaps.")] = 2.0,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the report goes.")] = Path("demo-report"),
    json_file: JsonFile = None,
) -> None:
    """Serve the bundled supernet through a burst, next to what fixed models do under the same load."""
    from superserve.experiments.demo import DemoOptions, run_demo
    from superserve.model_folder import write_json

    options = DemoOptions(seconds=seconds, seed=seed, workers=workers, device=device, cv2=cv2, out=folder)
    report = run_demo(options, out)
    if json_file is not None:
        write_json(json_file, report)
    if report.void:
        raise typer.Exit(1)


@app.command()
def serve(
    model: ModelName,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    http_port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; default: one per core left.")] = None,
    policy: Annotated[str | None, typer.Option(help="Scheduling policy, e.g. slackfit or fixed:largest.")] = None,
    slo_ms: SloMs = None,
    timeout_action: Annotated[
        str | None, typer.Option(help="What becomes of hopeless requests: reject or delay.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or emulated:PROFILE.")] = None,
    profile: Annotated[Path | None, typer.Option(metavar="FILE", help="Profile to plan with.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML configuration.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Written with the URL and process id once ready.")
    ] = None,
) -> None:
    """Serve a model over the Open Inference Protocol until told to stop."""
    from superserve.frontend.server import choose_profile, serve_model
    from superserve.model_folder import ModelFolder
    from superserve.serving.config import resolve

    flags = {
        "server.host": host,
        "server.http_port": http_port,
        "workers.count": workers,
        "workers.device": device,
        "model.policy": policy,
        "model.slo_ms": slo_ms,
        "model.timeout_action": timeout_action,
    }
    settings = resolve(flags, os.environ, config).config
    folder = ModelFolder.resolve(model)
    _log_to_stderr()
    with _bar("profile") as advance:
        planned = choose_profile(folder, settings, profile, advance)
    serve_model(folder, settings, planned, ready_file=ready_file)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="What to train: digits.")],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder to write.")],
    seed: Seed = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
) -> None:
    """Train a supernet, choose its Pareto front and write the model folder."""
    from superserve.training.digits import train_digits

    if recipe != "digits":
        raise ConfigError(f"recipe {recipe!r} is unknown; known: digits")
    with _bar("train") as advance:
        trained = train_digits(
            folder, seed=seed, epochs=epochs, report=lambda step: advance(step.done, step.total, step.phase)
        )
    _print_front(trained.path)


@app.command()
def profile(
    model: ModelName,
    quick: Annotated[bool, typer.Option("--quick", help="About 10 s instead of about 75.")] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Measure how long each subnet takes at each batch size on this machine, and keep it."""
    from superserve.model_folder import ModelFolder, write_json
    from superserve.profiler import measure, save_profile

    folder = ModelFolder.resolve(model)
    with _bar("profile") as advance:
        measured = measure(
            folder,
            quick=quick,
            device=device,
            seed=seed,
            report=lambda step: advance(step.done, step.total, step.stage),
        )
    _print_profile(measured.profile)
    for violation in measured.violations:
        err.print(f"repaired: {violation}", highlight=False)
    if measured.worker_waited is not None and measured.worker_waited > BUSY_MACHINE:
        err.print(
            f"[bold red]doubtful:[/] other processes had the worker's core {measured.worker_waited:.0%} of the time; "
            "measure again when the machine is idle"
        )
    if device == "cpu":
        out.print(f"kept in {save_profile(folder, measured.profile)}", highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, measured.profile)


@app.command()
def evaluate(
    model: ModelName,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An .npz with inputs and labels; default: bundled test data.")
    ] = None,
    subnet: Annotated[list[str] | None, typer.Option(help="Subnets to measure; default: all.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure the accuracy of subnets against labels."""
    from superserve.evaluate import evaluate as measure_accuracy
    from superserve.model_folder import ModelFolder, load_examples
    from superserve.supernet.engine import EagerEngine
    from superserve.tables import print_table, write_rows

    folder = ModelFolder.resolve(model)
    inputs, labels = folder.test_data() if data is None else load_examples(data)
    with _bar("evaluate") as advance:
        rows = measure_accuracy(
            EagerEngine.load(folder),
            inputs,
            labels,
            subnets=subnet,
            batch_size=folder.config.max_batch_size,
            report=advance,
        )
    cells = [[row.subnet, row.accuracy, f"{row.ci95[0]:.2f}-{row.ci95[1]:.2f}", row.n] for row in rows]
    print_table(out, f"Accuracy of {model}", ("subnet", "accuracy %", "95 % interval", "examples"), cells)
    write_rows(json_file, rows=rows)


@app.command()
def models(json_file: JsonFile = None) -> None:
    """List the models that come with the package."""
    from superserve.model_folder import ModelFolder, bundled_models
    from superserve.tables import print_table, write_rows

    folders = [ModelFolder(path, bundled=True) for path in bundled_models().values()]
    rows = [
        {
            "name": folder.config.name,
            "task": folder.config.task,
            "dataset": folder.config.dataset,
            "subnets": [
                {"id": record.id, "accuracy": record.accuracy, "test_accuracy": record.test_accuracy}
                for record in folder.front.subnets
            ],
        }
        for folder in folders
    ]
    columns = ("name", "task", "data", "subnets", "test accuracy %")
    print_table(out, "Bundled models", columns, [_model_cells(folder) for folder in folders])
    write_rows(json_file, models=rows)


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A canonical trace (.npz).")],
    url: Annotated[str, typer.Option(help="The server, e.g. http://127.0.0.1:8000.")],
    model: Annotated[str, typer.Option(help="Name under which the server has the model.")],
    slo_ms: SloMs = None,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Send a trace's requests to a server on schedule, whatever it answers, and report what came of them."""
    import uvloop

    from superserve.client.replay import replay_trace
    from superserve.client.replay_process import allow_many_connections
    from superserve.metrics import summarise
    from superserve.tables import print_results, write_rows
    from superserve.traces.trace import Trace

    loaded = Trace.load(trace)
    allow_many_connections()
    gc.freeze()  # a collection over everything imported would pause the schedule
    with _bar("replay") as advance:
        result = uvloop.run(replay_trace(loaded, url, model, slo_ms=slo_ms, seed=seed, on_progress=advance))
    row = summarise(
        result.log,
        policy="live",
        trace=loaded.name,
        seed=seed,
        workers=0,
        slo_ms=slo_ms or 0.0,
        emulated=result.emulated,
    )
    print_results(out, f"{loaded.name} against {url}: {row.offered} requests", [row])
    out.print(f"p99 send lateness {result.p99_lateness_ms:.2f} ms, sender used {result.cpu_share:.0%} of a core")
    write_rows(json_file, rows=[row])
    if result.void_reason is not None:
        err.print(f"[bold red]void:[/] {result.void_reason}")
        raise typer.Exit(1)


@app.command()
def simulate(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A canonical trace (.npz).")],
    profile: Annotated[str, typer.Option(metavar="FILE|r-profile", help="Profile to plan with and draw from.")],
    slo_ms: Annotated[float, typer.Option(min=0.001, help="Deadline of each request, milliseconds from arrival.")],
    policy: Annotated[str, typer.Option(help="Scheduling policy.")] = "slackfit",
    workers: Annotated[int, typer.Option(min=1, help="Identical workers.")] = 1,
    overhead_ms: Annotated[float | None, typer.Option(min=0.0, help="Per batch; default: the profile's.")] = None,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Play a trace through the server's own scheduler in virtual time."""
    from superserve.metrics import summarise
    from superserve.profile import Profile
    from superserve.simulator import simulate as run
    from superserve.tables import print_results, write_rows
    from superserve.traces.trace import Trace

    loaded = Trace.load(trace)
    log = run(
        loaded,
        Profile.load(profile),
        policy=policy,
        workers=workers,
        slo_ms=slo_ms,
        overhead_ms=overhead_ms,
        seed=seed,
    )
    row = summarise(log, policy=policy, trace=loaded.name, seed=seed, workers=workers, slo_ms=slo_ms)
    print_results(out, f"{loaded.name}, simulated: {row.offered} requests, {workers} workers", [row])
    write_rows(json_file, rows=[row])


@trace_app.command("make")
def trace_make(
    kind: Annotated[str, typer.Argument(help="poisson, gamma or bursty (steady base plus gamma).")],
    path: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .npz to write.")],
    rate: Annotated[float, typer.Option(min=0.0, help="Requests per second (of the gamma part).")],
    base_rate: Annotated[float, typer.Option(min=0.0, help="bursty: evenly spaced requests per second.")] = 0.0,
    cv2: Annotated[float, typer.Option(min=0.0, help="Squared coefficient of variation of the gaps.")] = 1.0,
    seconds: Annotated[float, typer.Option(help="Length.")] = 60.0,
    seed: Seed = 0,
) -> None:
    """Make a synthetic trace."""
    import numpy as np

    from superserve.traces import arrivals

    rng = np.random.default_rng(seed)
    makers: dict[str, Callable[[], Any]] = {
        "poisson": lambda: arrivals.poisson(rate, seconds, rng),
        "gamma": lambda: arrivals.gamma(rate, cv2, seconds, rng),
        "bursty": lambda: arrivals.base_plus_gamma(base_rate, rate, cv2, seconds, rng),
    }
    if kind not in makers:
        raise ConfigError(f"trace kind {kind!r} is unknown; known: {', '.join(makers)}")
    trace = makers[kind]()
    trace.save(path)
    out.print(f"{path}: {len(trace)} arrivals in {trace.duration_s:.1f} s", highlight=False, soft_wrap=True)


@trace_app.command("show")
def trace_show(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A canonical trace (.npz).")], json_file: JsonFile = None
) -> None:
    """Print a trace's statistics."""
    from superserve.tables import print_table, write_rows
    from superserve.traces.statistics import statistics
    from superserve.traces.trace import Trace

    trace = Trace.load(path)
    rows = statistics(trace)
    columns = ("bin s", "mean rate", "peak rate", "peak / mean", "index of dispersion")
    cells = [[row.bin_s, row.mean_rate, row.peak_rate, row.peak_to_mean, row.dispersion] for row in rows]
    print_table(out, f"{trace.name}: {len(trace)} arrivals in {trace.duration_s:.1f} s", columns, cells)
    write_rows(json_file, rows=rows)


@config_app.command("show")
def config_show(
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML configuration.")] = None,
) -> None:
    """Print every setting of `serve` with its value and where that came from."""
    import msgspec

    from superserve.serving.config import resolve
    from superserve.tables import print_table

    resolved = resolve({}, os.environ, config)
    tree = msgspec.to_builtins(resolved.config)
    rows = []
    for key, source in resolved.provenance.items():
        section, _, field = key.partition(".")
        rows.append([key, str(tree[section][field]), source])
    print_table(out, "Configuration", ("key", "value", "from"), rows)


@contextmanager
def _bar(label: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, driven by calls of (done, total, label)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(label, total=None, visible=False)

        def advance(done: float, total: float, description: str = label) -> None:
            progress.update(task, completed=done, total=total, description=description, visible=True)

        yield advance


def _print_profile(measured: Any) -> None:  # noqa: ANN401  (typing it would import the library for --help)
    from superserve.tables import print_table

    columns = ("subnet", "accuracy %", *(f"batch {size}" for size in measured.batches))
    rows = [
        [subnet.id, subnet.accuracy, *(f"{p50 / 1000:.2f} / {p95 / 1000:.2f}" for p50, p95 in _quantiles(subnet))]
        for subnet in measured.subnets
    ]
    print_table(out, f"p50 / p95 in ms on {measured.device.name}, one thread", columns, rows)
    out.print(f"dispatch overhead (p95): {measured.dispatch_overhead_us / 1000:.2f} ms", highlight=False)


def _quantiles(subnet: Any) -> Iterator[tuple[float, float]]:  # noqa: ANN401  (as above)
    return zip(subnet.p50_us, subnet.p95_us, strict=True)


def _print_front(folder: Path) -> None:
    from superserve.model_folder import ModelFolder
    from superserve.tables import print_table

    front = ModelFolder(folder).front
    rows = [[record.id, record.accuracy, record.test_accuracy, record.macs] for record in front.subnets]
    print_table(out, f"Front of {folder}", ("subnet", "validation %", "test %", "MACs"), rows)


def _model_cells(folder: Any) -> list[Any]:  # noqa: ANN401  (as above)
    tested = [record.test_accuracy for record in folder.front.subnets if record.test_accuracy is not None]
    span = f"{min(tested):.1f} - {max(tested):.1f}" if tested else "-"
    config = folder.config
    return [config.name, config.task, config.dataset, len(folder.front.subnets), span]


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _require_platform() -> None:
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in {"x86_64", "aarch64"}:
        raise ConfigError(
            f"SuperServe runs on Linux on x86-64 or arm64 (it shares memory between processes by memfd); "
            f"this is {system} on {machine}. A Linux container or virtual machine on this computer will do."
        )


def _plain(error: Exception) -> str:
    return str(error).replace("[", r"\[")
