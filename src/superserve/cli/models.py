"""Commands that make models and say how accurate they are: train, import, compile, pack, search, evaluate."""

from pathlib import Path
from typing import Annotated, Any

import typer

from superserve.cli.base import (
    DataFolder,
    DtypeWish,
    EngineWish,
    JsonFile,
    ModelName,
    Seed,
    app,
    end_on_sigterm,
    err,
    out,
    progress_bar,
)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="What to train: digits, cifar10 or intents.")],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder to write.")],
    data: DataFolder = None,
    seed: Seed = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training data.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Training processes of one thread each; default: the recipe's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the model folder.")] = False,
    backbone: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="intents: start from a BERT as Hugging Face lays it out, with its vocab.txt."),
    ] = None,
) -> None:
    """Train a supernet, choose its Pareto front and write the model folder."""
    from superserve.training.options import TrainOptions
    from superserve.training.recipes import recipe as find_recipe

    chosen = find_recipe(recipe)
    options = TrainOptions(
        out=folder, data=data, seed=seed, epochs=epochs, processes=processes, resume=resume, backbone=backbone
    )
    with progress_bar("train") as advance:

        def report(step: Any) -> None:  # noqa: ANN401 (typing it would import the library for --help)
            advance(step.done, step.total, step.phase)
            if step.note is not None:
                err.print(step.note, highlight=False, soft_wrap=True, markup=False)

        trained = chosen.train(options, report)
    _print_front(trained.path)


@app.command("import")
def import_checkpoint(
    family: Annotated[
        str,
        typer.Argument(help="ofa_resnet50, ofa_mobilenet_v3, ofa_proxyless, dynabert, dynabert_roberta or autoformer."),
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="MODEL", help="The model folder to write.")],
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file by torch.save or safetensors.")
    ] = None,
    source_folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="A Hugging Face folder: config.json and weights.")
    ] = None,
    download: Annotated[str | None, typer.Option(metavar="VARIANT", help="Fetch a published variant.")] = None,
    calibrate_with: Annotated[
        Path | None, typer.Option(metavar="DATA", help="Training examples for the statistics of each subnet.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DATA", help="Labelled examples to measure accuracy on.")] = None,
    subnets: Annotated[
        str, typer.Option(metavar="N|FILE", help="How many to serve, or the file that lists them.")
    ] = "6",
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Read a public supernet checkpoint, recalibrate its statistics and write a model folder."""
    from superserve.model_folder import write_json
    from superserve.supernet.importing.importer import Source, import_model

    with progress_bar("import") as advance:
        report = import_model(
            family,
            Source(checkpoint=checkpoint, folder=source_folder, download=download),
            folder,
            calibrate_with=calibrate_with,
            data=data,
            subnets=int(subnets) if subnets.isdecimal() else Path(subnets),
            seed=seed,
            report=lambda phase, done, total: advance(done, total, phase),
        )
    for line in report.lines():
        out.print(line, highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, report)


@app.command("compile")
def compile_subnets(
    model: ModelName,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time; default: one per core.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compile even what is kept already.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Compile each subnet for this machine; serving uses the result by default. Needs a C++ compiler."""
    from superserve.model_folder import ModelFolder, write_json
    from superserve.supernet.compile import compile_model
    from superserve.tables import print_table

    with end_on_sigterm(), progress_bar("compile") as advance:
        compiled = compile_model(ModelFolder.resolve(model), dtype=dtype, jobs=jobs, force=force, report=advance)
    rows = [
        [subnet.id, subnet.seconds, f"{subnet.error:.1e}", f"{subnet.full_batch_us / 1000:.2f}"]
        for subnet in compiled.build.subnets
    ]
    columns = ("subnet", "seconds to compile", "difference from eager float32", "largest batch, ms")
    print_table(out, f"Compiled code of {model}, {dtype}", columns, rows)
    out.print(
        f"{'kept' if compiled.fresh else 'was there already:'} in {compiled.path}", highlight=False, soft_wrap=True
    )
    if json_file is not None:
        write_json(json_file, compiled.build)


@app.command()
def pack(
    model: ModelName,
    dtype: DtypeWish = "auto",
    runtimes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Static runtimes to try subnets on, too: onnxruntime,openvino or none; default: what is installed.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="For int8: examples to fit it to and check it on, an .npz with inputs and labels, or a folder of data "
            "sets. Kept for later; implies --force. Default: those kept, else a part of the model's own test data.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Pack even what is kept already.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Pack each subnet for this machine ahead of time; else `serve --engine packed` does so for those that are used."""
    from superserve.cli.examples import fitted_to, keep_for_int8
    from superserve.engine import INT8
    from superserve.memory_sizes import told
    from superserve.model_folder import ModelFolder
    from superserve.serving.choice import choose_engine
    from superserve.serving.residency.pack_ahead import pack_model
    from superserve.supernet.runtimes.installed import chosen
    from superserve.supernet.weights_file import weights_nbytes
    from superserve.tables import print_table, write_rows

    folder = ModelFolder.resolve(model)
    choice = choose_engine(folder, engine="packed", dtype=dtype)
    if data is not None:
        keep_for_int8(folder, data, choice.dtype)
        force = True
    names = None if runtimes is None else [name for name in runtimes.split(",") if name != "none"]
    with end_on_sigterm(), progress_bar("pack") as advance:
        ahead = pack_model(folder, choice, runtimes=[*chosen(names, choice.dtype)], force=force, report=advance)
    rows = [
        [
            record.subnet,
            told(record.nbytes),
            told(record.nbytes_each),
            record.seconds,
            *(f"{record.ratios[place]:.2f}" for place in (0, -1)),
            _runs(record, choice.fallback),
        ]
        for record in ahead.records.values()
    ]
    columns = (
        "subnet",
        "beside the weights",
        "in each worker",
        "seconds to pack",
        f"time over {choice.fallback}'s, one row",
        "largest batch",
        "rows, and what runs them",
    )
    print_table(out, f"Packed subnets of {model}, {choice.dtype}", columns, rows)
    if choice.dtype == INT8:
        out.print(fitted_to(folder), highlight=False, soft_wrap=True)
    for name, reason in ahead.refused.items():
        err.print(f"not packed, and left to {choice.fallback}: {name}: {reason}")
    for (name, reason), subnets in _left(ahead.records.values()).items():
        err.print(f"not run on {name}: {', '.join(subnets)}: {reason}", highlight=False, soft_wrap=True)
    weights = weights_nbytes(folder, choice.dtype)
    write_rows(json_file, rows=[*ahead.records.values()], refused=ahead.refused, weights_bytes=weights)


@app.command()
def search(
    model: ModelName,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model folder to write.")],
    data: DataFolder = None,
    budget: Annotated[int, typer.Option(min=1, help="Subnets to measure at most.")] = 300,
    subnets: Annotated[int, typer.Option(min=2, help="Subnets of the front to serve at most.")] = 10,
    levers: Annotated[
        bool,
        typer.Option(
            "--levers/--no-levers", help="Measure, in turns with what NSGA-II breeds, steps of levers that pay."
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the search, and the one that the model was trained with.")] = 0,
    json_file: JsonFile = None,
) -> None:
    """Search a trained model's space for a better front; goes on where it was stopped."""
    from superserve.errors import ConfigError
    from superserve.model_folder import ModelFolder, write_json
    from superserve.training.recipes import recipe
    from superserve.training.searching import SearchOptions, search_model

    source = ModelFolder.resolve(model)
    if data is None:
        raise ConfigError("--data: a search measures on the data of the model's recipe (or set SUPERSERVE_DATA)")
    options = SearchOptions(out=folder, budget=budget, subnets=subnets, levers=levers, seed=seed)
    with progress_bar("search") as advance:
        result = search_model(
            source,
            recipe(source.config.name).parts(data, seed),
            options,
            lambda step: advance(step.done, step.total, step.phase),
        )
    _print_front(folder)
    out.print(f"{result.measured:,} of {result.space:,} subnets measured", highlight=False)
    for one in result.properties:
        verdict = "holds" if one.holds else "does not hold"
        out.print(f"{one.name} {verdict}: {one.claim} ({one.found})", highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, result)


@app.command()
def evaluate(
    model: ModelName,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            envvar="SUPERSERVE_DATA",
            help="An .npz with inputs and labels, or a folder of data sets; default: the model's own test data.",
        ),
    ] = None,
    subnet: Annotated[list[str] | None, typer.Option(help="Subnets to measure; default: all.")] = None,
    engine: EngineWish = "auto",
    dtype: DtypeWish = "auto",
    json_file: JsonFile = None,
) -> None:
    """Measure the accuracy of subnets against labels, and what an engine loses of it against eager float32.

    Both are remembered for this machine: an engine and dtype that loses more than 0.1 points is not served any more.
    int8 is measured on what it was not fitted to.
    """
    from superserve.cli.examples import keep_if_there_are_none, measured_on
    from superserve.model_folder import ModelFolder
    from superserve.serving.choice import choose_engine
    from superserve.serving.evaluation import evaluate_choice
    from superserve.tables import print_table, write_rows

    folder = ModelFolder.resolve(model)
    choice = choose_engine(folder, engine=engine, dtype=dtype)
    keep_if_there_are_none(folder, data, choice.dtype)
    examples = measured_on(folder, data, choice.dtype)
    with progress_bar("evaluate") as advance:
        found = evaluate_choice(folder, choice, examples, subnets=subnet, report=advance)
    cells = [
        [row.subnet, row.accuracy, f"{row.ci95[0]:.2f}-{row.ci95[1]:.2f}", row.n, row.lost_points] for row in found.rows
    ]
    columns = ("subnet", "accuracy %", "95 % interval", "examples", "points lost to eager float32")
    print_table(out, f"Accuracy of {model}, {choice}", columns, cells)
    for reason in found.refused:
        err.print(f"not served from now on: {reason}", highlight=False, soft_wrap=True, markup=False)
    write_rows(json_file, rows=found.rows)


def _runs(record: Any, behind: str) -> str:  # noqa: ANN401 (typing it would import the library for --help)
    """What runs a packed subnet's batches, by their rows."""
    by_name: dict[str, list[int]] = {}
    for rows in record.batches:
        by_name.setdefault(record.module(rows) or behind, []).append(rows)
    return ", ".join(f"{' '.join(map(str, rows))} {name}" for name, rows in by_name.items())


def _left(records: Any) -> dict[tuple[str, str], list[str]]:  # noqa: ANN401 (as above)
    """The subnets that do not run on a static runtime which they were tried on, by its name and the reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for why in record.left.items():
            found.setdefault(why, []).append(record.subnet)
    return found


def _print_front(folder: Path) -> None:
    from superserve.model_folder import ModelFolder
    from superserve.tables import print_table

    front = ModelFolder(folder).front
    rows = [[record.id, record.accuracy, record.test_accuracy, record.macs] for record in front.subnets]
    print_table(out, f"Front of {folder}", ("subnet", "validation %", "test %", "MACs"), rows)
