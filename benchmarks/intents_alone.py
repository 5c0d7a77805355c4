"""What sharing weights costs the bundled intents model: its largest subnet trained alone, by the same plan.

    python benchmarks/intents_alone.py --data DIR --out DIR [--epochs N] [--resume]

The smallest, the middle and the largest subnet that progress names are one and the same here.
"""

import argparse
from pathlib import Path

from superserve.evaluate import evaluate
from superserve.supernet.engine import EagerEngine
from superserve.training.front import batch_latency_ms
from superserve.training.intents import alone, default_plan, scratch_config
from superserve.training.intents_corpus import INPUT, load_corpus
from superserve.training.intents_model import training_job
from superserve.training.options import TrainOptions
from superserve.training.publish import Measurer
from superserve.training.trainer import Progress, train


def report(progress: Progress) -> None:
    """Say how each epoch went."""
    if progress.epoch is not None:
        print(progress.epoch.line(), flush=True)


def main() -> None:
    """Train, and measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--epochs", type=int, help="passes over the training texts; default: the recipe's")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    args = parser.parse_args()
    corpus = load_corpus(args.data, 0)
    config = alone(scratch_config(corpus))
    plan = default_plan(TrainOptions(out=args.out, epochs=args.epochs))
    trained = train(training_job(args.data, args.out, plan, config), resume=args.resume, report=report)
    measurer = Measurer(trained.network, config, corpus.parts.train.head(0), batch_latency_ms(INPUT))
    engine = EagerEngine(measurer.supernet({"alone": trained.network.space.largest()}))
    for name, split in (("validation", corpus.parts.validate), ("test", corpus.parts.test)):
        (row,) = evaluate(engine, split.inputs, split.labels, batch_size=100)
        print(f"{name}: {row.accuracy:.2f} % ({row.ci95[0]:.2f}-{row.ci95[1]:.2f}), {row.n} texts")


if __name__ == "__main__":
    main()
