"""Commands around a running server: demo, serve, replay, config."""

import gc
import os
from pathlib import Path
from typing import Annotated

import typer

from superserve.cli.base import (
    CaFile,
    Device,
    DtypeWish,
    EngineWish,
    JsonFile,
    ModelNames,
    Seed,
    SloMs,
    TraceFile,
    app,
    err,
    out,
    progress_bar,
)

config_app = typer.Typer(help="Look at the server's configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="Length of the load, per policy.")] = 20.0,
    seed: Seed = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one per core left.")] = None,
    device: Device = "cpu",
    engine: EngineWish = "auto",
    dtype: DtypeWish = "auto",
    cv2: Annotated[float, typer.Option(min=0.0, help="Burstiness: squared variation of the gaps.")] = 2.0,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the report goes.")] = Path("demo-report"),
    json_file: JsonFile = None,
) -> None:
    """Serve the bundled supernet through a burst, next to what fixed models do under the same load."""
    from superserve.experiments.demo import DemoOptions, run_demo
    from superserve.model_folder import write_json

    options = DemoOptions(
        seconds=seconds, seed=seed, workers=workers, device=device, engine=engine, dtype=dtype, cv2=cv2, out=folder
    )
    report = run_demo(options, out)
    if json_file is not None:
        write_json(json_file, report)
    if report.void:
        raise typer.Exit(1)


@app.command()
def serve(
    models: ModelNames = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    http_port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="gRPC port; 0 takes a free one; default: 8001 if that is free.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port for Prometheus; 0 takes a free one; default: 8002 if that is free.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; default: one per core left.")] = None,
    pool: Annotated[str | None, typer.Option(help="local, or ray: workers on the nodes of a Ray cluster.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Head of the Ray cluster; default: this machine's.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Scheduling policy, e.g. slackfit or fixed:largest.")] = None,
    slo_ms: SloMs = None,
    timeout_action: Annotated[
        str | None, typer.Option(help="What becomes of hopeless requests: reject or delay.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, on Ray also cuda,cpu; or emulated:PROFILE[,PROFILE...], which workers have in turns."
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="eager, compiled, packed, graphs (on cuda), or auto.")] = None,
    engine_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What packed subnets may take, e.g. 200MB, or all; default: one largest."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, int8, or auto.")] = None,
    profile: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Profile to plan with; once for each device that workers run on."),
    ] = None,
    model_repository: Annotated[
        str | None, typer.Option(metavar="DIR", help="Clients may load models from here, and unload any.")
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Record arrivals and outcomes here, for `superserve simulate DIR`."),
    ] = None,
    otel_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Send traces to this OpenTelemetry collector (OTLP over HTTP).")
    ] = None,
    otel_sampled: Annotated[
        float | None, typer.Option(help="Share of requests that are traced unless their client says; default: 0.01.")
    ] = None,
    ledger: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of degraded requests, to run again in idle time: see `superserve ledger`."),
    ] = None,
    reprofile: Annotated[
        bool | None,
        typer.Option("--reprofile", help="Clients may have profiles measured again: see `superserve reprofile`."),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console, or json: an object a line.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML configuration.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Written with the URL and process id once ready.")
    ] = None,
) -> None:
    """Serve models over the Open Inference Protocol until told to stop."""
    from superserve.cli.logs import log_to_stderr
    from superserve.frontend.deployment import deploy
    from superserve.frontend.server import serve_models
    from superserve.serving.config import resolve

    flags = {
        "server.host": host,
        "server.http_port": http_port,
        "server.grpc_port": grpc_port,
        "server.metrics_port": metrics_port,
        "workers.count": workers,
        "workers.pool": pool,
        "workers.ray_address": ray_address,
        "workers.device": device,
        "workers.engine": engine,
        "workers.engine_memory": engine_memory,
        "workers.dtype": dtype,
        "repository.folder": model_repository,
        "record.folder": record,
        "otel.endpoint": otel_endpoint,
        "otel.sampled": otel_sampled,
        "ledger.share": ledger,
        "idle.reprofile": reprofile,
        "server.log_format": log_format,
        "model.policy": policy,
        "model.slo_ms": slo_ms,
        "model.timeout_action": timeout_action,
    }
    settings = resolve(flags, os.environ, config).config
    log_to_stderr(settings.server.log_format)
    with progress_bar("profile") as advance:
        deployments = deploy(models or (), settings, profile or (), advance)
    serve_models(deployments, settings, ready_file=ready_file)


@app.command()
def replay(
    trace: TraceFile,
    url: Annotated[str, typer.Option(help="The server, e.g. http://127.0.0.1:8000.")],
    model: Annotated[str, typer.Option(help="Name under which the server has the model.")],
    slo_ms: SloMs = None,
    seed: Seed = 0,
    json_file: JsonFile = None,
    ca_file: CaFile = "",
) -> None:
    """Send a trace's requests to a server on schedule, whatever it answers, and report what came of them.

    A bearer token is taken from the environment, SUPERSERVE_TOKEN: command lines are for everybody to see.
    """
    import uvloop

    from superserve.client.replay import replay_trace
    from superserve.client.replay_process import allow_many_connections
    from superserve.metrics import summarise
    from superserve.tables import print_results, write_rows
    from superserve.traces.readers.segments import load_trace

    loaded = load_trace(trace)
    allow_many_connections()
    gc.freeze()  # a collection over everything imported would pause the schedule
    with progress_bar("replay") as advance:
        token = os.environ.get("SUPERSERVE_TOKEN", "")
        result = uvloop.run(
            replay_trace(
                loaded, url, model, slo_ms=slo_ms, seed=seed, on_progress=advance, token=token, ca_file=ca_file
            )
        )
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


@config_app.command("show")
def config_show(
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML configuration.")] = None,
) -> None:
    """Print every setting of `serve` with its value and where that came from."""
    from superserve.serving.config import resolve
    from superserve.tables import print_table

    resolved = resolve({}, os.environ, config)
    rows = [[key, str(value), resolved.provenance[key]] for key, value in resolved.values.items()]
    print_table(out, "Configuration", ("key", "value", "from"), rows)
